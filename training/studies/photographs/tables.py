"""Table and plot of the claims and of text-only alignment, rendered from their results."""

from pathlib import Path

from training.studies.labelled import TOP1
from training.studies.many_runs import mean_and_spread
from training.text.writing_systems import LANGUAGES
from training.utils.files import atomic_write
from training.utils.results import Results, markdown_table

K = 10  # of the recall that the table and the plot show
TEXT_TO_IMAGE = f"text_to_image_R@{K}"
METRICS = {
    f"Text to image R@{K}": TEXT_TO_IMAGE,
    f"Image to text R@{K}": f"image_to_text_R@{K}",
    "Zero-shot top-1": TOP1,
}
MINUTES = "cpu_minutes"  # of the training of an arm, with all earlier stages
COLOURS = {"en": "#2a78d6", "zh": "#d6452a"}


def arms_table(results: Results) -> str:
    """Render accuracy in percent, English / Chinese, the mean over seeds with its standard deviation.

    Args:
        results: Results of a study of this folder.

    Returns:
        Markdown table with a line for each arm, and a column for each metric that was measured.
    """
    metrics = {title: metric for title, metric in METRICS.items() if results.values(metric=metric)}
    timed = bool(results.values(metric=MINUTES))
    header = ["%, en / zh", "Seeds", *metrics, *(["Minutes of one core"] if timed else [])]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for arm in arms_of(results):
        seeds = {row.seed for row in results.rows if row.model == arm} - {None}
        minutes = results.mean(model=arm, metric=MINUTES)
        lines.append(
            [
                arm,
                f"{len(seeds)}" if seeds else "",
                *(_pair(results, model=arm, metric=metric) for metric in metrics.values()),
                *([f"{minutes:.1f}" if minutes is not None else ""] if timed else []),
            ]
        )
    return markdown_table(lines)


def arms_of(results: Results) -> list[str]:
    """Names of all arms, in the order of the results."""
    return list(dict.fromkeys(row.model for row in results.rows))


def _pair(results: Results, **fields: str) -> str:
    return " / ".join(mean_and_spread(results.values(**fields, language=language)) for language in LANGUAGES)


def plot(results: Results, path: Path):
    """Plot text-to-image recall of every arm.

    Args:
        results: Results of the study.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    arms = arms_of(results)
    figure = Figure(figsize=(8, 0.4 * len(arms) + 1.2), layout="constrained")
    axis = figure.subplots()
    for number, arm in enumerate(arms):
        for offset, language in zip((-0.15, 0.15), LANGUAGES, strict=True):
            values = results.values(model=arm, metric=TEXT_TO_IMAGE, language=language)
            heights = [number + offset] * len(values)
            axis.scatter([100 * value for value in values], heights, color=COLOURS[language], s=14)
    for language, colour in COLOURS.items():
        axis.scatter([], [], color=colour, s=14, label=language)
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel=f"text-to-image R@{K}, % (a dot is a seed)")
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")
