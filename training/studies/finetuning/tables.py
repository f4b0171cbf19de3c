"""Table and plot of the study of fine-tuning, rendered from its results."""

from pathlib import Path

from training.finetuning.measure import GENERAL
from training.studies.labelled import TOP1
from training.studies.many_runs import mean_and_spread
from training.text.writing_systems import LANGUAGES
from training.utils.files import atomic_write
from training.utils.results import Results, markdown_table

START, TEST, PHOTOGRAPHS = "start", "test split", "photographs"
TEST_METRIC, GENERAL_METRIC = "text_to_image_R@10", "text_to_text_R@1"
# title and fields of each column
COLUMNS: tuple[tuple[str, dict[str, str | None]], ...] = (
    ("R@10 on the test split", {"set": TEST, "metric": TEST_METRIC}),
    ("R@10 on photographs", {"set": PHOTOGRAPHS, "metric": TEST_METRIC}),
    ("Top-1 on photographs", {"metric": TOP1}),
    ("General texts", {"set": GENERAL, "metric": GENERAL_METRIC}),
)
COLOURS = {"default": "#2a78d6", "no_photos": "#7db4f0", "plain": "#d6452a", "lora": "#3a9a4a"}
OTHER_COLOURS = ("#8a4fc4", "#e0a030", "#333333")  # of arms with general images, in order


def runs_of(results: Results) -> list[tuple[str, str]]:
    """Number of pairs and arm of all runs, in the order of the results."""
    return list(dict.fromkeys((row.stage, row.model) for row in results.rows if row.stage is not None))


def finetuning_table(results: Results) -> str:
    """Render accuracy in percent, English / Chinese, the mean over seeds with its standard deviation.

    Args:
        results: Results of `python -m training.studies.finetuning`.

    Returns:
        Markdown table with a line for the starting model, and one for each number of pairs and arm.
    """
    lines = [["%, en / zh", "Seeds", *(title for title, _ in COLUMNS), "Minutes of one core"]]
    lines.append(["---", *["---:"] * (len(COLUMNS) + 2)])
    for stage, arm in [(None, START), *runs_of(results)]:
        seeds = {row.seed for row in results.rows if (row.stage, row.model) == (stage, arm)}
        cells = [_pair(results, {"stage": stage, "model": arm} | fields) for _, fields in COLUMNS]
        minutes = results.mean(stage=stage, model=arm, metric="cpu_minutes")
        title = "starting model" if stage is None else f"{stage}, {arm}"
        lines.append([title, "" if stage is None else f"{len(seeds)}", *cells, f"{minutes:.1f}" if minutes else ""])
    return markdown_table(lines)


def _pair(results: Results, fields: dict[str, str | None]) -> str:
    return " / ".join(mean_and_spread(results.values(**fields, language=language)) for language in LANGUAGES)


def plot(results: Results, path: Path):
    """Plot what each run gained on the test split against what it lost on photographs.

    Args:
        results: Results of the study.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    runs = runs_of(results)
    others = list(dict.fromkeys(arm for _, arm in runs if arm not in COLOURS))
    colours = COLOURS | {arm: OTHER_COLOURS[number % 3] for number, arm in enumerate(others)}
    figure = Figure(figsize=(6 * len(LANGUAGES), 4.5), layout="constrained")
    for axis, language in zip(figure.subplots(1, len(LANGUAGES), sharey=True), LANGUAGES, strict=True):
        for number, (stage, arm) in enumerate([(None, START), *runs]):
            fields = {"stage": stage, "model": arm, "language": language, "metric": TEST_METRIC}
            gained, kept = (
                [100 * value for value in results.values(**fields, set=name)] for name in (TEST, PHOTOGRAPHS)
            )
            label = START if stage is None else f"{stage}, {arm}"
            axis.scatter(kept, gained, color=colours.get(arm, "#777777"), marker="osD^v"[number % 5], label=label)
        axis.set(title=language, xlabel="R@10 on photographs, %")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("R@10 on the test split, %")
    figure.axes[0].legend(frameon=False, fontsize=8)
    with atomic_write(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")
