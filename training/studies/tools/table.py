"""The table of tools. Their names are those of the table in model_cards/README.md."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from training.edge.formats import FORMATS
from training.edge.towers import TOWERS
from training.hub.layouts.table import LAYOUTS
from training.studies.tools import python_tools, runtimes
from training.studies.tools.encoder import Encoder, Tool

Open = Callable[[Path, str], Encoder]
BOTH = ("fp32", "int8")
OPEN_CLIP = ("open_clip/open_clip_config.json",)


def _plain(name: str, packages: Sequence[str], module: str, opener: Open, files: Sequence[str] = ()) -> Tool:
    """A tool that runs fp32 only."""
    return Tool(name=name, packages=tuple(packages), modules=(module,), files={"fp32": tuple(files)}, open=opener)


def _exported(format_name: str) -> dict[str, tuple[str, ...]]:
    """The files of both towers in fp32 and int8."""
    entry = FORMATS[format_name]
    return {variant: tuple(f"{format_name}/{entry.file_name(tower, variant)}" for tower in TOWERS) for variant in BOTH}


REFERENCE = _plain("transformers", ["transformers"], "transformers", python_tools.Transformers)
PILLOW = _plain(
    "transformers, Pillow", ["transformers"], "transformers", partial(python_tools.Transformers, backend="pil")
)
REFERENCES = (REFERENCE, PILLOW)
TOOLS = [
    _plain(
        "sentence-transformers",
        ["sentence-transformers"],
        "sentence_transformers",
        python_tools.SentenceTransformers,
    ),
    _plain("Haystack", ["haystack-ai"], "haystack_integrations", python_tools.Haystack),
    _plain("LlamaIndex", ["llama-index-core"], "llama_index", python_tools.LlamaIndex),
    _plain("mteb", ["mteb"], "mteb", python_tools.Mteb),
    _plain("Daft", ["daft"], "daft", python_tools.Daft),
    _plain("Daft, decoded by Pillow", ["daft"], "daft", python_tools.DaftOfPillow),
    Tool(
        name="fastembed, Qdrant",
        packages=("fastembed", "qdrant-client"),
        modules=("fastembed", "qdrant_client"),
        variants=BOTH,
        files=_exported("onnx"),
        open=python_tools.Fastembed,
    ),
    _plain("open_clip", ["open-clip-torch"], "open_clip", python_tools.OpenClip, OPEN_CLIP),
    _plain("CLIP_benchmark", ["clip-benchmark"], "clip_benchmark", python_tools.ClipBenchmark, OPEN_CLIP),
    _plain("LanceDB", ["lancedb"], "lancedb", python_tools.LanceDB, OPEN_CLIP),
    Tool(
        name="transformers.js",
        packages=(),
        files=_exported("onnx"),
        open=partial(runtimes.TransformersJs, exact=False),
    ),
    Tool(
        name="transformers.js, resize.js",
        packages=(),
        variants=BOTH,
        files=_exported("onnx"),
        open=partial(runtimes.TransformersJs, exact=True),
    ),
    Tool(
        name="torch-free runtime",
        packages=("onnxruntime",),
        variants=BOTH,
        files=_exported("onnx"),
        open=runtimes.TorchFree,
    ),
    Tool(
        name="ExecuTorch",
        packages=("executorch",),
        modules=("executorch",),
        variants=BOTH,
        files=_exported("executorch"),
        open=partial(runtimes.Exported, format_name="executorch"),
    ),
    Tool(
        name="LiteRT",
        packages=("ai-edge-litert",),
        modules=("ai_edge_litert",),
        variants=BOTH,
        files=_exported("litert"),
        open=partial(runtimes.Exported, format_name="litert"),
    ),
    _plain("Immich", ["onnxruntime"], "onnxruntime", python_tools.Immich, (f"{LAYOUTS['immich'].name}/config.json",)),
]
