"""Names beside points, where they cover neither each other nor a point."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

# offset in points of the page, and how the name is aligned to it
SIDES = (
    (0, 9, "center", "bottom"),
    (0, -9, "center", "top"),
    (-9, 0, "right", "center"),
    (9, 0, "left", "center"),
    (-9, 9, "right", "bottom"),
    (9, 9, "left", "bottom"),
    (-9, -9, "right", "top"),
    (9, -9, "left", "top"),
    (-16, 22, "right", "bottom"),
    (16, 22, "left", "bottom"),
    (-16, -22, "right", "top"),
    (16, -22, "left", "top"),
    (-24, 38, "right", "bottom"),
    (24, 38, "left", "bottom"),
    (-24, -38, "right", "top"),
    (24, -38, "left", "top"),
)
RADIUS = 6  # of a point, in pixels
FAR = 20  # a name as far as this is joined to its point by a line


@dataclass(frozen=True)
class Point:
    """A point and its name.

    Args:
        name: what is written.
        x: in the units of the axis.
        y: likewise.
        colour: of the name.
    """

    name: str
    x: float
    y: float
    colour: str


def label(figure: Figure, axis: Axes, points: list[Point], places: list[tuple[float, float]]):
    """Write each name on the first side of its point where there is room, or else above it.

    Args:
        figure: with the axis; it is drawn once, so that sizes are known.
        axis: with all points on it.
        points: to be named.
        places: what no name may cover, in the units of the axis.
    """
    figure.draw_without_rendering()
    centres = [axis.transData.transform(place) for place in places]
    taken = [Bbox([centre - RADIUS, centre + RADIUS]) for centre in centres]
    boxes: list[Bbox] = []
    for point in points:
        for side in SIDES:
            text = _write(axis, point, *side)
            box = words_box(text).padded(1)
            if not any(box.overlaps(other) for other in boxes + taken):
                break
            text.remove()
        else:
            box = words_box(_write(axis, point, *SIDES[0]))
        boxes.append(box)


def words_box(text: Annotation) -> Bbox:
    """Where the words of a name stand, in pixels, without the line to its point."""
    text.get_window_extent()  # moves it to its place
    return Text.get_window_extent(text)


def _write(axis: Axes, point: Point, dx: float, dy: float, horizontal: str, vertical: str) -> Annotation:
    offset: dict[str, Any] = {"textcoords": "offset points", "ha": horizontal, "va": vertical}
    if abs(dy) >= FAR:
        offset["arrowprops"] = {"arrowstyle": "-", "color": point.colour, "lw": 0.6, "shrinkB": 5}
    return axis.annotate(point.name, (point.x, point.y), (dx, dy), fontsize=8, color=point.colour, **offset)
