"""Plot of latency against the number of parameters, or against accuracy."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.hub.cards.device_budget import Pair, read_pairs
from training.studies.budget.labels import Point, label
from training.studies.budget.names import BASELINE_NAMES
from training.studies.budget.options import Quality
from training.utils.results import Results

OUR_COLOUR, BASELINE_COLOUR = "#d6452a", "#7a8794"


def plot(results: Results, quality: Quality | None, path: Path):
    """Plot each model: latency of an image-text pair against parameters, or against quality.

    A line joins a model's latency in PyTorch with that of its fastest ONNX graph. The largest number of threads is
    plotted.

    Args:
        results: Results with `derived_rows`.
        quality: Accuracy by model; None plots parameters.
        path: Path of the PNG file.
    """
    pairs = read_pairs(results)
    threads = max(pair.threads for pair in pairs)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axis = figure.subplots()
    points: list[Point] = []
    markers: list[tuple[float, float]] = []
    for model in dict.fromkeys(pair.model for pair in pairs):
        if quality is None:
            height = results.values(model=model, metric="parameters")[0] / 1e6
        elif model in quality.values:
            height = 100 * quality.values[model]
        else:
            continue
        colour = BASELINE_COLOUR if model in BASELINE_NAMES else OUR_COLOUR
        latencies = _plot_model(
            axis, [pair for pair in pairs if (pair.model, pair.threads) == (model, threads)], height, colour
        )
        points.append(Point(model, latencies[-1], height, colour))
        markers += [(ms, height) for ms in latencies]
    axis.set(
        xscale="log",
        yscale="linear" if quality else "log",
        xlabel=f"milliseconds per image-text pair, batch 1, {threads} thread{'s' * (threads > 1)}",
        ylabel=f"{quality.name}, %" if quality else "parameters, millions",
    )
    for name, marker in (("PyTorch", "white"), ("ONNX Runtime, the faster of fp32 and int8", BASELINE_COLOUR)):
        axis.plot([], [], "o", mfc=marker, mec=BASELINE_COLOUR, label=name)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    axis.grid(which="major", color="#e6e9ec", lw=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{value:g}")
    axis.margins(0.12)
    label(axis, points, markers)
    figure.savefig(path, dpi=130)


def _plot_model(axis: Axes, pairs: list[Pair], height: float, colour: str) -> list[float]:
    """Plot the latencies of one model on one line; return them in ms, that of the fastest graph last."""
    eager = [pair.ms for pair in pairs if pair.backend == "eager"]
    graph = sorted(pair.ms for pair in pairs if pair.backend.startswith("onnx"))[:1]
    latencies = eager + graph
    axis.plot(latencies, [height] * len(latencies), "-", color=colour, lw=1.2, alpha=0.5, zorder=1)
    axis.plot(eager, [height] * len(eager), "o", mfc="white", mec=colour, ms=7, zorder=2)
    axis.plot(graph, [height] * len(graph), "o", color=colour, ms=8, zorder=3)
    return latencies
