r"""Measure size and latency of our models and of AltCLIP in ONNX Runtime, in int8, on one thread, all in one run.

Examples:
  python -m training.experiments.studies budget
  python -m training.experiments.studies budget --models tiny model_cards/dcclip-tiny-photo --repeats 100

A model is the name of a size or `altclip`, with random weights, or the folder of a finished student. Latency is the
median for one image, and for one text of 10 tokens. The models take turns, so that other load on the machine slows all
of them.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.export import Dim
from transformers import AltCLIPConfig, AltCLIPModel

from modeling_dcclip import DCCLIPModel
from training.edge.graphs import open_tower, quantize, write_graph
from training.edge.towers import TextTower, VisionTower
from training.experiments.demo.make_teacher import TEACHER_FOLDER
from training.hub import WEIGHTS_FILE
from training.students import SIZES, build_student, load_size
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.process import interleaved_ms
from training.utils.ranges import Count
from training.utils.results import Results, Row, make_meta, markdown_table

PROGRAM = "python -m training.experiments.studies budget"
ALTCLIP = "altclip"
NAMES = (*SIZES, ALTCLIP)
BACKEND = "onnx-int8"
PROTOCOL = f"{BACKEND}, threads 1, batch 1"  # of latencies
IMAGE_MS, TEXT_MS = "ms_per_image_p50", "ms_per_text_p50"
NUM_TOKENS, MAX_TOKENS = 10, 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Args:
        models: Sizes and `altclip` by name, and folders of finished students. Names: tiny, small, base, altclip.
        repeats: Calls of each kind.
        output_dir: Folder for results.json.
    """

    models: list[str] = field(default_factory=lambda: list(NAMES))
    repeats: Count = 32
    output_dir: str = "runs/studies/budget"


def run(options: Options):
    """Measure all models, and print the table."""
    rows: list[Row] = []
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    with TemporaryDirectory() as scratch:
        for number, name in enumerate(dict.fromkeys(options.models)):
            model = _build(name)
            parameters = sum(each.numel() for each in model.parameters())
            size, runs = _export(model, Path(scratch) / str(number))
            rows.append(Row(model=name, metric="parameters", value=parameters))
            rows.append(Row(model=name, metric="bytes", value=size, protocol=BACKEND))
            calls |= {(name, metric): each for metric, each in runs.items()}
        measured = interleaved_ms(calls, options.repeats)
    for (name, metric), times in measured.items():
        value = round(statistics.median(times), 3)
        rows.append(Row(model=name, metric=metric, value=value, protocol=PROTOCOL))
    results = Results(make_meta("random noise", None, command_of(PROGRAM, options)), rows)
    path = results.write(options.output_dir)
    print(f"\n{table(results, {name: name for name in options.models})}\n\n{path}")


def _build(name: str) -> Any:
    """A size or AltCLIP with random weights, or the finished student in a folder."""
    torch.manual_seed(0)
    if name == ALTCLIP:
        # ViT-L/14; XLM-R large is the default of transformers. Source: config.json of BAAI/AltCLIP on the Hub
        vision = {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        }
        return AltCLIPModel(AltCLIPConfig(vision_config=vision, projection_dim=768))
    if name in SIZES:
        inits = {"vision_init": "random", "text_init": "random", "tokenizer": str(TEACHER_FOLDER)}
        return build_student(load_size(name, **inits), [*LANGUAGES])[0]
    weights = Path(name) / WEIGHTS_FILE
    if not weights.is_file():
        raise ValueError(
            f"models: {name!r} is not one of {', '.join(NAMES)}, and {str(weights)!r} does not exist. "
            "Name the folder of a finished student."
        )
    return DCCLIPModel.from_pretrained(name, dtype=torch.float32)


def _export(model: Any, folder: Path) -> tuple[int, dict[str, Callable[[], object]]]:
    """Write both towers of a model to a new folder, and return their bytes and calls that encode one input."""
    folder.mkdir()
    config = model.config if isinstance(model, DCCLIPModel) else model.config.vision_config
    size = config.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    ids = torch.ones(2, NUM_TOKENS, dtype=torch.int64)
    batch, length = Dim("batch_size"), Dim("sequence_length", max=MAX_TOKENS)
    vision = IMAGE_MS, VisionTower(model), {"pixel_values": pixels}, {0: batch}
    tokens = {"input_ids": ids, "attention_mask": ids}
    text = TEXT_MS, TextTower(model), tokens, {0: batch, 1: length}
    calls: dict[str, Callable[[], object]] = {}
    num_bytes = 0
    for metric, module, inputs, dynamic in (vision, text):
        tower = "vision" if metric == IMAGE_MS else "text"
        graph, small = folder / f"{tower}.onnx", folder / f"{tower}-int8.onnx"
        shapes = (dynamic,) * len(inputs)
        # a graph of more than 2 GiB needs a second file for its weights
        write_graph(module, tower, (*inputs.values(),), shapes, graph, external_data=True)
        quantize(graph, tower, small, iter(pixels.numpy()[:, None]))
        num_bytes += sum(file.stat().st_size for file in folder.glob(f"{small.name}*"))
        one = {name: values[:1].numpy() for name, values in inputs.items()}
        calls[metric] = partial(open_tower(small, threads=1), one)
    return num_bytes, calls


def table(results: Results, titles: dict[str, str]) -> str:
    """Markdown table of models by their titles."""
    lines = [["Model", "Parameters", "Size in int8", "Latency of an image and a text"]]
    lines.append(["---", *["---:"] * 3])
    lines += [[title, *costs(results, name)] for name, title in titles.items()]
    return markdown_table(lines)


def costs(results: Results, model: str) -> list[str]:
    """Parameters, size, and latency of an image and a text, in int8 on one thread."""
    parameters, size, image, text = (
        results.mean(model=model, metric=metric, protocol=protocol) or 0.0
        for metric, protocol in (
            ("parameters", None),
            ("bytes", BACKEND),
            (IMAGE_MS, PROTOCOL),
            (TEXT_MS, PROTOCOL),
        )
    )
    return [f"{parameters / 1e6:.1f} M", f"{size / 1e6:.0f} MB", f"{image + text:.1f} ms"]
