"""Optional files of a result: class tables, confusion matrices, and a comparison of the languages."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from training.evaluation.measure import ClassDetails, Measurement
from training.evaluation.sets.eval_tasks import EvalTask, tasks_by_language
from training.utils.files import atomic_write, write_text
from training.utils.results import Row, label_fonts, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFUSION_HEADER = ["class", "name", "images", "recall", "most often taken for"]
CLASSES_FOLDER, CONFUSION_FOLDER = "per_class", "confusion"
MAX_TICKS = 60  # class names that remain legible along an axis


def class_table(task: EvalTask, details: ClassDetails) -> str:
    """Results of each class as a Markdown table.

    Args:
        task: Task with the class names.
        details: Results of its classes.

    Returns:
        Recall in percent and the class that images of this class are most often taken for; average precision in
        percent where images have several labels.
    """
    confusion = details.confusion
    header = ["class", "name", "AP"] if confusion is None else CONFUSION_HEADER
    lines = [header, ["---"] * len(header)]
    for number, (key, name) in enumerate(zip(task.keys, task.candidates, strict=True)):
        value = details.per_class[number].item()
        percent = "" if value != value else f"{100 * value:.1f}"  # NaN: the class has no image
        if confusion is None:
            lines.append([key, name, percent])
            continue
        others = confusion[number].clone()
        others[number] = 0
        mistaken_for = task.keys[int(others.argmax())] if others.sum() else ""
        lines.append([key, name, str(int(confusion[number].sum())), percent, mistaken_for])
    return markdown_table(lines)


def write_class_tables(details: Sequence[tuple[str, EvalTask, Measurement]], folder: Path) -> list[Path]:
    """Write one Markdown file per model and task.

    Args:
        details: Model name, task and measurement with the results of each class.
        folder: Folder of the result; the files go to its subfolder `per_class`.

    Returns:
        Paths of the files.
    """
    paths = []
    for model, task, measurement in details:
        if measurement.details is None:
            continue
        path = folder / CLASSES_FOLDER / f"{_file_name(model, task)}.md"
        title = f"# {task.set}, {task.title}: {model}"
        write_text(path, f"{title}\n\n{class_table(task, measurement.details)}\n")
        paths.append(path)
    return paths


def draw_confusion(details: Sequence[tuple[str, EvalTask, Measurement]], folder: Path) -> list[Path]:
    """Draw one confusion matrix per model and task; sets with several labels per image have none.

    Args:
        details: Model name, task and measurement with the results of each class.
        folder: Folder of the result; the files go to its subfolder `confusion`.

    Returns:
        Paths of the files.
    """
    paths = []
    for model, task, measurement in details:
        if measurement.details is None or measurement.details.confusion is None:
            continue
        path = folder / CONFUSION_FOLDER / f"{_file_name(model, task)}.png"
        with label_fonts([*task.keys, task.set, model]):
            paths.append(_save(_confusion_figure(model, task, measurement.details.confusion), path))
    return paths


def _confusion_figure(model: str, task: EvalTask, confusion: Tensor) -> "Figure":
    from matplotlib.figure import Figure

    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    edge = min(16.0, 4 + 0.22 * len(shares))
    figure = Figure(figsize=(edge + 1, edge), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axis.set(title=f"{task.set}, {task.title}\n{model}", xlabel="prediction", ylabel="class")
    if len(shares) <= MAX_TICKS:
        axis.set_xticks(range(len(shares)), task.keys, rotation=90, fontsize=7)
        axis.set_yticks(range(len(shares)), task.keys, fontsize=7)
    figure.colorbar(image, ax=axis, label="share of the images of the class")
    return figure


def draw_languages(rows: Sequence[Row], tasks: Sequence[EvalTask], path: Path) -> Path | None:
    """Draw the languages of every set side by side, one panel per model.

    Args:
        rows: Rows of a result.
        tasks: Tasks of the run.
        path: Path of the figure.

    Returns:
        The path, or None if no set was measured in several languages.
    """
    groups = {
        name: {task.language: (task.protocol, task.metric) for task in group}
        for name, group in tasks_by_language(tasks).items()
        if any(row.set == name for row in rows)
    }
    if not groups:
        return None
    with label_fonts([*groups, *(row.model for row in rows)]):
        return _save(_languages_figure(rows, groups), path)


def _languages_figure(rows: Sequence[Row], groups: dict[str, dict[str, tuple[str, str]]]) -> "Figure":
    from matplotlib.figure import Figure

    languages = list(dict.fromkeys(language for group in groups.values() for language in group))
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(3 + 4.5 * len(models), 1.8 + 0.45 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    height = 0.8 / len(languages)
    for panel, model in zip(panels, models, strict=True):
        for number, language in enumerate(languages):
            values = [_percent(rows, model, name, group.get(language), language) for name, group in groups.items()]
            panel.barh([y + height * number for y in range(len(groups))], values, height, label=language)
        panel.set(title=model, xlabel="%", xlim=(0, 100))
        panel.set_yticks([y + height * (len(languages) - 1) / 2 for y in range(len(groups))], list(groups))
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    panels[0].legend(loc="lower right")
    return figure


def _percent(
    rows: Sequence[Row], model: str, name: str, protocol_and_metric: tuple[str, str] | None, language: str
) -> float:
    if protocol_and_metric is None:
        return 0.0
    key = (model, name, *protocol_and_metric, language)
    return 100 * next((r.value for r in rows if (r.model, r.set, r.protocol, r.metric, r.language) == key), 0.0)


def _save(figure: "Figure", path: Path) -> Path:
    with atomic_write(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
    return path


def _file_name(model: str, task: EvalTask) -> str:
    return re.sub(r"[^\w.-]+", "_", "_".join((model.strip("/."), *task.key)))
