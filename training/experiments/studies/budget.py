r"""Measure size and latency of our models and of baselines in ONNX Runtime, on one thread, all in one run.

Examples:
  python -m training.experiments.studies budget
  python -m training.experiments.studies budget --models tiny altclip --backends onnx-int8
  python -m training.experiments.studies budget --models tiny model_cards/dcclip-tiny-photo --repeats 100

A model is the name of a size or a baseline, with random weights, or the folder of a finished student. Latency is the
median per image or text at batch 1. The models take turns, so that other load on the machine slows all of them.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from training.edge.graphs import open_tower
from training.edge.towers import Runner
from training.experiments.studies.baselines import NAMES, TEMPLATES, ModelFacts, write_graphs
from training.hub import WEIGHTS_FILE
from training.utils.cli import command_of
from training.utils.process import interleaved_ms
from training.utils.ranges import Count
from training.utils.results import Results, Row, make_meta, markdown_table

PROGRAM = "python -m training.experiments.studies budget"
Backend = Literal["onnx-fp32", "onnx-int8"]
IMAGE_MS, TEXT_MS = "ms_per_image_p50", "ms_per_text_p50"
# by model, protocol, metric and language
Calls = dict[tuple[str, str, str, str | None], Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Args:
        models: Sizes and baselines by name, and folders of finished students. Names: tiny, small, base,
            chinese-clip-rn50, altclip.
        backends: ONNX Runtime in fp32 or int8.
        repeats: Calls of each kind.
        output_dir: Folder for results.json.
    """

    models: list[str] = field(default_factory=lambda: list(NAMES))
    backends: list[Backend] = field(default_factory=lambda: ["onnx-fp32", "onnx-int8"])
    repeats: Count = 32
    output_dir: str = "runs/studies/budget"


def run(options: Options):
    """Measure all models, and print the table."""
    models: dict[str, str] = {}
    for model in options.models:
        name = model if model in NAMES else Path(model).resolve().name
        if name in models:
            raise ValueError(
                f"models: several have the name {name!r}, so their rows could not be told apart. Rename a folder."
            )
        weights = Path(model) / WEIGHTS_FILE
        if model not in NAMES and not weights.is_file():
            raise ValueError(
                f"models: {model!r} is not one of {', '.join(NAMES)}, and {str(weights)!r} does not exist. "
                "Name the folder of a finished student."
            )
        models[name] = model
    rows = []
    calls: Calls = {}
    with TemporaryDirectory() as scratch:
        for name, model in models.items():
            facts = write_graphs(model, Path(scratch) / name, options.backends)
            rows.append(Row(model=name, metric="parameters", value=facts.parameters))
            for backend in options.backends:
                size = facts.bytes(backend)
                rows.append(Row(model=name, metric="bytes", value=size, protocol=backend))
                calls |= _calls(name, backend, facts)
        for (name, protocol, metric, language), times in interleaved_ms(
            calls, options.repeats
        ).items():
            value = round(statistics.median(times), 3)
            row = Row(model=name, metric=metric, value=value, protocol=protocol)
            rows.append(replace(row, language=language))
    templates = " and ".join(map(repr, TEMPLATES.values()))
    data = f"random noise; class names of ELEVATER in {templates}"
    results = Results(make_meta(data, None, command_of(PROGRAM, options)), rows)
    path = results.write(options.output_dir)
    lines = [["Model", "Backend", "Parameters", "Size", "Latency of an image and a text"]]
    lines.append(["---", "---", *["---:"] * 3])
    for name, backend in product(models, options.backends):
        lines.append([name, backend, *costs(results, name, backend)])
    print(f"\n{markdown_table(lines)}\n\n{path}")


def protocol_of(backend: str) -> str:
    """The `protocol` of the latencies of a backend in results."""
    return f"{backend}, threads 1, batch 1"


def _calls(name: str, backend: str, facts: ModelFacts) -> Calls:
    """Calls that encode one image or one text."""
    vision, text = (open_tower(path, threads=1) for path in facts.graphs[backend])
    size = (1, 3, facts.image_size, facts.image_size)
    pixels = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    protocol = protocol_of(backend)
    calls: Calls = {(name, protocol, IMAGE_MS, None): partial(vision, {"pixel_values": pixels})}
    for language, texts in facts.texts.items():
        inputs = []
        for ids in texts:
            row = np.array([ids], np.int64)
            inputs.append({"input_ids": row, "attention_mask": np.ones_like(row)})
        calls[name, protocol, TEXT_MS, language] = partial(_encode_next, text, cycle(inputs))
    return calls


def _encode_next(text: Runner, turns: Iterator[dict[str, np.ndarray]]) -> object:
    return text(next(turns))


def costs(results: Results, model: str, backend: str = "onnx-int8") -> list[str]:
    """Parameters, size, and latency of an image and a text, on one thread."""
    protocol = protocol_of(backend)
    parameters = results.mean(model=model, metric="parameters") or 0.0
    size = results.mean(model=model, metric="bytes", protocol=backend) or 0.0
    image, text = (
        results.mean(model=model, metric=metric, protocol=protocol) or 0.0
        for metric in (IMAGE_MS, TEXT_MS)
    )
    return [f"{parameters / 1e6:.1f} M", f"{size / 1e6:.0f} MB", f"{image + text:.1f} ms"]
