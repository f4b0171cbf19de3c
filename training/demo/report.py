"""What the demo shows: speed, a table, learning curves, and a contact sheet of images never seen."""

import json
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from datasets import Dataset, Image

from training.corpus.emoji import ATTRIBUTION
from training.data import open_image
from training.evaluation.classify import class_embeddings
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.class_names import ClassNames
from training.evaluation.sets.embedded import COLOURS, TEST_SETS
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, Row
from training.utils.timing import Key, interleaved_ms

STAGES = (
    ("teacher", None),
    ("student", "untrained"),
    ("student", "no_teacher"),
    ("student", "distilled"),
    ("student", "aligned"),
)
TEXT = "woman farmer: medium-dark skin tone"


@torch.inference_mode()
def measure_speed(models: Mapping[Key, ZeroShotModel], rows: Dataset) -> dict[tuple[Key, str], float]:
    """Median milliseconds of each model for one prepared image and for one text, at batch 1; the models take turns,
    so that a busy machine is busy for all of them.
    """
    calls: dict[tuple[Key, str], Callable[[], object]] = {}
    for key, model in models.items():
        image = model.processor.image_processor([rows[0]["image"]], return_tensors="pt")["pixel_values"]
        tokens = model.processor.tokenizer([TEXT], return_tensors="pt")
        calls[key, "ms_per_image"] = partial(model.model.get_image_features, pixel_values=image)
        calls[key, "ms_per_text"] = partial(model.model.get_text_features, **tokens)
    return {name: round(statistics.median(times), 2) for name, times in interleaved_ms(calls).items()}


def one_line(rows: list[Row], model: str, stage: str | None, seed: int | None) -> str:
    """What was just measured, in a line."""
    shares = [row for row in rows if (row.model, row.stage, row.seed, row.metric) == (model, stage, seed, "top5")]
    values = ", ".join(f"{row.set.replace('_', ' ')} {row.language} {100 * row.value:.0f} %" for row in shares)
    return f"{', '.join(filter(None, (model, stage)))}: top-5 {values}".replace("no_teacher", "no teacher")


def summary(results: Results) -> str:
    """The table of the demo: a row a model and stage, the mean over seeds."""
    columns = [(name, language, metric) for name in TEST_SETS for language in LANGUAGES for metric in ("top1", "top5")]
    lines = [
        f"{'':22}"
        + "".join(f"{name:>24}" for name in TEST_SETS)
        + f"{'parameters':>14}{'bytes':>13}{'ms/image':>12}{'ms/text':>9}",
        f"{'top-1 / top-5 in %':22}" + "".join(f"{language:>12}" for _ in TEST_SETS for language in LANGUAGES),
    ]
    for model, stage in STAGES:
        if results.mean(model=model, stage=stage, metric="top1") is None:
            continue
        shares = [
            100 * results.mean(model=model, stage=stage, set=s, language=lang, metric=m) for s, lang, m in columns
        ]
        cells = "".join(
            f"{f'{top1:.0f} / {top5:.0f}':>12}" for top1, top5 in zip(shares[::2], shares[1::2], strict=True)
        )
        size = {
            m: results.mean(model=model, stage=stage, metric=m)
            for m in ("parameters", "bytes", "ms_per_image", "ms_per_text")
        }
        cells += f"{size['parameters']:>14,.0f}{size['bytes'] or 0:>13,.0f}"
        cells += f"{size['ms_per_image']:>12.1f}{size['ms_per_text']:>9.1f}"
        name = ", ".join(filter(None, (model, stage))).replace("_", " ")
        lines.append(f"{name:22}{cells}")
    counts = ", ".join(f"{name}: {count} images" for name, count in results.meta["test_images"].items())
    return "\n".join(
        [
            *lines,
            f"({counts}; candidates: all names; 95 % intervals stand in results.json; the teacher is stored in fp16)",
        ]
    )


def cross_model(results: Results) -> str:
    """The table of student and teacher as each other's half, the mean over seeds: whether their embeddings can be
    compared. An index that one of them made can be searched with the other.
    """
    columns = [(name, g, m) for name in TEST_SETS for g in LANGUAGES for m in ("top1", "top5")]
    lines = [
        f"{'':40}" + "".join(f"{name:>24}" for name in TEST_SETS),
        f"{'top-1 / top-5 in %':40}" + "".join(f"{language:>12}" for _ in TEST_SETS for language in LANGUAGES),
    ]
    for seen, read in (("student", "teacher"), ("teacher", "student")):
        for stage in ("distilled", "aligned"):
            model = f"{seen} images, {read} texts"
            shares = [100 * results.mean(model=model, stage=stage, set=s, language=g, metric=m) for s, g, m in columns]
            cells = [f"{top1:.0f} / {top5:.0f}" for top1, top5 in zip(shares[::2], shares[1::2], strict=True)]
            lines.append(f"{f'{seen} sees, {read} reads, {stage}':40}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def _read_log(path: Path) -> list[dict]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "loss" in line]


def plot_curves(results: Results, logs: dict[str, Path], path: Path):
    """Losses over both stages, and top-5 after each, against the teacher's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
    for axis, (stage, log) in zip(axes[:2], logs.items(), strict=True):
        lines = _read_log(log)
        for name in (key for key in lines[0] if key not in ("time", "step", "learning_rate", "images_per_s", "loss")):
            axis.plot(
                [line["step"] for line in lines], [line[name] for line in lines], label=name.replace("_", " "), lw=1.4
            )
        axis.set(
            title=f"loss, stage {'1: distil' if stage == 'distilled' else '2: align'}", xlabel="step", yscale="log"
        )
        axis.legend(frameon=False, fontsize=8)
    stages = [
        stage
        for model, stage in STAGES
        if model == "student" and results.mean(model=model, stage=stage, metric="top5") is not None
    ]
    for language, colour in COLOURS.items():
        for name, style in (("unseen_combination", "o-"), ("unseen_style", "s--")):
            values = [
                100 * results.mean(model="student", stage=stage, set=name, language=language, metric="top5")
                for stage in stages
            ]
            axes[2].plot(
                [stage.replace("_", " ") for stage in stages],
                values,
                style,
                color=colour,
                label=f"{name.replace('_', ' ')}, {language}",
            )
            axes[2].axhline(
                100 * results.mean(model="teacher", set=name, language=language, metric="top5"),
                color=colour,
                ls=":",
                lw=1,
            )
    axes[2].set(title="top-5 among all names (dotted: teacher)", ylabel="%", ylim=(0, 100))
    # between the two test sets, where no curve runs
    axes[2].legend(frameon=False, fontsize=8, loc="center", bbox_to_anchor=(0.77, 0.64))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def plot_contact_sheet(
    model: ZeroShotModel, sets: dict[str, Dataset], class_names: ClassNames, path: Path, columns: int = 6
):
    """Images never seen, with the student's top three names in both languages; a right one is green."""
    from matplotlib.figure import Figure

    rows_per_set = 2
    per_set = columns * rows_per_set
    num_rows = rows_per_set * len(sets)
    figure = Figure(figsize=(2.5 * columns, 3.55 * num_rows + 0.6))
    grid = figure.add_gridspec(
        2 * num_rows,
        columns,
        height_ratios=[1.7, 1.6] * num_rows,
        hspace=0.05,
        left=0.01,
        right=0.99,
        top=0.95,
        bottom=0.03,
    )
    family = ["DejaVu Sans", _chinese_font()]
    classes = {language: class_embeddings(model, names) for language, names in class_names.names.items()}
    for set_number, (name, rows) in enumerate(sets.items()):
        count = min(per_set, len(rows))
        step = (len(rows) // count - 1) | 1  # an odd step meets both drawing styles
        chosen = rows.select(range(0, count * step, step))
        scores = {language: model.encode_images(chosen) @ table.T for language, table in classes.items()}
        pngs = chosen.cast_column("image", Image(decode=False))
        labels = class_names.label_ids(chosen["label"])
        for number in range(count):
            row, column = divmod(number, columns)
            place = 2 * (set_number * rows_per_set + row)
            image, answers = (figure.add_subplot(grid[place + below, column]) for below in (0, 1))
            image.imshow(open_image(pngs[number]["image"]))
            for axis in (image, answers):
                axis.axis("off")
            lines = [f"never seen: {name.removeprefix('unseen_')}"]
            colours = ["#999999"]
            for language, table in scores.items():
                for answer in table[number].topk(3).indices.tolist():
                    lines.append(_shorten(class_names.names[language][answer], 36 if language == "en" else 18))
                    colours.append("#1a7f37" if answer == labels[number] else "#333333")
            for line, (text, colour) in enumerate(zip(lines, colours, strict=True)):
                height = 1 - 0.125 * line - (0.04 if line > 3 else 0)
                answers.text(0.5, height, text, ha="center", va="top", fontsize=8, color=colour, family=family)
    figure.suptitle(
        "Images never seen in training, the student's first three names in English and Chinese; green is right"
    )
    figure.text(0.5, 0.008, ATTRIBUTION.replace("`", ""), ha="center", fontsize=7, color="grey")
    figure.savefig(path, dpi=110)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _chinese_font() -> str:
    """Register the pip package's Noto Sans CJK with matplotlib, whose own fonts have no Chinese."""
    from matplotlib import font_manager

    path = Path(str(files("cvttf_NotoSansCJK_Regular"))) / "NotoSansCJKtc-Regular.otf"
    font_manager.fontManager.addfont(path)
    return font_manager.FontProperties(fname=path).get_name()
