"""Pictures of answers that are no classes: how well each label is ranked, and numbers against their truth."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from finetune.evaluation.scores import LabelScores
from finetune.report.figures import BLUE, GREY, ORANGE, as_png, explain
from finetune.report.glyphs import written

_MOST = 40
"""Labels that can be named one below the other; of more the worst are drawn."""


def labels(scores: LabelScores) -> bytes:
    """PNG: a bar for the average precision of each label, the worst on top, and its share of the images as a mark."""
    classes = [c.name for c in scores.classes]
    shown = dict(zip(classes, written(classes), strict=True))
    rows = sorted((c for c in scores.classes if c.support), key=lambda c: -c.average_precision)[-_MOST:]
    figure = Figure(figsize=(7, 1.4 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(rows))
    axes.barh(y, [c.average_precision for c in rows], color=BLUE, height=0.62)
    axes.plot([c.support / scores.n for c in rows], y, "|", color=ORANGE, markersize=9, label="chance")
    names = [shown[c.name] for c in rows]
    axes.set_yticks(y, [name if len(name) <= 32 else name[:31] + "…" for name in names], fontsize=8)
    explain(figure, classes)
    axes.set(
        xlim=(0, 1.02), xlabel="average precision",
        title=f"{len(rows)} of {len(scores.classes)} labels on {scores.n:,} test images",
    )  # fmt: skip
    if rows:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)


def numbers(truth: np.ndarray, answers: np.ndarray) -> bytes:
    """PNG: a point for each image, its number to the right and the answer upwards; the line is a perfect answer."""
    figure = Figure(figsize=(4.6, 4.6), layout="constrained")
    axes = figure.subplots()
    low, high = float(min(truth.min(), answers.min())), float(max(truth.max(), answers.max()))
    axes.plot([low, high], [low, high], color=GREY, linewidth=1)
    axes.plot(truth, answers, "o", color=BLUE, markersize=3, alpha=0.5, markeredgewidth=0)
    axes.set(xlabel="true number", ylabel="predicted", title=f"{len(truth):,} test images")
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)
