"""The plot: what a model weighs, or how good it is, against what it takes."""

from pathlib import Path

from matplotlib.figure import Figure

from training.hub.cards.device_budget import read_pairs
from training.studies.budget.labels import Point, label
from training.utils.results import Results

OURS, THEIRS = "#d6452a", "#7a8794"


def plot(results: Results, ours: set[str], quality: dict | None, path: Path):
    """Parameters, or quality where it is given, against milliseconds a pair; a line joins a model's PyTorch and its
    best graph.

    Args:
        results: with `derived_rows`.
        ours: the names to set off.
        quality: `{"name": ..., "values": {model: share}}`.
        path: of the image.
    """
    pairs = read_pairs(results)
    threads = max(pair.threads for pair in pairs)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axis = figure.subplots()
    points: list[Point] = []
    places: list[tuple[float, float]] = []
    for model in dict.fromkeys(pair.model for pair in pairs):
        height = quality["values"].get(model) if quality else results.values(model=model, metric="parameters")[0] / 1e6
        if height is None:
            continue
        height *= 100 if quality else 1
        mine = [pair for pair in pairs if (pair.model, pair.threads) == (model, threads)]
        eager = [pair.ms for pair in mine if pair.backend == "eager"]
        graph = sorted(pair.ms for pair in mine if pair.backend.startswith("onnx"))[:1]
        colour = OURS if model in ours else THEIRS
        axis.plot(eager + graph, [height] * len(eager + graph), "-", color=colour, lw=1.2, alpha=0.5, zorder=1)
        axis.plot(eager, [height] * len(eager), "o", mfc="white", mec=colour, ms=7, zorder=2)
        axis.plot(graph, [height] * len(graph), "o", color=colour, ms=8, zorder=3)
        points.append(Point(model, (graph or eager)[0], height, colour))
        places += [(ms, height) for ms in eager + graph]
    axis.set(
        xscale="log",
        yscale="linear" if quality else "log",
        xlabel=f"milliseconds for an image and a text, batch 1, {threads} thread{'s' * (threads > 1)}",
        ylabel=f"{quality['name']}, %" if quality else "parameters, millions",
    )
    for name, marker in (("PyTorch", "white"), ("ONNX Runtime, the faster of fp32 and int8", THEIRS)):
        axis.plot([], [], "o", mfc=marker, mec=THEIRS, label=name)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.grid(which="major", color="#e6e9ec", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:g}")
    axis.margins(0.12)
    label(figure, axis, points, places)
    figure.savefig(path, dpi=130)
