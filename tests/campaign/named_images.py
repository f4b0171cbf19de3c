"""Cases of data sets whose rows name images of this machine or its network, in every place that reads images."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from tests.campaign.outcome import CLEAR, Case
from training.config import DataConfig, EvalConfig
from training.edge.gate_data import GateData
from training.edge.options import ExportOptions
from training.evaluation.scheduled import make_evaluate
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.labelled_sets import open_set
from training.evaluation.sets.retrieval_sets import open_retrieval_set
from training.evaluation.sets.sources import Source
from training.finetuning.options import FinetuneOptions
from training.finetuning.prepare import prepare
from training.prepare.curate.options import CurateOptions
from training.prepare.curate.run import curate

NAMES = {"en": ["frog", "cat"], "zh": ["青蛙", "猫"]}
CELLS = (
    "secret.png", "link.png", "/etc/passwd", "file:///etc/passwd", "simplecache::file:///etc/passwd",
    "http://127.0.0.1:9/a.png", "https://169.254.169.254/latest", "hf://datasets/a/b/c.png",
)  # fmt: skip


def named_images() -> Iterator[Case]:
    """Every reader with every kind of cell."""
    for name, read in READERS.items():
        for cell in CELLS:
            yield Case("images that data name", f"{name}: {cell}", partial(_read, read=read, cell=cell), CLEAR)


def _read(folder: Path, read: Callable[[Path, str], object], cell: str):
    """Read a parquet file whose only two rows name an image outside its folder."""
    data = folder / "data"
    data.mkdir()
    PILImage.effect_mandelbrot((96, 96), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / "secret.png")
    (data / "link.png").symlink_to(folder / "secret.png")
    path = {"secret.png": str(folder / cell), "link.png": str(data / cell)}.get(cell, cell)
    features = Features({"image": Image(decode=False), "en": Value("string"), "zh": Value("string")})
    rows = Dataset.from_dict({"image": [{"bytes": None, "path": path}] * 2} | NAMES, features=features)
    pq.write_table(rows.with_format("arrow")[:], data / "a.parquet")
    names = [dict(zip(NAMES, pair, strict=True)) for pair in zip(*NAMES.values(), strict=True)]
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")
    read(folder, str(data / "a.parquet"))


def _validate(folder: Path, source: str):
    config = EvalConfig(data=source, class_names=str(folder / "names.json"), label_column="en")
    make_evaluate(config, "top1", None, DataConfig(train="x"))


def _export(folder: Path, source: str):
    names = str(folder / "names.json")
    GateData.from_options(ExportOptions(folder="", output_dir="", data=source, class_names=names, label_column="en"))


READERS: dict[str, Callable[[Path, str], object]] = {
    "evaluation": lambda folder, source: open_set("own", Source(source), ClassNames(NAMES)),
    "retrieval": lambda folder, source: open_retrieval_set("own", source),
    "validation": _validate,
    "export": _export,
    "curation": lambda folder, source: curate(CurateOptions(data=source, output_dir=str(folder / "out"))),
    "fine-tuning": lambda folder, source: prepare(
        FinetuneOptions(model="", data=source, output_dir=""), folder / "prepared"
    ),
}
