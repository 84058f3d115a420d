"""A learning-rate schedule as text and as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from finetune.report.figures import BLUE, GREY, as_png

_WIDTH, _HEIGHT = 64, 12


def as_text(steps: Sequence[int], rates: Sequence[float], total: int) -> str:
    """The curve in characters; ``rates`` at ``steps`` of ``total``. A column shows the highest of its steps.

    >>> print(as_text(range(64), [min(1, (i + 1) / 32) for i in range(64)], 64).splitlines()[0].rstrip())
           1 |                              **********************************
    """
    columns = [0.0] * _WIDTH
    filled = [False] * _WIDTH
    for step, rate in zip(steps, rates, strict=True):
        column = min(_WIDTH - 1, step * _WIDTH // max(1, total))
        columns[column], filled[column] = max(columns[column], rate), True
    for column in range(1, _WIDTH):  # a run of fewer steps than columns
        if not filled[column]:
            columns[column] = columns[column - 1]
    top = max(columns)
    rows = [round((_HEIGHT - 1) * (1 - rate / top)) for rate in columns]
    lines = []
    for row in range(_HEIGHT):
        label = {0: f"{top:8.3g}", _HEIGHT - 1: f"{0:8.3g}"}.get(row, " " * 8)
        lines.append(f"{label} |" + "".join("*" if at == row else " " for at in rows))
    last = f"{total:,} steps"
    lines += [" " * 9 + "+" + "-" * _WIDTH, " " * 10 + "0" + last.rjust(_WIDTH - 1)]
    return "\n".join(lines)


def as_picture(steps: Sequence[int], rates: Sequence[float], warmup: int, title: str, label: str) -> bytes:
    """The curve as PNG bytes, with a line where the warm-up ends."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(steps), list(rates), color=BLUE, linewidth=1.4)
    if warmup:
        axes.axvline(warmup, color=GREY, linewidth=0.8, linestyle=":", label="end of the warm-up")
        axes.legend(frameon=False, fontsize=8)
    axes.set(title=title, xlabel="step", ylabel=label)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)
