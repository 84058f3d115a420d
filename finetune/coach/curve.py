"""The curve of one phase, read from rows of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from finetune.coach.finding import Facts
from finetune.coach.statistics import centred, scatter

_ENOUGH_ROWS = 8
"""With fewer step rows than this the epochs' means are the better curve."""
_BELOW = 0.85
"""A fresh head on few classes may begin better than guessing by chance, hardly by more than this factor."""
_NEAR = 1.25
"""Fresh heads of usual sizes begin within this factor of ln K."""
_LAST = 0.15
"""Share of the rows whose median counts as the end: long enough for a median, short enough to be the end."""

_FIGURES = ("loss", "accuracy", "val_loss", "val_accuracy", "update", "contradicted")


@dataclass(frozen=True)
class Point:
    """A row. Losses in nats; what a row lacks is None."""

    epoch: int
    step: int
    lr: float
    loss: float | None
    accuracy: float | None
    val_loss: float | None = None
    val_accuracy: float | None = None
    update: float | None = None
    """How far the step moved the weights, relative to their size."""
    contradicted: float | None = None
    """Share of the epoch's images of which the network was sure that they are of another class."""
    lr_scale: float = field(default=1.0, kw_only=True)
    """What divergences before it left of the learning rate."""


class Curve:
    """What the rules look at. ``steps`` and ``epochs`` hold finite training losses only."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], facts: Facts) -> None:
        self.facts = facts
        self.first: Point | None = None
        """The loss of the first batch, before anything was learned."""
        self.broken: Point | None = None
        """Where training went wrong: a loss that was no number, or as the row says."""
        self.reason = "the loss was no finite number"
        self.steps: list[Point] = []
        self.epochs: list[Point] = []
        self.scored: list[Point] = []
        """Epochs with validation scores, the one before the first step too."""
        self.planned_steps = self.planned_epochs = 0
        self._trace: list[tuple[int, float, float]] | None = None
        for row in rows:
            self.take(row)

    def take(self, row: Mapping[str, Any]) -> None:
        """Add a row. One that lies before the last is of a training that went back: what it undid is forgotten."""
        self._trace = None
        kind = row.get("kind")
        self.planned_steps = int(row.get("steps") or self.planned_steps)
        self.planned_epochs = int(row.get("epochs") or self.planned_epochs)
        point = Point(
            int(row.get("epoch", 0)), int(row.get("step", 0)), float(row.get("lr") or 0.0),
            *(_number(row.get(key)) for key in _FIGURES), lr_scale=float(row.get("lr_scale") or 1.0),
        )  # fmt: skip
        missing = ("loss" in row and point.loss is None) or ("val_loss" in row and point.val_loss is None)
        if kind == "diverged" or missing:
            self.broken = self.broken or point
            self.reason = str(row.get("reason") or self.reason)
        elif kind in ("step", "epoch") and point.step < self._reached:
            self._go_back(point.step)
            self.take(row)
        elif kind == "first":
            self.first = point
        elif kind == "step":
            self.steps.append(point)
        elif kind == "epoch":
            if point.loss is not None:
                self.epochs.append(point)
            if point.val_loss is not None and point.val_accuracy is not None:
                self.scored.append(point)

    @property
    def _reached(self) -> int:
        return max([p.step for p in (*self.steps[-1:], *self.scored[-1:], *self.epochs[-1:])], default=0)

    def _go_back(self, step: int) -> None:
        self.broken = None
        for points in (self.steps, self.epochs, self.scored):
            points[:] = [p for p in points if p.step < step]

    @property
    def trace(self) -> list[tuple[int, float, float]]:
        """(step, learning rate, training loss) in order."""
        if self._trace is None:
            points = self.steps if len(self.steps) >= _ENOUGH_ROWS else self.epochs or self.steps
            self._trace = [(p.step, p.lr, p.loss) for p in points if p.loss is not None]
        return self._trace

    @property
    def losses(self) -> list[float]:
        """The training losses of the trace."""
        return [loss for _, _, loss in self.trace]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to judge."""
        return not self.trace and self.broken is None

    @property
    def start(self) -> float:
        """The loss that training set out from: of a fresh head the middle one of guessing, the first batch and the
        first rows, since a batch is a small sample and the rows may rise or fall already; held near guessing.
        """
        first, guess = self.first.loss if self.first else None, self.facts.guessing
        if guess is None or self.facts.fitted_head:
            return self.losses[0] if first is None else first
        known = [
            guess,
            *([] if first is None else [first]),
            *([median(self.losses[:3])] if self.losses else []),
        ]
        return min(max(median(known), _BELOW * guess), _NEAR * guess)

    @property
    def top(self) -> float:
        """The loss of the first batch itself where it lies above the start, up to the same bound."""
        first = self.first.loss if self.first else None
        return self.start if first is None else max(self.start, min(first, _NEAR * self.start))

    @property
    def end(self) -> float:
        """Median training loss of the last rows, of few rows the last third: they must not reach back to the start."""
        rows = len(self.losses)
        return median(self.losses[-min(max(3, round(_LAST * rows)), max(1, rows // 3)) :])

    @property
    def accuracy(self) -> float | None:
        """Training accuracy of the last epoch, or of the last rows; None where it is not measured."""
        points = self.epochs[-1:] or self.steps[-max(3, round(_LAST * len(self.steps))) :]
        known = [p.accuracy for p in points if p.accuracy is not None]
        return median(known) if known else None

    @property
    def update(self) -> float | None:
        """How far a step moves the weights, relative to their size, while the learning rate is at least half of its
        peak: the median. None where it is not measured."""
        peak = max((p.lr for p in self.steps), default=0.0)
        known = [p.update for p in self.steps if p.update is not None and p.lr >= peak / 2]
        return median(known) if known else None

    @property
    def way(self) -> float:
        """How far the training loss can fall from the start, in nats."""
        return max(self.start - self.facts.floor, 1e-9)

    @property
    def fallen(self) -> float:
        """Which share of that it fell."""
        return (self.start - self.end) / self.way

    @property
    def noise(self) -> float:
        """Scatter of the training loss from row to row, in nats."""
        return scatter(self.losses)

    def fall_time(self, share: float) -> float:
        """When ``share`` of the fall from the top to the end was reached, in units of learning rate x steps
        over the whole of it: a small network gets there early, a small learning rate evenly. 1 where it never was.
        """
        level = self.top - share * (self.top - self.end)
        before, gone, reached = 0, 0.0, None
        for (step, lr, _), loss in zip(self.trace, centred(self.losses), strict=True):
            spent = lr * (step - before)
            if reached is None and loss <= level:
                reached = gone + spent / 2  # a row is a mean since the one before
            gone, before = gone + spent, step
        return 1.0 if reached is None or not gone else reached / gone

    @property
    def done(self) -> float:
        """Share of the planned steps."""
        last = max([p.step for p in (*self.steps, *self.epochs)], default=0)
        return last / self.planned_steps if self.planned_steps else 1.0


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
