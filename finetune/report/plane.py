"""The plane that the decision is made on: amount x similarity, its cells, this data set among known ones."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, NullFormatter

from finetune.report.figures import GREY, ORANGE, as_png
from finetune.report.placing import Named, place
from finetune.strategy.table import TEXTBOOK, THRESHOLDS, Column, Row, Thresholds

Known = tuple[str, float, float]
"""(name, images a class, similarity) of a data set."""

BENCHMARK: dict[str, tuple[Known, ...]] = {
    "embedded": (
        ("ants and bees", 104, 0.64),
        ("brain scans", 88.5, 0.66),
        ("drawn edges", 7, 0.65),
        ("traffic signs", 30, 0.33),
        ("flowers", 548, 0.29),
        ("mnist", 850, 0.20),
        ("tiny-imagenet, other classes", 425, 0.85),
    ),
}
"""Backbone -> data sets of the regret benchmark as it sees them: all their images, at its own input size (median and
similarity of ``finetune strategy advise --data DIR --explain json``; hymenoptera, brain_mri, edges, gtsrb by track,
flowers_thumb, mnist_png, tinyimagenet_target25). Similarity is a matter of the backbone: others have none yet."""


def plane(
    name: str,
    amount: float,
    similarity: float,
    num_classes: int,
    known: Sequence[Known] = (),
    cut: Thresholds = THRESHOLDS,
) -> bytes:
    """PNG: similarity to the right, images a class upwards on a log axis, the borders of the cells.

    amount: median images a class; similarity: in [0, 1]. The border of the rows depends on the images in all
    too, so it is drawn for ``num_classes`` classes. ``known`` are grey points, named.
    """
    few = max(cut.little_per_class, cut.little_images / num_classes)
    many = max(cut.lots_per_class, cut.lots_images / num_classes, few)
    heights = [amount, few, many, *(a for _, a, _ in known)]
    low, high = min(1.0, *heights) / 1.6, max(heights) * 4
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.set(xlim=(0, 1), ylim=(low, high), xlabel="similarity to what the network was trained on")
    axes.set_ylabel(f"training images a class (median of {num_classes} classes)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.axhspan(few, many, color=GREY, alpha=0.10, linewidth=0)
    axes.axvspan(cut.different, cut.similar, color=GREY, alpha=0.10, linewidth=0)
    axes.axhline(few, color=GREY, linewidth=1.2)
    axes.axvline(cut.middle, color=GREY, linewidth=1.2)
    rows: dict[Row, float] = {"very little data": 0.02, "quite a lot of data": 0.98}
    columns: dict[Column, float] = {"very different": cut.middle / 2, "very similar": (1 + cut.middle) / 2}
    cells: list[Text] = []
    for row, y in rows.items():
        for column, x in columns.items():
            strategy, _ = TEXTBOOK[row, column]
            text = f"{row}, {column}:\ntextbook says {strategy}"
            # Inside the axes, at the outer edge of the cell: the points are more likely near the borders.
            edge = "bottom" if y < 0.5 else "top"
            cells.append(
                axes.text(x, y, text, transform=axes.transAxes, fontsize=8, color=GREY, ha="center", va=edge)
            )
    axes.plot([s for _, _, s in known], [a for _, a, _ in known], "o", color=GREY, markersize=5, alpha=0.8)
    (mark,) = axes.plot([similarity], [amount], "o", color=ORANGE, markersize=11, markeredgecolor="white")
    mark.set(zorder=5, clip_on=False)
    grey = "; grey: other data sets (rows begin elsewhere with other numbers of classes)" if known else ""
    axes.set_title(f"shaded: in between{grey}", fontsize=7 if known else 8, color=GREY, loc="right")
    axes.set_title("where this data set falls", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    names = [Named(name, similarity, amount, ORANGE, 10), *(Named(n, s, a, GREY, 8) for n, a, s in known)]
    place(figure, axes, names, rows=[few], columns=[cut.middle], others=cells)
    return as_png(figure)
