"""The run folder's pictures as PNG bytes: confusion matrix, probe accuracy of each stage; and what all pictures share.

matplotlib is used without pyplot: no global state, no backend to choose, and a third of the import time.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from finetune.report import glyphs

BLUE, ORANGE, GREY = "#2b6cb0", "#c05621", "#718096"
LINES = ("--", ":", "-.")
_LABELLED_CLASSES = 60  # beyond this many, class names cannot be read at any size


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> bytes:
    """Share of each true class (row) called each class (column), %; counts are written where they fit."""
    k = len(classes)
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(14.0, max(3.6, 1.8 + 0.26 * k))
    shown = glyphs.written(classes) if k <= _LABELLED_CLASSES else []
    names = [c if len(c) <= 24 else c[:23] + "…" for c in shown]
    longest = max(map(len, names), default=0)
    upright = k > 4 or longest > 48 // k - 6  # as long as a few names side by side leave a gap between them
    margin = 0.05 * longest  # room for the names, in inches: they must not squeeze the matrix
    figure = Figure(figsize=(side + 0.8 + margin, side + margin * upright), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares * 100, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    if names:
        axes.set_xticks(range(k), names, rotation=90 if upright else 0, fontsize=8)
        axes.set_yticks(range(k), names, fontsize=8)
    if k <= 30:
        for i, j in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[i, j] > 0.5 else "black"
            said = axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=colour)
            said.set_in_layout(False)  # it is inside; to measure each would take longer than all else here
    axes.set(
        xlabel="predicted class", ylabel="true class", title=f"confusion on {counts.sum():,} test images"
    )
    explain(figure, classes if names else ())
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    return as_png(figure)


def stages(
    names: Sequence[str],
    accuracies: Sequence[float],
    errors: Sequence[float] | None = None,
    extra: Mapping[str, float] | None = None,
    measure: str = "accuracy",
) -> bytes:
    """Chance-normalised probe accuracy of each stage, input to head, with standard errors.

    ``extra`` adds horizontal lines, such as all stages together or the nearest neighbour.
    """
    figure = Figure(figsize=(max(4.5, 1.6 + 0.7 * len(names)), 3.4), layout="constrained")
    axes = figure.subplots()
    x = np.arange(len(names))
    errors = errors if errors is not None else [0.0] * len(names)
    colours = [GREY] * (len(names) - 1) + [BLUE]
    axes.bar(
        x, accuracies, yerr=errors, color=colours, width=0.62, error_kw={"linewidth": 1, "ecolor": "black"}
    )
    # Named below the chart: two lines at nearly the same height would write over each other.
    for i, (name, value) in enumerate((extra or {}).items()):
        style = LINES[i % len(LINES)]
        axes.axhline(value, color=ORANGE, linewidth=1.4, linestyle=style, label=f"{name}: {value:.2f}")
    if extra:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    axes.set_xticks(x, names, rotation=30 if len(names) > 6 else 0, fontsize=8)
    axes.set(ylabel=f"{measure} (0 chance, 1 perfect)", title="linear probe on each stage, input to head")
    axes.set_ylim(min(0, *accuracies), 1.05)
    plain(axes)
    return as_png(figure)


def plain(axes: Axes) -> None:
    """No frame above and to the right, and faint lines at the ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)


def explain(figure: Figure, classes: Sequence[str]) -> None:
    """A line below the picture where numbers stand for some of these classes."""
    if (said := glyphs.note(classes)) is not None:
        figure.supxlabel("\n".join(textwrap.wrap(said, 52)), fontsize=7, color=GREY)


def as_png(figure: Figure) -> bytes:
    """Draw; what a text's font lacks is taken from other fonts."""
    glyphs.complete(figure)
    stream = io.BytesIO()
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(stream, format="png", pil_kwargs={"compress_level": 3})
    return stream.getvalue()
