"""On demand: tables of classes, images of confusion, and the languages side by side."""

import re
from collections.abc import Sequence
from pathlib import Path

from training.evaluation.measure import Measured
from training.evaluation.run import languages_of
from training.evaluation.sets.eval_tasks import EvalTask
from training.utils.files import atomic_write
from training.utils.results import Row, markdown_table

MOST_TICKS = 60  # class names that can still be read along an edge


def class_table(task: EvalTask, measured: Measured) -> str:
    """Recall of every class in percent, and what it is taken for most, as Markdown; average precision where images
    show several classes.
    """
    single = measured.confusion is not None
    header = ["class", "name", "images", "recall", "most often taken for"] if single else ["class", "name", "AP"]
    lines = [header, ["---"] * len(header)]
    for number, (key, name) in enumerate(zip(task.keys, task.candidates, strict=True)):
        value = measured.per_class[number].item()
        cells = [key, name]
        if measured.confusion is not None:
            cells.append(str(int(measured.confusion[number].sum())))
        cells.append("" if value != value else f"{100 * value:.1f}")  # NaN: no image
        if measured.confusion is not None:
            others = measured.confusion[number].clone()
            others[number] = 0
            cells.append(task.keys[int(others.argmax())] if others.sum() else "")
        lines.append(cells)
    return markdown_table(lines)


def write_class_tables(details: Sequence[tuple[str, EvalTask, Measured]], folder: Path) -> list[Path]:
    """One Markdown file a model and task, in `folder/per_class`."""
    paths = []
    for model, task, measured in details:
        path = folder / "per_class" / f"{_file_name(model, task)}.md"
        with atomic_write(path) as scratch:
            title = f"# {task.set}, {task.title}: {model}"
            scratch.write_text(f"{title}\n\n{class_table(task, measured)}\n", encoding="utf-8")
        paths.append(path)
    return paths


def draw_confusion(details: Sequence[tuple[str, EvalTask, Measured]], folder: Path) -> list[Path]:
    """One image a model and task, in `folder/confusion`: the share of each class's images by answer. A set whose
    images show several classes has none.
    """
    from matplotlib.figure import Figure

    paths = []
    for model, task, measured in details:
        if measured.confusion is None:
            continue
        shares = measured.confusion / measured.confusion.sum(1, keepdim=True).clamp(min=1)
        edge = min(16.0, 4 + 0.22 * len(shares))
        figure = Figure(figsize=(edge + 1, edge), layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        axis.set(title=f"{task.set}, {task.title}\n{model}", xlabel="answer", ylabel="class")
        if len(shares) <= MOST_TICKS:
            axis.set_xticks(range(len(shares)), task.keys, rotation=90, fontsize=7)
            axis.set_yticks(range(len(shares)), task.keys, fontsize=7)
        figure.colorbar(image, ax=axis, label="share of the class's images")
        paths.append(_save(figure, folder / "confusion" / f"{_file_name(model, task)}.png"))
    return paths


def draw_languages(rows: Sequence[Row], eval_tasks: Sequence[EvalTask], path: Path) -> Path | None:
    """Every set's languages side by side, a panel a model; None where no set was measured in several."""
    from matplotlib.figure import Figure

    groups = {
        name: {task.language: (task.protocol, task.metric) for task in group}
        for name, group in languages_of(eval_tasks).items()
        if any(row.set == name for row in rows)
    }
    if not groups:
        return None
    languages = list(dict.fromkeys(language for group in groups.values() for language in group))
    models = list(dict.fromkeys(row.model for row in rows))
    figure = Figure(figsize=(3 + 4.5 * len(models), 1.8 + 0.45 * len(groups)), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    height = 0.8 / len(languages)
    for panel, model in zip(panels, models, strict=True):
        for place, language in enumerate(languages):
            values = [_percent(rows, model, name, group.get(language), language) for name, group in groups.items()]
            panel.barh([y + height * place for y in range(len(groups))], values, height, label=language)
        panel.set(title=model, xlabel="%", xlim=(0, 100))
        panel.set_yticks([y + height * (len(languages) - 1) / 2 for y in range(len(groups))], list(groups))
        panel.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    panels[0].legend(loc="lower right")
    return _save(figure, path)


def _percent(rows: Sequence[Row], model: str, name: str, measured: tuple[str, str] | None, language: str) -> float:
    if measured is None:
        return 0.0
    wanted = (model, name, *measured, language)
    return 100 * next((r.value for r in rows if (r.model, r.set, r.protocol, r.metric, r.language) == wanted), 0.0)


def _save(figure, path: Path) -> Path:
    with atomic_write(path) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
    return path


def _file_name(model: str, task: EvalTask) -> str:
    return re.sub(r"[^\w.-]+", "_", "_".join((model.strip("/."), *task.key)))
