"""Names beside points, where no line, point or other name is in their way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from finetune.report import glyphs

_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
"""Where a name may lie, the nicest first: right, left, above, below, the corners."""
_FAR = (9.0, 16.0, 24.0, 34.0)
"""Distances from the point, in points."""
_ALIGN_X = {1: "left", 0: "center", -1: "right"}
_ALIGN_Y = {1: "bottom", 0: "center", -1: "top"}
_OUTSIDE, _CROSSED, _LATER = 100.0, 40.0, 0.5
"""What it costs to lie outside the chart, to cross something, and to be a less nice place."""
_MISTAKEN = 6.0
"""What it costs to lie across a line or a name from its point, or nearer to another."""
_MARK = 5.0
"""Half the width of a point, in pixels."""
_ROOM = 3.0
"""Pixels that stay free around a name."""


@dataclass(frozen=True)
class Named:
    """A point in data coordinates, and how its name is written."""

    text: str
    x: float
    y: float
    colour: str
    size: int


def place(
    figure: Figure, axes: Axes, names: Sequence[Named], rows: Sequence[float], columns: Sequence[float],
    others: Sequence[Text] = (),
) -> list[Annotation]:  # fmt: skip
    """Write the names, the first ones where they like best. ``rows`` and ``columns``: horizontal and vertical lines;
    ``others``: texts that lie there already. Everything else of the figure must have been drawn before."""
    found = [_written(axes, name) for name in names]
    glyphs.complete(figure)
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    points = [tuple(axes.transData.transform((name.x, name.y))) for name in names]
    ups = [axes.transData.transform((0.5, row))[1] for row in rows]
    acrosses = [axes.transData.transform((column, names[0].y))[0] for column in columns]
    lines = [Bbox.from_extents(inside.x0, y, inside.x1, y) for y in ups]
    lines += [Bbox.from_extents(x, inside.y0, x, inside.y1) for x in acrosses]
    taken = [*lines, *(text.get_window_extent() for text in others), *(_around(p, p) for p in points)]
    placed: list[Bbox] = []
    for text, point in zip(found, points, strict=True):
        choices = [(far, side) for far in _FAR for side in _SIDES]
        costs = []
        for i, choice in enumerate(choices):
            box = _moved(text, *choice)
            outside = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
            apart = _around(point, ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
            parted = sum(map(apart.overlaps, placed))
            parted += sum(apart.overlaps(line) for line in lines if not _around(point, point).overlaps(line))
            nearer = any(_distance(box, other) < _distance(box, point) - 1 for other in points)
            costs.append(
                _LATER * i + _OUTSIDE * outside + _CROSSED * sum(map(box.overlaps, [*taken, *placed]))
                + _MISTAKEN * (parted + nearer)
            )  # fmt: skip
        placed.append(_moved(text, *choices[costs.index(min(costs))]))
    return found


def _written(axes: Axes, name: Named) -> Annotation:
    short = name.text if len(name.text) <= 32 else name.text[:31] + "…"
    text = axes.annotate(
        short, (name.x, name.y), xytext=(0, 0), textcoords="offset points", fontsize=name.size, color=name.colour,
        zorder=6, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        arrowprops={"arrowstyle": "-", "color": name.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3},
    )  # fmt: skip
    text.set_in_layout(False)  # the chart must not move when a name does
    return text


def _moved(text: Annotation, far: float, side: tuple[int, int]) -> Bbox:
    """Put it there; the pixels that it takes."""
    across, up = side
    each = far if 0 in side else 0.7 * far
    text.set(ha=_ALIGN_X[across], va=_ALIGN_Y[up], position=(across * each, up * each))
    assert text.arrow_patch is not None
    text.arrow_patch.set_visible(far > _FAR[0])  # a thin line leads from a name that is far off to its point
    return Text.get_window_extent(text).padded(_ROOM)


def _around(point: Sequence[float], end: Sequence[float]) -> Bbox:
    """From a point's mark to ``end``."""
    xs, ys = sorted((point[0], end[0])), sorted((point[1], end[1]))
    return Bbox.from_extents(xs[0] - _MARK, ys[0] - _MARK, xs[1] + _MARK, ys[1] + _MARK)


def _distance(box: Bbox, point: Sequence[float]) -> float:
    x, y = (max(low - at, 0.0, at - high) for at, low, high in zip(point, box.min, box.max, strict=True))
    return math.hypot(x, y)
