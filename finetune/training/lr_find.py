"""The learning-rate range test: the rate grows from far too small to far too large, the loss says what is right.

Smith 2017, https://arxiv.org/abs/1506.01186, with the exponential ramp and the smoothing that fastai made usual.
All groups grow together, so that the ratios of a plan (head to body, stage to stage) stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.training.dropping import dropping
from finetune.training.job import Job
from finetune.training.loop import train_step
from finetune.training.optim import set_lr
from finetune.training.trial import on_a_copy, steps_of

LOWEST, HIGHEST = 1e-7, 10.0
"""The ramp of the group that learns fastest: below, no optimizer moves anything; above, every one diverges."""
STEPS = 100
STOP = 4.0
"""The test ends where the smoothed loss is this many times its best ..."""
_LEAST = 0.05
"""... or this, in nats, where the best is less: four times almost nothing is no divergence."""
_BETA = 0.9
"""Of the exponential average that is watched while the test runs, bias-corrected as in Adam."""
_WIDTH = 3.0
"""Standard deviation, in steps, of the smoothing of the finished curve: a quarter of a decade."""
_QUIET = 100.0
"""Up to this many times the lowest rate nothing moves: how much the loss varies there is the batches' doing."""
_FEWEST = 10
_CLIP = 2.0
"""Losses above this many times the level at the start count as that: how far up the loss went says nothing of where it
began to rise, and would blur it."""


@dataclass(frozen=True)
class Suggestion:
    """What a curve says."""

    index: int | None
    """The point to take; None where the loss did not fall."""
    reason: str
    """In words; rates in it are those that were given."""
    rises: int | None = None
    """Where the loss had risen for good; None where it never did."""


@dataclass(frozen=True)
class Found:
    """The result of a range test."""

    lr: float | None
    """Of the body's last stage; None where the curve suggests none."""
    head_lr: float | None
    """Of the head, in the plan's ratio."""
    reason: str
    """What the curve looks like and why that value, in words."""
    planned: tuple[float, float]
    """lr and head_lr of the plan."""
    rises_at: float | None
    """The lr from which on the loss only rose."""
    curve: tuple[dict[str, float], ...]
    """A row a step: lr, head_lr, loss of the step's images before it, and ``smoothed``, the curve that is judged."""

    def usable(self) -> tuple[float, float]:
        """lr and head_lr to train with: the suggestion, else the plan's, but no more than a tenth of where the
        loss rose."""
        if self.lr is not None and self.head_lr is not None:
            return self.lr, self.head_lr
        lr, head = self.planned
        share = 1.0 if self.rises_at is None else min(1.0, self.rises_at / 10 / lr)
        return lr * share, head * share

    def story(self) -> str:
        """One or two sentences for the reader."""
        lr, head = self.usable()
        rates = f"lr {lr:.2g}, head lr {head:.2g}"
        return f"LR range test: {rates}. {self.reason}" if self.lr else f"LR range test: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"lr": self.lr, "head_lr": self.head_lr, "reason": self.reason,
                "planned": {"lr": self.planned[0], "head_lr": self.planned[1]},
                "rises_at": self.rises_at, "curve": list(self.curve)}  # fmt: skip


def find_lr(job: Job, steps: int = STEPS) -> Found:
    """Run the range test of a phase that is about to begin, on a copy; ``job`` stays as it is, bit for bit.

    Each of the ``steps`` is one of training (same batches, augmentation, precision, clipping), at a rate that
    grows by the same factor each time. It ends early where the smoothed loss passes 4 times its best. Few
    images are gone through again and again.
    """
    phase = job.phase
    peak = max(group["peak"] for group in job.optimizer.param_groups)
    factors, losses, best = [], [], math.inf
    average = _Average(_BETA)
    with on_a_copy(job) as trial, dropping(trial.backbone, phase, lambda text: None):
        trial.backbone.train()
        for number, group in zip(range(steps), steps_of(trial), strict=False):
            factor = LOWEST / peak * (HIGHEST / LOWEST) ** (number / max(1, steps - 1))
            set_lr(trial.optimizer, factor)
            loss = float(train_step(trial, group))
            if not math.isfinite(loss):
                break
            factors.append(factor)
            losses.append(loss)
            smooth = average.add(loss)
            best = min(best, smooth)
            if smooth > STOP * max(best, _LEAST):
                break
            job.check_stop()
    lrs = [phase.lr * factor for factor in factors]
    found = suggest(lrs, losses)
    curve = tuple(
        {"lr": phase.lr * f, "head_lr": phase.head_lr * f, "loss": loss, "smoothed": smooth}
        for f, loss, smooth in zip(factors, losses, judged(lrs, losses).tolist(), strict=True)
    )
    factor = None if found.index is None else factors[found.index]
    return Found(
        lr=None if factor is None else _rounded(phase.lr * factor),
        head_lr=None if factor is None else _rounded(phase.lr * factor) / phase.lr * phase.head_lr,
        reason=found.reason,
        planned=(phase.lr, phase.head_lr),
        rises_at=None if found.rises is None else lrs[found.rises],
        curve=curve,
    )


def suggest(lrs: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """The point of a curve to train at: the middle of its longest valley, at most a tenth of the rate of its
    least loss, never a point where the loss has begun to rise.

    ``lrs`` grow by a constant factor and begin where nothing moves. The valley is fastai's: the longest falling
    subsequence of the smoothed losses, from its end back by its length; the middle of that.
    """
    if len(losses) < _FEWEST:
        why = f"The loss was no number after {len(losses)} steps, at rates where nothing should move"
        return Suggestion(None, f"{why}: the gradients are not finite or far too large.")
    quiet = _quiet(lrs)
    level, noise = float(np.mean(losses[:quiet])), float(np.std(losses[:quiet]))
    smooth = judged(lrs, losses)
    # An average is over 2 sqrt(pi) width = 11 points, half as many at the ends: 3.5 standard errors, for the least of
    # many points is looked for.
    tolerance = max(3.5 * noise / math.sqrt(math.sqrt(math.pi) * _WIDTH), 0.01 * abs(level))
    least = int(smooth.argmin())
    rises = _rises(smooth, max(tolerance, 0.1 * (level - float(smooth[least]))))
    if level - smooth[least] <= tolerance:
        if rises is None:
            return Suggestion(
                None,
                f"The curve is flat at a loss of {level:.3g} up to lr {lrs[-1]:.2g}: it neither falls nor rises by "
                "more than batches differ. No rate can be suggested.",
            )
        return Suggestion(
            None,
            f"The loss rises without falling below its start of {level:.3g} first, from lr {lrs[rises]:.2g} on: the "
            "weights are good already, or the batches differ too much to see it fall. No rate can be suggested; "
            "stay at a tenth of that or below.",
            rises,
        )
    start = min(quiet, least)
    valley = start + longest_valley(smooth[start : least + 1])
    bound = int(np.searchsorted(lrs, lrs[least] / 10, side="right")) - 1
    index = max(0, min(valley, bound))
    falls = np.diff(smooth[start : least + 1])
    steepest = start + int(falls.argmin()) if len(falls) else least
    while index > 0 and smooth[index] > smooth[: index + 1].min() + 2 * tolerance:
        index -= 1  # a bump on the way down: its near side
    reason = (f"The loss falls from {level:.3g} to {smooth[least]:.3g}: fastest near lr {lrs[steepest]:.2g}, least at "
              f"{lrs[least]:.2g}. ")  # fmt: skip
    if index == valley:
        reason += f"Lr {lrs[index]:.2g} is the middle of the longest descent to there."
    elif index == bound:
        reason += (
            f"Lr {lrs[index]:.2g} is a tenth of the latter: the middle of the descent, {lrs[valley]:.2g}, is too near "
            "to it."
        )
    else:
        reason += f"Lr {lrs[index]:.2g} is just before a first rise on the way down."
    return Suggestion(index, reason, rises)


def judged(lrs: Sequence[float], losses: Sequence[float]) -> np.ndarray:
    """The curve that is decided on, and shown: losses above twice the level at the start count as that, smoothed.

    >>> bool(judged([1e-7, 1e-6, 1e-5, 1e-4], [1.0, 1.0, 1.0, 900.0]).max() < 2)
    True
    """
    raw = np.asarray(losses, dtype=np.float64)
    level = raw[: _quiet(lrs)].mean() if len(raw) else 0.0
    return smoothed(np.minimum(raw, _CLIP * level))


def _quiet(lrs: Sequence[float]) -> int:
    """How many points lie where nothing moves yet."""
    return max(3, int((np.asarray(lrs) < _QUIET * lrs[0]).sum())) if len(lrs) else 0


def longest_valley(losses: Sequence[float] | np.ndarray) -> int:
    """The middle of the longest falling subsequence, measured back from its end as fastai's ``valley`` does.

    >>> longest_valley([20] * 10 + list(range(19, 7, -1)) + [30] * 3)
    14
    """
    values = np.asarray(losses)
    length = np.ones(len(values), dtype=int)
    for i in range(1, len(values)):
        above = length[:i][values[:i] > values[i]]
        length[i] = 1 + (above.max() if len(above) else 0)
    end = int(length.argmax())
    start = max(0, end - int(length[end]))
    third = (end - start) / 3
    return start + int(third) + int(third / 2)


def smoothed(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Gaussian average over the neighbours on both sides, which does not lag; near the ends over those there are.

    >>> smoothed([2.0, 2.0, 2.0]).tolist()
    [2.0, 2.0, 2.0]
    """
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps[None, :]) / _WIDTH) ** 2)
    averages: np.ndarray = (weights @ np.asarray(losses, dtype=np.float64)) / weights.sum(1)
    return averages


class _Average:
    """``a <- beta a + (1 - beta) x``, divided by ``1 - beta^t``."""

    def __init__(self, beta: float) -> None:
        self.beta, self.value, self.weight = beta, 0.0, 0.0

    def add(self, x: float) -> float:
        self.value = self.beta * self.value + (1 - self.beta) * x
        self.weight = self.beta * self.weight + (1 - self.beta)
        return self.value / self.weight


def _rises(smooth: np.ndarray, margin: float) -> int | None:
    """The first point from which on every one is above all that came before it by more than the margin."""
    above = smooth > np.minimum.accumulate(smooth) + margin
    if not above[-1]:
        return None
    below = np.flatnonzero(~above)
    return int(below[-1]) + 1 if len(below) else 0


def _rounded(value: float) -> float:
    """Two digits: the curve knows no more.

    >>> _rounded(0.0123456)
    0.012
    """
    return float(f"{value:.2g}")
