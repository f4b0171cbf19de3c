"""ONNX Runtime without PyTorch, ExecuTorch, LiteRT, and transformers.js in Node."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from transformers import PreTrainedModel

from modeling_dcclip import DCCLIPConfig, DCCLIPProcessor
from modeling_dcclip.runtime_dcclip import Runtime
from training.edge.exported_towers import ExportedTowers
from training.edge.formats import find_format
from training.edge.towers import TOWERS
from training.edge.web.assemble import NODE_MODULES, PAGE
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.studies.tools.encoder import Encoder, normalized
from training.studies.tools.python_tools import batches, open_files

SCRIPT = Path(__file__).with_name("encode.mjs")
LIBRARY = "@huggingface/transformers"


class TorchFree(Encoder):
    """`Runtime`, from files of one number format."""

    def __init__(self, folder: Path, variant: str):
        self.runtime = _Runtime(folder, variant)

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        return self.runtime.encode_images(list(paths))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return self.runtime.encode_texts(texts, truncate=True)


class _Runtime(Runtime):
    """A runtime that runs the files of one number format, whichever is the fastest."""

    def __init__(self, folder: Path, variant: str):
        super().__init__(folder)
        self.variant = variant

    def _files(self, tower: str) -> list[Path]:
        return [self.folder / "onnx" / find_format("onnx").file_name(tower, self.variant)]


class Exported(Encoder):
    """Files of an export format in its own runtime, which prepares nothing: the processor of the folder does.

    Args:
        folder: Model folder.
        variant: Number format of the files.
        format_name: Name of the export format.
    """

    def __init__(self, folder: Path, variant: str, format_name: str):
        export_format = find_format(format_name)
        runners = {
            tower: export_format.open(folder / format_name / export_format.file_name(tower, variant), 0)
            for tower in TOWERS
        }
        towers = ExportedTowers(DCCLIPConfig.from_pretrained(folder), **runners)
        self.processor = DCCLIPProcessor.from_pretrained(folder)
        self.model = ZeroShotModel(cast(PreTrainedModel, towers), self.processor, format_name)

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        inputs = (self.processor(images=open_files(part), return_tensors="pt") for part in batches(paths))
        return np.concatenate([self.model.embed_images(each["pixel_values"]).numpy() for each in inputs])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return self.model.encode_texts(texts).numpy()


class TransformersJs(Encoder):
    """transformers.js in Node, with its own image decoder and tokenizer.

    Args:
        folder: Model folder.
        variant: Number format of the files.
        exact: Whether images are resized by the code of the web page, which equals Pillow, or by the library.
    """

    def __init__(self, folder: Path, variant: str, exact: bool):
        if shutil.which("node") is None or not (NODE_MODULES / LIBRARY / "package.json").is_file():
            raise ValueError(
                "tools: 'transformers.js' needs Node and its library. Run npm ci --ignore-scripts --prefix "
                "model_cards/web, or name other tools with --tools."
            )
        self.folder, self.dtype = folder.resolve(), {"fp32": "fp32", "int8": "q8"}[variant]
        self.resize = str(PAGE / "resize.js") if exact else None

    def encode_images(self, paths: Sequence[str]) -> np.ndarray:
        """Encode image files."""
        return self._encode("images", [str(Path(path).resolve()) for path in paths])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts."""
        return self._encode("texts", list(texts))

    def _encode(self, kind: str, items: list[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="dcclip-node-") as scratch:
            request, answer = Path(scratch) / "request.json", Path(scratch) / "embeddings.bin"
            content: dict = {"folder": str(self.folder), "dtype": self.dtype, "kind": kind, "items": items}
            content |= {
                "library": str(NODE_MODULES / LIBRARY / "dist" / "transformers.node.mjs"),
                "resize": self.resize,
            }
            request.write_text(json.dumps(content), encoding="utf-8")
            done = subprocess.run(["node", SCRIPT, request, answer], capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(f"tools: transformers.js fails in Node ({done.stderr.strip()[-400:]}).")
            return normalized(np.fromfile(answer, np.float32).reshape(len(items), -1))


def js_versions() -> dict[str, str]:
    """The version of transformers.js that npm installed."""
    path = NODE_MODULES / LIBRARY / "package.json"
    return {LIBRARY: json.loads(path.read_text(encoding="utf-8"))["version"]} if path.is_file() else {}
