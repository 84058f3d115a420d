"""The table that every transfer-learning course shows, and where a data set falls in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Amount = Literal["very little", "in between", "quite a lot"]
Likeness = Literal["very similar", "in between", "very different"]
Row = Literal["very little data", "quite a lot of data"]
Column = Literal["very similar", "very different"]

ROWS: tuple[Row, ...] = ("very little data", "quite a lot of data")
COLUMNS: tuple[Column, ...] = ("very similar", "very different")

TEXTBOOK: dict[tuple[Row, Column], tuple[str, str]] = {
    ("very little data", "very similar"): ("linear", "linear classifier on the top layer"),
    ("very little data", "very different"): (
        "multistage",
        "you're in trouble: linear classifier from several stages",
    ),
    ("quite a lot of data", "very similar"): ("partial", "finetune a few layers"),
    ("quite a lot of data", "very different"): ("lp-ft", "finetune a larger number of layers"),
}
"""Cell -> (strategy, the table's words)."""


@dataclass(frozen=True)
class Thresholds:
    """Where the axes are cut. Proposals, to be judged by the regret benchmark."""

    little_per_class: float = 10
    """Below this median of images a class the data are very little ..."""
    little_images: int = 300
    """... or below this many images in all."""
    lots_per_class: float = 30
    """From this median of images a class on the data are quite a lot ..."""
    lots_images: int = 1500
    """... if there are this many images in all as well."""
    similar: float = 0.70
    """From this similarity on: very similar."""
    different: float = 0.45
    """Below this similarity: very different."""
    middle: float = 0.60
    """Similarity that parts the columns where the answer is in between; as fitted on the benchmark's rows."""


THRESHOLDS = Thresholds()


def amount_of(n: int, median: float, cut: Thresholds = THRESHOLDS) -> Amount:
    """The label of the vertical axis from images in all and the median a class.

    >>> amount_of(250, 10), amount_of(1000, 25), amount_of(5000, 500)
    ('very little', 'in between', 'quite a lot')
    """
    if median < cut.little_per_class or n < cut.little_images:
        return "very little"
    return "quite a lot" if median >= cut.lots_per_class and n >= cut.lots_images else "in between"


def likeness_of(similarity: float, cut: Thresholds = THRESHOLDS) -> Likeness:
    """The label of the horizontal axis.

    >>> likeness_of(0.8), likeness_of(0.5), likeness_of(0.1)
    ('very similar', 'in between', 'very different')
    """
    if similarity >= cut.similar:
        return "very similar"
    return "very different" if similarity < cut.different else "in between"


def cell_of(amount: Amount, similarity: float, cut: Thresholds = THRESHOLDS) -> tuple[Row, Column]:
    """The cell, borders resolved: amounts in between count as a lot.

    Tuning too little costs more accuracy than tuning too much: on VTAB-1k always-linear loses 13 points on
    average, always-full 0.7.

    >>> cell_of("in between", 0.6)
    ('quite a lot of data', 'very similar')
    """
    row: Row = "very little data" if amount == "very little" else "quite a lot of data"
    return row, "very similar" if similarity >= cut.middle else "very different"


def render(cell: tuple[Row, Column] | None = None) -> str:
    """The table in plain text, the chosen cell between arrows.

    >>> render(("very little data", "very similar")).splitlines()[2].split("|")[1].strip()
    '> linear classifier on the top layer <'
    """
    width = {c: max(len(TEXTBOOK[r, c][1]) for r in ROWS) + 4 for c in COLUMNS}
    heads = {"very similar": "very similar data set", "very different": "very different data set"}
    lines = [" " * 20 + "|   " + " |   ".join(heads[c].ljust(width[c] - 2) for c in COLUMNS).rstrip()]
    lines.append("-" * 20 + "+" + "+".join("-" * (width[c] + 2) for c in COLUMNS))
    for row in ROWS:
        cells = []
        for column in COLUMNS:
            words = TEXTBOOK[row, column][1]
            marked = f"> {words} <" if (row, column) == cell else f"  {words}  "
            cells.append(marked.ljust(width[column]))
        lines.append(row.ljust(20) + "| " + " | ".join(cells).rstrip())
    return "\n".join(lines)
