"""Table and plot of the claims on photographs, rendered from their results."""

from pathlib import Path

from training.studies.many_runs import mean_and_spread
from training.text.writing_systems import LANGUAGES
from training.utils.files import atomic_write
from training.utils.results import Results, markdown_table

K = 10  # of the recall that the table and the plot show
METRICS = {"Text to image": f"text_to_image_R@{K}", "Image to text": f"image_to_text_R@{K}"}
COLOURS = {"en": "#2a78d6", "zh": "#d6452a"}


def claims_table(results: Results) -> str:
    """Render recall at 10 in percent, English / Chinese, the mean over seeds with its standard deviation.

    Args:
        results: Results of `python -m training.studies.photographs.claims`.

    Returns:
        Markdown table with a line for each arm.
    """
    lines = [["R@10, %, en / zh", "Seeds", *METRICS], ["---", *["---:"] * (len(METRICS) + 1)]]
    for arm in dict.fromkeys(row.model for row in results.rows):
        seeds = {row.seed for row in results.rows if row.model == arm}
        cells = [_pair(results, model=arm, metric=metric) for metric in METRICS.values()]
        lines.append([arm, f"{len(seeds)}", *cells])
    return markdown_table(lines)


def _pair(results: Results, **fields: str) -> str:
    return " / ".join(mean_and_spread(results.values(**fields, language=language)) for language in LANGUAGES)


def plot(results: Results, path: Path):
    """Plot text-to-image recall of every arm.

    Args:
        results: Results of the study.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    arms = list(dict.fromkeys(row.model for row in results.rows))
    figure = Figure(figsize=(8, 0.4 * len(arms) + 1.2), layout="constrained")
    axis = figure.subplots()
    for number, arm in enumerate(arms):
        for offset, language in zip((-0.15, 0.15), LANGUAGES, strict=True):
            values = results.values(model=arm, metric=METRICS["Text to image"], language=language)
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
