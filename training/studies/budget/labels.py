"""Names beside the points of a plot."""

from collections.abc import Sequence
from dataclasses import dataclass

from adjustText import adjust_text
from matplotlib.axes import Axes

# size of the box that is kept free around a name, relative to the name; the rest is room for the markers
EXPAND = (1.2, 2.0)
# a number of iterations, unlike the default time limit, gives the same plot on every machine
MAX_ITERATIONS = 1000


@dataclass(frozen=True)
class Point:
    """A point and its name.

    Args:
        name: Text to write.
        x: Horizontal coordinate, in data units.
        y: Vertical coordinate, in data units.
        colour: Colour of the text.
    """

    name: str
    x: float
    y: float
    colour: str


def label(axis: Axes, points: Sequence[Point], markers: Sequence[tuple[float, float]]):
    """Write names beside points so that they cover neither each other nor a marker.

    Call it last: later changes of the axis limits move the markers away from the names.

    Args:
        axis: Axis with all markers on it.
        points: Points to name.
        markers: Coordinates (x, y) of all markers, in data units.
    """
    texts = [
        axis.text(point.x, point.y, point.name, fontsize=8, color=point.colour, ha="center", va="center")
        for point in points
    ]
    adjust_text(
        texts,
        x=[x for x, _ in markers],
        y=[y for _, y in markers],
        ax=axis,
        expand=EXPAND,
        iter_lim=MAX_ITERATIONS,
        arrowprops={"arrowstyle": "-", "color": "#7a8794", "lw": 0.6},
    )
