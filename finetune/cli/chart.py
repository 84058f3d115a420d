"""A curve in characters, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def chart(xs: Sequence[float], ys: Sequence[float], marks: Mapping[float, str] | None = None,
          width: int = 60, height: int = 10) -> list[str]:  # fmt: skip
    """Lines of text: ys over xs on a log axis, a star a column; ``marks`` names places below the axis.

    >>> for line in chart([1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0], {1e-2: "here"}, width=9, height=3):
    ...     print(line)
    3.00 |*
    2.00 |    *
    1.00 |        *
         +---------
          0.001 0.1
              ^ here
    """
    low, high = min(ys), max(ys)
    span, left, right = (high - low) or 1.0, math.log10(xs[0]), math.log10(xs[-1])

    def column(x: float) -> int:
        share = (math.log10(x) - left) / ((right - left) or 1.0)
        return min(width - 1, max(0, round(share * (width - 1))))

    rows = [[" "] * width for _ in range(height)]
    for x, y in zip(xs, ys, strict=True):
        rows[round((high - y) / span * (height - 1))][column(x)] = "*"
    values = [high - span * i / max(1, height - 1) for i in range(height)]
    labels = [f"{value:.2f}" if high < 100 else f"{value:.3g}" for value in values]
    margin = max(map(len, labels))
    lines = [f"{label:>{margin}} |{''.join(row).rstrip()}" for label, row in zip(labels, rows, strict=True)]
    first, last = f"{xs[0]:.2g}", f"{xs[-1]:.2g}"
    lines.append(" " * margin + " +" + "-" * width)
    lines.append(" " * (margin + 2) + first + last.rjust(max(len(last) + 1, width - len(first))))
    for x, name in (marks or {}).items():
        lines.append(" " * (margin + 2 + column(x)) + f"^ {name}")
    return lines
