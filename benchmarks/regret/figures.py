"""The report's pictures as PNG bytes: regret of each rule, accuracy over size, the plane of amount and similarity."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.regret.results import Trial
from benchmarks.regret.summary import Interval, Regrets, TrialKey
from finetune.errors import DataError, must

AUTO_COLOUR, RIVAL, BACK = "#c05621", "#2b6cb0", "#718096"
_COLOURS = ("#2b6cb0", "#63b3ed", "#2f855a", "#d69e2e", "#c05621", "#97266d", "#4a5568", "#a0aec0")
_MARKERS = "osD^vPX*"


def bars(found: Mapping[str, tuple[Regrets, Interval | None]]) -> bytes:
    """Mean regret of each rule with its t-interval where there is one, the smallest on top. Raises DataError."""
    if not found:
        raise DataError(must("The bars", "of at least one rule", "none: there are no rows"))
    names = sorted(found, key=lambda name: -found[name][0].mean)
    figure = Figure(figsize=(7.5, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots()
    means = [found[name][0].mean for name in names]
    colours = [AUTO_COLOUR if n.startswith("auto") else BACK if "looks" in n else RIVAL for n in names]
    axes.barh(range(len(names)), means, color=colours, height=0.62)
    for row, name in enumerate(names):
        interval = found[name][1]
        if interval is not None:
            axes.plot([interval.t_low, interval.t_high], [row, row], color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(
        xlabel="mean regret (lower bound), points; lines: 95%, t over families",
        title="what choosing by each rule costs",
    )
    axes.axvline(0, color="black", linewidth=0.8)
    _plain(axes, "x")
    return _png(figure)


def by_size(trials: Sequence[Trial]) -> bytes:
    """Test accuracy of each arm over images a class, a panel a data set. Raises DataError."""
    if not trials:
        raise DataError(must("The panels", "of at least one data set", "none: there are no rows"))
    panels: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        panels[trial.backbone, trial.data].append(trial)
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * rows + 0.6), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    several = len({backbone for backbone, _ in panels}) > 1
    for axes, ((backbone, data), members) in zip(grid, sorted(panels.items()), strict=False):
        for i, arm in enumerate(members[0].arms):
            points = defaultdict(list)
            for trial in members:
                points[trial.train_n / trial.classes].append(100 * trial.arms[arm].accuracy)
            x = sorted(points)
            y = [float(np.mean(points[value])) for value in x]
            style = {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}
            axes.plot(x, y, label=arm, linewidth=1.2, markersize=3.5, **style)
        title = f"{data} ({backbone.split('@')[0]})" if several else data
        axes.set_title(title, fontsize=9)
        axes.set_xscale("log")
        seen = sorted({round(trial.train_n / trial.classes, 1) for trial in members})
        axes.set_xticks(seen, [f"{value:g}" for value in seen])
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        _plain(axes, "both")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=8, frameon=False, fontsize=8)
    figure.supxlabel("training images a class", fontsize=9)
    figure.supylabel("test accuracy, %", fontsize=9)
    return _png(figure)


def plane(trials: Sequence[Trial], best: Mapping[TrialKey, tuple[str, float]]) -> bytes:
    """Similarity and images a class of each trial, coloured by the arm that was best. Raises DataError."""
    points = [
        (t.record["decision"]["similarity"], t.train_n / t.classes, best[t.key][0])
        for t in trials
        if t.key in best and t.record is not None and t.record["decision"].get("similarity") is not None
    ]
    if not points:
        raise DataError(must("The plane", "of trials with a measured similarity", "none: there are no rows"))
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    names = [name for name in trials[0].arms if any(arm == name for *_, arm in points)]
    for i, name in enumerate(names):
        x, y = zip(*[(s, m) for s, m, arm in points if arm == name], strict=True)
        axes.scatter(x, y, s=22, color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)],
                     label=f"{name} ({len(x)})", alpha=0.8)  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(
        xlabel="similarity", ylabel="training images a class", title="which arm was best", xlim=(-0.03, 1.03)
    )
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _plain(axes, "both")
    return _png(figure)


def _plain(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
