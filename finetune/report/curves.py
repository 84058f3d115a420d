"""The training curves as a picture: phases side by side on one axis, each with lines of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.report.figures import BLUE, GREY, ORANGE, as_png, plain

Row = Mapping[str, Any]
_NAMED = {"accuracy": "accuracy, %", "f1": "F1 of an image's labels", "r2": "share of variance explained"}
_LETTER = 0.075
"""Width of a letter of the phases' names, in inches ..."""
_WIDTH = 3.7
"""... and of a chart, about."""


@dataclass(frozen=True)
class Stretch:
    """The rows of one phase, and where it lies on the axis, in steps."""

    name: str
    rows: tuple[Row, ...]
    begin: float
    end: float

    def points(self, key: str, scale: float) -> list[tuple[float, float]]:
        """(place, value) of the rows that have this figure.

        An epoch's row repeats the mean of its steps: drawn among them it would be a jump that never was. A phase of
        hardly any step rows is drawn by its epochs, and its first step.
        """
        kept = [row for row in self.rows if _number(row.get(key))]
        steps = [row for row in kept if row.get("kind") == "step"]
        return [
            (self.begin + float(row.get("step", 0)), row[key] * scale)
            for row in (steps if len(steps) > 1 else kept)
        ]


def curves(rows: Sequence[Row]) -> bytes:
    """Loss and accuracy over the optimizer steps, one row of metrics.jsonl a point; validation as dots.

    Several phases follow each other on one axis, with a dotted line between them and their names above: no line leads
    from one to the next, which may have begun anew.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    found = stretches(rows)
    score = next((key for key in ("f1", "r2") if any(key in row for row in rows)), "accuracy")
    for axes, key, title in ((loss, "loss", "loss"), (accuracy, score, _NAMED[score])):
        scale = 100 if key == "accuracy" else 1
        for name, colour, style in ((key, BLUE, "-"), (f"val_{key}", ORANGE, "o-")):
            label: str | None = "validation" if name.startswith("val") else "training"
            for stretch in found:
                if points := stretch.points(name, scale):
                    mark = "o-" if len(points) == 1 else style
                    axes.plot(
                        *zip(*points, strict=True),
                        mark,
                        color=colour,
                        label=label,
                        markersize=3,
                        linewidth=1.2,
                    )
                    label = None
        for stretch in found[1:]:
            axes.axvline(stretch.begin, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(title, pad=16 if len(found) > 1 else None)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.has_data():
            axes.legend(frameon=False, fontsize=8)
        plain(axes)
    _name(figure, (loss, accuracy), found)
    return as_png(figure)


def stretches(rows: Sequence[Row]) -> list[Stretch]:
    """The phases in order, one after the other."""
    parts: list[list[Row]] = []
    for row in rows:
        if not parts or _phase(parts[-1][-1]) != _phase(row):
            parts.append([])
        parts[-1].append(row)
    found: list[Stretch] = []
    for part in parts:
        begin = found[-1].end if found else 0.0
        end = begin + max(float(row.get("step", 0)) for row in part)
        found.append(Stretch(str(part[0].get("phase", "")), tuple(part), begin, end))
    return found


def _name(figure: Figure, charts: Sequence[Axes], found: Sequence[Stretch]) -> None:
    """The phases' names above them; numbers, with the names below the picture, where one has no room for its name."""
    if len(found) < 2:
        return
    whole = max(found[-1].end, 1.0)
    fits = all(len(f.name) * _LETTER < _WIDTH * (f.end - f.begin) / whole for f in found)
    for axes in charts:
        axes.set_xlim(-0.02 * whole, 1.02 * whole)
        for number, stretch in enumerate(found, 1):
            axes.text(
                (stretch.begin + stretch.end) / 2, 1.02, stretch.name if fits else str(number), fontsize=8,
                color=GREY, ha="center", va="bottom", transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    if not fits:
        names = ", ".join(f"{number} {stretch.name}" for number, stretch in enumerate(found, 1))
        figure.supxlabel(f"phases: {names}", fontsize=8, color=GREY)


def _phase(row: Row) -> tuple[Any, Any]:
    return row.get("phase_index"), row.get("phase")


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
