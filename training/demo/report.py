"""What the demo with emoji shows: latency, tables, learning curves, and a contact sheet of held-out images."""

import json
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset

from training.corpus.emoji import ATTRIBUTION
from training.evaluation.classify import class_embeddings
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.held_out import COLOURS, TEST_SETS
from training.evaluation.zero_shot_model import ZeroShotModel
from training.text.writing_systems import LANGUAGES
from training.utils.process import interleaved_ms
from training.utils.results import Results, Row, font_families

ModelKey = tuple[str, str | None]  # model, stage

STAGES = (("teacher", None), ("student", "untrained"), ("student", "distilled"), ("student", "aligned"))
COLUMNS = [(name, language) for name in TEST_SETS for language in LANGUAGES]
TEXT = "woman farmer: medium-dark skin tone"
NOT_LOSSES = ("time", "step", "learning_rate", "images_per_s", "loss")  # in a training log
SHEET_COLUMNS, ROWS_PER_SET, TOP_K = 6, 2, 3  # of the contact sheet

# matplotlib is imported inside the functions: its import takes half a second


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
    """Table of the demo: one row per model and stage.

    Args:
        results: Results of a run of the demo.
    """
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

    Args:
        results: Cross-model results of a run of the demo.
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


def plot_curves(results: Results, logs: dict[str, Path], path: Path):
    """Plot the losses of both stages, and the top-5 accuracy after each stage next to the teacher's.

    Args:
        results: Results of a run of the demo.
        logs: Training log of each stage, `distilled` and `aligned`.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
    for axis, (stage, log) in zip(axes[:2], logs.items(), strict=True):
        _plot_losses(axis, log, f"loss, stage {'1: distil' if stage == 'distilled' else '2: align'}")
    _plot_accuracy(axes[2], results)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _plot_losses(axis, log: Path, title: str):
    lines = [line for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if "loss" in line]
    for name in (key for key in lines[0] if key not in NOT_LOSSES):
        steps, values = [line["step"] for line in lines], [line[name] for line in lines]
        axis.plot(steps, values, label=name.replace("_", " "), lw=1.4)
    axis.set(title=title, xlabel="step", yscale="log")
    axis.legend(frameon=False, fontsize=8)


def _plot_accuracy(axis, results: Results):
    stages = [
        stage
        for model, stage in STAGES
        if model == "student" and results.values(model=model, stage=stage, metric="top5")
    ]
    for language, colour in COLOURS.items():
        for name, style in (("unseen_combination", "o-"), ("unseen_style", "s--")):
            fields = {"set": name, "language": language, "metric": "top5"}
            values = [100 * (results.mean(model="student", stage=stage, **fields) or 0) for stage in stages]
            label = f"{name.replace('_', ' ')}, {language}"
            axis.plot([str(stage).replace("_", " ") for stage in stages], values, style, color=colour, label=label)
            axis.axhline(100 * (results.mean(model="teacher", **fields) or 0), color=colour, ls=":", lw=1)
    axis.set(title="top-5 among all names (dotted: teacher)", ylabel="%", ylim=(0, 100))
    # between the curves of the two test sets
    axis.legend(frameon=False, fontsize=8, loc="center", bbox_to_anchor=(0.77, 0.64))


def plot_contact_sheet(model: ZeroShotModel, sets: dict[str, Dataset], class_names: ClassNames, path: Path):
    """Plot held-out images with the model's top three labels in both languages.

    Args:
        model: The finished student.
        sets: Test sets by name.
        class_names: Candidate labels, all names of the corpus.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 * SHEET_COLUMNS, 3.4 * len(sets) * ROWS_PER_SET), layout="constrained")
    axes = iter(figure.subplots(len(sets) * ROWS_PER_SET, SHEET_COLUMNS).flat)
    classes = {language: class_embeddings(model, names) for language, names in class_names.names.items()}
    for rows in sets.values():
        count = min(SHEET_COLUMNS * ROWS_PER_SET, len(rows))
        step = (len(rows) // count - 1) | 1  # an odd step alternates between the two artwork styles
        chosen = rows.select(range(0, count * step, step))
        scores = {language: model.encode_images(chosen) @ table.T for language, table in classes.items()}
        for number in range(count):
            axis = next(axes)
            axis.imshow(chosen[number]["image"])
            lines = [
                class_names.names[language][label][:36]
                for language, table in scores.items()
                for label in table[number].topk(TOP_K).indices.tolist()
            ]
            axis.set_xlabel("\n".join(lines), fontsize=8, family=font_families())
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[], frame_on=False)
    figure.suptitle("Held-out images with the student's top three labels in English and Chinese")
    figure.supxlabel(ATTRIBUTION.replace("`", ""), fontsize=7, color="grey")
    figure.savefig(path, dpi=110)
