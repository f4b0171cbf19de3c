"""Table and plot of the arms of a comparison. An arm is named `FACTOR: SETTING` in the results."""

import statistics
from pathlib import Path

from training.evaluation.sets.held_out import COLOURS, TEST_SETS
from training.studies.many_runs import mean_and_spread
from training.text.writing_systems import LANGUAGES
from training.utils.results import Results, markdown_table


def arms_of(results: Results) -> list[tuple[str, str]]:
    """Factor and setting of every arm, in the order of the runs."""
    labels = dict.fromkeys(row.model for row in results.rows)
    return [(factor, setting) for factor, _, setting in (label.partition(": ") for label in labels)]


def values_of(results: Results, arm: tuple[str, str], set_name: str, language: str) -> list[float]:
    """Top-5 accuracy of an arm, 0..1, one value for each seed.

    Args:
        results: Results of the comparison.
        arm: Factor and setting.
        set_name: Name of the test set.
        language: Language of the candidates.
    """
    return results.values(model=": ".join(arm), set=set_name, language=language, metric="top5")


def table(results: Results) -> str:
    """A Markdown table with a row per arm: top-5 accuracy in percent, mean and standard deviation over seeds."""
    columns = [(name, language) for name in TEST_SETS for language in LANGUAGES]
    header = ["", "", *(f"{name.replace('_', ' ')} {language}" for name, language in columns)]
    lines = [header, ["---"] * len(header)]
    for arm in arms_of(results):
        lines.append([*arm, *(mean_and_spread(values_of(results, arm, *column)) for column in columns)])
    return markdown_table(lines)


def plot(results: Results, path: Path):
    """Plot the top-5 accuracy of every arm, grouped by factor, with a panel per test set.

    Dots are means over seeds, bars are one standard deviation.

    Args:
        results: Results of the comparison.
        path: Path of the PNG file.
    """
    from matplotlib.figure import Figure

    arms = arms_of(results)
    factors = list(dict.fromkeys(factor for factor, _ in arms))
    heights = [number + 0.8 * factors.index(factor) for number, (factor, _) in enumerate(arms)]
    figure = Figure(figsize=(12, 1.5 + 0.22 * max(heights)), layout="constrained")
    axes = figure.subplots(1, len(TEST_SETS), sharey=True)
    for axis, set_name in zip(axes, TEST_SETS, strict=True):
        for offset, (language, colour) in zip((-0.13, 0.13), COLOURS.items(), strict=True):
            values = [[100 * value for value in values_of(results, arm, set_name, language)] for arm in arms]
            means = [statistics.fmean(each) for each in values]
            deviations = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
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
        f"{results.meta['steps']} steps per arm; mean and standard deviation over {count} seeds", fontsize=10
    )
    figure.savefig(path, dpi=120)
