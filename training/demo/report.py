"""What the demo with emoji shows: latency and tables."""

import statistics
from collections.abc import Callable, Mapping
from functools import partial

import torch
from datasets import Dataset

from training.evaluation.sets.held_out import TEST_SETS
from training.evaluation.zero_shot_model import ZeroShotModel
from training.text.writing_systems import LANGUAGES
from training.utils.process import interleaved_ms
from training.utils.results import Results, Row

ModelKey = tuple[str, str | None]  # model, stage

STAGES = (("teacher", None), ("student", "untrained"), ("student", "distilled"), ("student", "aligned"))
COLUMNS = [(name, language) for name in TEST_SETS for language in LANGUAGES]
TEXT = "woman farmer: medium-dark skin tone"


@torch.inference_mode()
def measure_latency(models: Mapping[ModelKey, ZeroShotModel], rows: Dataset) -> dict[tuple[ModelKey, str], float]:
    """Measure the median latency of each model for one preprocessed image and for one text, at batch 1.

    The models take turns, so that load on the machine affects all of them.

    Args:
        models: Models to measure, by model and stage.
        rows: Images; the first is measured.

    Returns:
        Milliseconds by model and metric, `ms_per_image` or `ms_per_text`.
    """
    calls: dict[tuple[ModelKey, str], Callable[[], object]] = {}
    for key, model in models.items():
        image = model.processor.image_processor([rows[0]["image"]], return_tensors="pt")["pixel_values"]
        tokens = model.processor.tokenizer([TEXT], return_tensors="pt")
        calls[key, "ms_per_image"] = partial(model.model.get_image_features, pixel_values=image)
        calls[key, "ms_per_text"] = partial(model.model.get_text_features, **tokens)
    return {name: round(statistics.median(times), 2) for name, times in interleaved_ms(calls).items()}


def one_line(rows: list[Row], model: str, stage: str | None) -> str:
    """Top-5 accuracy of one model in one line.

    Args:
        rows: All results so far.
        model: Model of the rows to show, `teacher` or `student`.
        stage: Stage of the rows to show; None for the teacher.
    """
    accuracies = [row for row in rows if (row.model, row.stage, row.metric) == (model, stage, "top5")]
    values = ", ".join(f"{row.set} {row.language} {100 * row.value:.0f} %" for row in accuracies)
    return f"{_title(model, stage)}: top-5 {values}".replace("_", " ")


def summary(results: Results) -> str:
    """Table of the demo: one row per model and stage."""
    lines = _header(22, f"{'parameters':>14}{'bytes':>13}{'ms/image':>12}{'ms/text':>9}")
    for model, stage in STAGES:
        if results.mean(model=model, stage=stage, metric="top1") is None:
            continue
        size = {
            metric: results.mean(model=model, stage=stage, metric=metric) or 0
            for metric in ("parameters", "bytes", "ms_per_image", "ms_per_text")
        }
        cells = _accuracy_cells(results, model, stage)
        cells += f"{size['parameters']:>14,.0f}{size['bytes']:>13,.0f}"
        cells += f"{size['ms_per_image']:>12.1f}{size['ms_per_text']:>9.1f}"
        lines.append(f"{_title(model, stage).replace('_', ' '):22}{cells}")
    counts = ", ".join(f"{name}: {count} images" for name, count in results.meta["test_images"].items())
    lines.append(
        f"({counts}; candidate labels: all names; 95 % intervals are in results.json; the teacher is stored in fp16)"
    )
    return "\n".join(lines)


def cross_model(results: Results) -> str:
    """Table of the student's tower of one modality with the teacher's tower of the other.

    It shows whether their embeddings are comparable: an index made with one model can be searched with the other.
    """
    lines = _header(40)
    for image_model, text_model in (("student", "teacher"), ("teacher", "student")):
        for stage in ("distilled", "aligned"):
            model = f"{image_model} images, {text_model} texts"
            lines.append(f"{_title(model, stage):40}{_accuracy_cells(results, model, stage)}")
    return "\n".join(lines)


def _title(model: str, stage: str | None) -> str:
    return ", ".join(filter(None, (model, stage)))


def _header(width: int, other_columns: str = "") -> list[str]:
    """Two header lines: test sets, then languages."""
    return [
        f"{'':{width}}" + "".join(f"{name:>24}" for name in TEST_SETS) + other_columns,
        f"{'top-1 / top-5 in %':{width}}" + "".join(f"{language:>12}" for _, language in COLUMNS),
    ]


def _accuracy_cells(results: Results, model: str, stage: str | None) -> str:
    """Top-1 and top-5 accuracy in percent for every test set and language."""
    cells = ""
    for name, language in COLUMNS:
        top1, top5 = (
            100 * (results.mean(model=model, stage=stage, set=name, language=language, metric=metric) or 0)
            for metric in ("top1", "top5")
        )
        cells += f"{f'{top1:.0f} / {top5:.0f}':>12}"
    return cells
