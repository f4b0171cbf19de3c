"""What comparisons of training runs share: options, the table and the plot of their arms over several seeds."""

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import transformers
from jsonargparse import ArgumentParser

from training import align, distill
from training.config import AlignRecipe, DistillRecipe
from training.evaluation.models.zero_shot_model import ZeroShotModel
from training.evaluation.sets.embedded import COLOURS, TEST_SETS, HeldOut
from training.text.writing_systems import LANGUAGES
from training.utils.cli import command_of
from training.utils.files import holds_files
from training.utils.results import Results, Row, make_meta, markdown_table


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What to run.

    Args:
        seeds: training seeds of every arm.
        every: keep each `every`-th concept of the corpus only (for a quick try).
        output_dir: a new folder for the runs, removed at the end.
        results_dir: where the numbers and their plot go.
    """

    seeds: list[int]
    every: int = 1
    output_dir: str
    results_dir: str = "model_cards/results"


Options = TypeVar("Options", bound=ComparisonOptions)


def parse_options(options_class: type[Options], module: str, argv: list[str] | None) -> Options:
    """The options of a comparison from its command line, which prints no bars but those of the training."""
    parser = ArgumentParser(prog=f"python -m {module}", allow_abbrev=False)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds of every arm")
    parser.add_class_arguments(options_class, skip={"seeds"})
    options = options_class(**vars(parser.parse_args(argv)))
    if holds_files(Path(options.output_dir)):  # its files may be anybody's
        parser.error(f"output_dir: {options.output_dir!r} is not empty, and it is removed at the end. Name a new one.")
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    return options


def train_stages(
    distil_recipe: DistillRecipe | None, align_recipe: AlignRecipe | None, folders: Sequence[Path]
) -> ZeroShotModel:
    """Run one stage or both, and load what the last one left.

    Args:
        distil_recipe: stage 1, if it is run.
        align_recipe: stage 2, likewise.
        folders: of earlier runs, removed first.
    """
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    last: Any = None
    for script, recipe in ((distill, distil_recipe), (align, align_recipe)):
        if recipe is not None:
            script.run(recipe)
            last = recipe
    return ZeroShotModel.from_pretrained(last.output_dir)


def say(seed: int, label: str, rows: list[Row]):
    """One line on what an arm came to."""
    shares = ", ".join(f"{100 * row.value:.0f}" for row in rows if row.metric == "top5")
    print(f"seed {seed}, {label}: top-5 {shares} %", flush=True)


def collect(
    options: ComparisonOptions, module: str, rows: list[Row], held_out: HeldOut, began: float, **more: Any
) -> Results:
    """The numbers with what made them; the runs are removed.

    Args:
        options: of the comparison.
        module: its command.
        rows: its numbers.
        held_out: what they were measured on.
        began: `time.perf_counter()` at its start.
        more: for the meta.
    """
    shutil.rmtree(options.output_dir, ignore_errors=True)
    meta = make_meta(
        seed=None,
        command=command_of(f"python -m {module}", options),
        seeds=options.seeds,
        seconds=round(time.perf_counter() - began),
        **more,
        **held_out.meta(),
    )
    return Results(meta, rows)


def arms_of(results: Results) -> list[tuple[str, str]]:
    """Question and option of every arm, in the order in which they were run."""
    labels = dict.fromkeys(row.model for row in results.rows)
    return [(question, option) for question, _, option in (label.partition(": ") for label in labels)]


def spread(results: Results, arm: tuple[str, str], set_name: str, language: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of an arm's top-5, in percent."""
    values = results.values(model=": ".join(arm), set=set_name, language=language, metric="top5")
    return 100 * statistics.fmean(values), 100 * statistics.pstdev(values)


def table(results: Results) -> str:
    """Markdown: a row an arm, top-5 in percent, mean and standard deviation over seeds."""
    columns = [(name, language) for name in TEST_SETS for language in LANGUAGES]
    header = ["", "", *(f"{name.replace('_', ' ')} {language}" for name, language in columns)]
    lines = [header, ["---"] * len(header)]
    for arm in arms_of(results):
        cells = [spread(results, arm, *column) for column in columns]
        lines.append([*arm, *(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in cells)])
    return markdown_table(lines)


def plot(results: Results, path: Path):
    """Top-5 of every arm, grouped by question, a panel a set; dots are means, bars one standard deviation."""
    from matplotlib.figure import Figure

    arms = arms_of(results)
    questions = list(dict.fromkeys(question for question, _ in arms))
    heights = [number + 0.8 * questions.index(question) for number, (question, _) in enumerate(arms)]
    figure = Figure(figsize=(12, 1.5 + 0.22 * max(heights)), layout="constrained")
    axes = figure.subplots(1, len(TEST_SETS), sharey=True)
    for axis, set_name in zip(axes, TEST_SETS, strict=True):
        for offset, (language, colour) in zip((-0.13, 0.13), COLOURS.items(), strict=True):
            means, deviations = zip(*(spread(results, arm, set_name, language) for arm in arms), strict=True)
            axis.errorbar(
                means, [y + offset for y in heights], xerr=deviations, fmt="o", color=colour, ms=5, label=language
            )
        axis.set(title=f"{set_name.replace('_', ' ')}, top-5 in %", ylim=(max(heights) + 1, -1))
        axis.set_yticks(heights, [": ".join(arm) for arm in arms])
        axis.grid(axis="y", alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    count = len(results.meta["seeds"])
    figure.suptitle(
        f"{results.meta['steps']} steps an arm, mean and standard deviation over {count} seeds", fontsize=10
    )
    figure.savefig(path, dpi=120)


def print_and_plot(results: Results, options: ComparisonOptions, name: str):
    """Write `name`.json and `name`.png to the options' folder, and print the table."""
    folder = Path(options.results_dir)
    path = results.write(folder, f"{name}.json")
    plot(results, folder / f"{name}.png")
    print(f"\n{table(results)}\n\n{path}")
