"""Optional files of a result: class tables, confusion matrices, and a comparison of the languages."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.evaluation.classify import ClassDetails, Measurement
from training.evaluation.plan import EvalTask, tasks_by_language
from training.utils.files import atomic_write, write_text
from training.utils.results import Row, label_fonts, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES_FOLDER, CONFUSION_FOLDER = "per_class", "confusion"
MAX_TICKS = 60  # class names that remain legible along an axis


def write_class_tables(details: Sequence[tuple[str, EvalTask, Measurement]], folder: Path) -> list[Path]:
    """Write the results of each class as one Markdown file per model and task, and return the paths.

    Args:
        details: Model name, task and measurement with the results of each class.
        folder: Folder of the result; the files go to its subfolder `per_class`.
    """
    paths = []
    for model, task, measurement in details:
        if measurement.details is not None:
            paths.append(folder / CLASSES_FOLDER / f"{_file_name(model, task)}.md")
            table = _class_table(task, measurement.details)
            write_text(paths[-1], f"# {task.set}, {task.title}: {model}\n\n{table}\n")
    return paths


def _class_table(task: EvalTask, details: ClassDetails) -> str:
    """Recall and the most frequent wrong class; average precision where images have several labels."""
    confusion = details.confusion
    header = ["class", "name", "images", "recall", "most often taken for"]
    header = ["class", "name", "AP"] if confusion is None else header
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


def draw_confusion(details: Sequence[tuple[str, EvalTask, Measurement]], folder: Path) -> list[Path]:
    """Draw one confusion matrix per model and task, and return the paths.

    Sets with several labels per image have none.

    Args:
        details: Model name, task and measurement with the results of each class.
        folder: Folder of the result; the files go to its subfolder `confusion`.
    """
    from matplotlib.figure import Figure

    paths = []
    for model, task, measurement in details:
        if measurement.details is None or (confusion := measurement.details.confusion) is None:
            continue
        shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
        edge = min(16.0, 4 + 0.22 * len(shares))
        with label_fonts([*task.keys, task.set, model]):
            figure = Figure(figsize=(edge + 1, edge), layout="constrained")
            axis = figure.subplots()
            image = axis.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
            axis.set(title=f"{task.set}, {task.title}\n{model}", xlabel="prediction", ylabel="class")
            if len(shares) <= MAX_TICKS:
                axis.set_xticks(range(len(shares)), task.keys, rotation=90, fontsize=7)
                axis.set_yticks(range(len(shares)), task.keys, fontsize=7)
            figure.colorbar(image, ax=axis, label="share of the images of the class")
            paths.append(_save(figure, folder / CONFUSION_FOLDER / f"{_file_name(model, task)}.png"))
    return paths


def draw_languages(rows: Sequence[Row], tasks: Sequence[EvalTask], path: Path) -> Path | None:
    """Draw the languages of every set side by side, one panel per model.

    Args:
        rows: Rows of a result.
        tasks: Tasks of the run.
        path: Path of the figure.

    Returns:
        The path, or None if no set was measured in several languages.
    """
    from matplotlib.figure import Figure

    sets = {row.set for row in rows}
    groups = {name: group for name, group in tasks_by_language(tasks).items() if name in sets}
    if not groups:
        return None
    values = {(row.model, row.set, row.protocol, row.language, row.metric): 100 * row.value for row in rows}
    languages = list(dict.fromkeys(task.language for group in groups.values() for task in group))
    models = list(dict.fromkeys(row.model for row in rows))
    height = 0.8 / len(languages)
    with label_fonts([*groups, *models]):
        figure = Figure(figsize=(3 + 4.5 * len(models), 1.8 + 0.45 * len(groups)), layout="constrained")
        panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
        for panel, model in zip(panels, models, strict=True):
            for number, language in enumerate(languages):
                own = [next((task for task in group if task.language == language), None) for group in groups.values()]
                keys = [task and (model, task.set, task.protocol, language, task.metric) for task in own]
                widths = [values.get(key, 0.0) if key else 0.0 for key in keys]
                panel.barh([y + height * number for y in range(len(groups))], widths, height, label=language)
            panel.set(title=model, xlabel="%", xlim=(0, 100))
            panel.set_yticks([y + height * (len(languages) - 1) / 2 for y in range(len(groups))], list(groups))
            panel.grid(axis="x", alpha=0.3)
        panels[0].invert_yaxis()
        panels[0].legend(loc="lower right")
        return _save(figure, path)


def _save(figure: "Figure", path: Path) -> Path:
    with atomic_write(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
    return path


def _file_name(model: str, task: EvalTask) -> str:
    return re.sub(r"[^\w.-]+", "_", "_".join((model.strip("/."), *task.key)))
