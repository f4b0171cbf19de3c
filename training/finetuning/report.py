"""The end of a run: a table, a plot and the results."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.finetuning.interpolate import Point
from training.finetuning.measure import GENERAL, GENERAL_IMAGES, VALIDATION
from training.utils.files import atomic_write, write_text
from training.utils.results import RESULTS_FILE, Results, Row, markdown_table

TABLE_FILE, PLOT_FILE = "table.md", "finetune.png"
START, FINETUNED = "start", "finetuned"
COLOURS = {VALIDATION: "#2a78d6", GENERAL: "#d6452a", GENERAL_IMAGES: "#3a9a4a"}


@dataclass(frozen=True)
class Outcome:
    """Result of a run.

    Args:
        before: Rows of the starting model.
        after: Rows of the finished model, in the same order.
        chance: Value of each row for a model that answers at random, 0..1.
        points: Points between the starting model and the end of training.
        chosen: Point of the finished model.
    """

    before: list[Row]
    after: list[Row]
    chance: list[float]
    points: list[Point]
    chosen: Point

    def describe(self) -> dict[str, Any]:
        """The choice of the point, for `results.json`."""
        return {"weight": self.chosen.weight, "curve": [asdict(point) for point in self.points]}

    def table(self) -> str:
        """Accuracy before and after in percent, as Markdown."""
        lines = [["set", "language", "metric", "before", "after", "95 % interval", "chance"]]
        lines.append(["---"] * 3 + ["---:"] * 4)
        for before, after, chance in zip(self.before, self.after, self.chance, strict=True):
            low, high = after.interval or (after.value, after.value)
            numbers = [_percent(before.value), _percent(after.value), f"{_percent(low)} to {_percent(high)}"]
            names = [str(after.set), str(after.language), after.metric.replace("_", " ")]
            lines.append([*names, *numbers, _percent(chance)])
        return markdown_table(lines)

    def choice(self) -> str:
        """One sentence about the chosen point."""
        kept = " and ".join(self.chosen.general)
        if not self.chosen.weight:
            return (
                "No point between the starting model and the end of training is better on the validation split while "
                f"it keeps the accuracy on {kept}, so the finished model equals the starting model. More images "
                "help most."
            )
        return (
            f"The finished model is the starting model plus {self.chosen.weight:.1f} of its change in training, the "
            f"best point on the validation split that loses at most 1 point on {kept}."
        )


def write_report(folder: Path, outcome: Outcome, meta: dict[str, Any]) -> Results:
    """Write `results.json`, `table.md` and `finetune.png`.

    Args:
        folder: Folder of the finished model.
        outcome: Result of the run.
        meta: Provenance of the numbers, as returned by `training.utils.results.make_meta`.
    """
    results = Results(meta, [*outcome.before, *outcome.after])
    results.write(folder, RESULTS_FILE)
    write_text(folder / TABLE_FILE, f"{outcome.table()}\n\n{outcome.choice()}\n")
    plot(outcome, folder / PLOT_FILE)
    return results


def plot(outcome: Outcome, path: Path):
    """Plot accuracy before and after, and the accuracy of all points of the interpolation.

    Args:
        outcome: Result of the run.
        path: PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 0.32 * len(outcome.after) + 2.2), layout="constrained")
    bars, curve = figure.subplots(1, 2, width_ratios=[1.3, 1])
    labels = [f"{row.set}, {row.language}: {row.metric.replace('_', ' ')}" for row in outcome.after]
    for number, (before, after) in enumerate(zip(outcome.before, outcome.after, strict=True)):
        bars.barh(number - 0.2, 100 * before.value, 0.38, color="#bbbbbb")
        bars.barh(number + 0.2, 100 * after.value, 0.38, color=COLOURS[str(after.set)])
    bars.set_yticks(range(len(labels)), labels, fontsize=8)
    bars.invert_yaxis()
    bars.set(title="before (grey) and after", xlabel="%", xlim=(0, 100))
    weights = [point.weight for point in outcome.points]
    curves = {VALIDATION: [point.validation for point in outcome.points]}
    curves |= {name: [point.general[name] for point in outcome.points] for name in outcome.chosen.general}
    for name, values in curves.items():
        curve.plot(weights, [100 * value for value in values], "o-", color=COLOURS[name], label=name)
    curve.axvline(outcome.chosen.weight, color="#333333", ls=":", lw=1)
    curve.set(title="interpolation (dotted: chosen)", xlabel="weight of the end of training", ylabel="mean, %")
    curve.legend(frameon=False, fontsize=8)
    for axis in (bars, curve):
        axis.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as scratch:
        figure.savefig(scratch, dpi=110, format="png")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
