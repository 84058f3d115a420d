"""The curve of a range test as a picture."""

from __future__ import annotations

from matplotlib.figure import Figure

from finetune.report.figures import BLUE, GREY, ORANGE, as_png
from finetune.training.lr_find import Found


def range_test(found: Found) -> bytes:
    """PNG: loss of each step and smoothed, over the body's learning rate; suggestion and plan as lines.

    The axis ends where the curve that is judged does; steps above it are arrows at its edge."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    lrs = [point["lr"] for point in found.curve]
    if lrs:
        smooth = [point["smoothed"] for point in found.curve]
        losses = [point["loss"] for point in found.curve]
        low, high = min(smooth + losses), max(smooth)
        room = 0.08 * (high - low) or 0.1
        low, high = low - room, high + room
        inside = [(lr, loss) for lr, loss in zip(lrs, losses, strict=True) if loss <= high]
        above = [lr for lr, loss in zip(lrs, losses, strict=True) if loss > high]
        axes.plot(*zip(*inside, strict=True), ".", color=GREY, markersize=3, label="step")
        if above:
            axes.plot(
                above, [high - room / 3] * len(above), "^", color=GREY, markersize=4, label="step, higher up"
            )
        axes.plot(lrs, smooth, color=BLUE, linewidth=1.6, label="smoothed")
        axes.set_ylim(low, high)
        axes.set_xscale("log")
    lr, _ = found.usable()
    told = "suggested" if found.lr is not None else "nothing suggested; to be used"
    axes.axvline(lr, color=ORANGE, linewidth=1.4, label=f"{told}: {lr:.2g}")
    axes.axvline(
        found.planned[0], color=GREY, linewidth=1, linestyle=":", label=f"plan: {found.planned[0]:.2g}"
    )
    axes.set(xlabel="learning rate of the body", ylabel="training loss", title="LR range test")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)
