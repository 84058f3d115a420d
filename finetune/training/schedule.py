"""Learning-rate schedules: functions from the step to a factor on the peak learning rate.

Steps are optimizer steps, counted from 0; a shortened run asks for places between two of them. Warm-up is linear
and reaches the schedule's own beginning with its last step, so that the first step already moves the weights
(``1 / warmup`` of the peak, never 0). What follows sees the steps after the warm-up only: shares are shares of
those. Keyword arguments are the keys of ``train.schedule_args``; their annotations say what is allowed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from finetune.errors import ConfigError, must

Schedule = Callable[[float], float]
Share = Annotated[float, Field(gt=0, lt=1)]
Low = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """``(1 + cos(pi * t)) / 2`` with t from 0 after the warm-up to 1 just past the last step.

    SGDR without restarts, https://arxiv.org/abs/1608.03983.

    >>> lr = cosine(steps=10, warmup=2)
    >>> [round(lr(step), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    return _warmed(steps, warmup, lambda t, n: _half_cosine(min(1.0, t / n)))


def constant(steps: int, warmup: int = 0) -> Schedule:
    """The peak, after the warm-up.

    >>> lr = constant(steps=10, warmup=4)
    >>> [lr(step) for step in (0, 3, 4, 9)]
    [0.25, 1.0, 1.0, 1.0]
    """
    return _warmed(steps, warmup, lambda t, n: 1.0)


def step(
    steps: int, warmup: int = 0, *,
    milestones: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.75), gamma: Share = 0.1,
) -> Schedule:  # fmt: skip
    """Times ``gamma`` at each of the ``milestones``, shares of the steps: He et al., arXiv 1512.03385.

    >>> lr = step(steps=100, milestones=(0.3, 0.6), gamma=0.1)
    >>> [round(lr(at), 6) for at in (0, 29, 30, 59, 60, 99)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """

    def factor(t: float, n: int) -> float:
        return float(gamma ** sum(t >= max(1, round(share * n)) for share in milestones))

    return _warmed(steps, warmup, factor)


def exponential(steps: int, warmup: int = 0, *, end: Share = 0.01) -> Schedule:
    """``end ** t`` with t from 0 to 1: the same factor each step.

    >>> lr = exponential(steps=100, end=0.01)
    >>> [round(lr(at), 4) for at in (0, 50, 100)]
    [1.0, 0.1, 0.01]
    """
    return _warmed(steps, warmup, lambda t, n: float(end ** (t / n)))


def inverse_time(steps: int, warmup: int = 0, *, end: Share = 0.01) -> Schedule:
    """``1 / (1 + k t)`` with t from 0 to 1 and k such that it ends at ``end``: Robbins and Monro 1951.

    >>> lr = inverse_time(steps=100, end=0.1)
    >>> [round(lr(at), 4) for at in (0, 50, 100)]
    [1.0, 0.1818, 0.1]
    """
    return _warmed(steps, warmup, lambda t, n: 1 / (1 + (1 / end - 1) * t / n))


def linear_to_tau(
    steps: int, warmup: int = 0, *, tau: Annotated[float, Field(gt=0, le=1)] = 0.8, end: Low = 0.01
) -> Schedule:
    """``(1 - a) + a * end`` with ``a = min(1, t / tau)``: linearly down to the share ``tau`` of the steps, then level.

    Goodfellow, Bengio and Courville, Deep Learning, equation 8.14, where the level is about 1% of the peak.

    >>> lr = linear_to_tau(steps=100, tau=0.5, end=0.01)
    >>> [round(lr(at), 4) for at in (0, 25, 50, 99)]
    [1.0, 0.505, 0.01, 0.01]
    """

    def factor(t: float, n: int) -> float:
        a = min(1.0, t / (tau * n))
        return (1 - a) + a * end

    return _warmed(steps, warmup, factor)


def one_cycle(
    steps: int, warmup: int = 0, *, rise: Share = 0.3, start: Share = 0.04, end: Low = 4e-6
) -> Schedule:
    """From ``start`` up to the peak in the share ``rise`` of the steps, then down to ``end``, both by half cosines.

    Smith and Topin, https://arxiv.org/abs/1708.07120, with torch's defaults. Momentum stays where it is.

    >>> lr = one_cycle(steps=11, rise=0.5, start=0.1, end=0.0)
    >>> [round(lr(at), 3) for at in (0, 4.5, 10)]
    [0.1, 1.0, 0.0]
    """

    def factor(t: float, n: int) -> float:
        top = max(0.0, rise * n - 1)
        if t < top:
            return 1 + (start - 1) * _half_cosine(t / top)
        left = n - 1 - top
        return end + (1 - end) * _half_cosine(min(1.0, (t - top) / left) if left > 0 else 0.0)

    return _warmed(steps, warmup, factor)


def cyclic(
    steps: int, warmup: int = 0, *, cycles: Count = 4, low: Share = 0.1,
    shrink: Annotated[float, Field(gt=0, le=1)] = 1.0,
) -> Schedule:  # fmt: skip
    """``cycles`` triangles from ``low`` to the peak and back; ``shrink`` on their height after each (.5: triangular2).

    Smith, https://arxiv.org/abs/1506.01186.

    >>> lr = cyclic(steps=40, cycles=2, low=0.2, shrink=0.5)
    >>> [round(lr(at), 3) for at in (0, 5, 10, 20, 30)]
    [0.2, 0.6, 1.0, 0.2, 0.6]
    """

    def factor(t: float, n: int) -> float:
        cycle, place = divmod(t * cycles / n, 1.0)
        return float(low + (1 - low) * (1 - abs(2 * place - 1)) * shrink**cycle)

    return _warmed(steps, warmup, factor)


def sgdr(
    steps: int, warmup: int = 0, *, cycles: Count = 3,
    multiplier: Annotated[float, Field(ge=1, le=10)] = 2.0, low: Low = 0.0,
) -> Schedule:  # fmt: skip
    """Cosines from the peak to ``low``, each ``multiplier`` times as long as the last; they fill the run.

    Loshchilov and Hutter, https://arxiv.org/abs/1608.03983.

    >>> lr = sgdr(steps=70, cycles=3, multiplier=2)
    >>> [round(lr(at), 3) for at in (0, 5, 10, 20, 30, 50)]
    [1.0, 0.5, 1.0, 0.5, 1.0, 0.5]
    """
    starts: dict[int, list[float]] = {}

    def factor(t: float, n: int) -> float:
        bounds = starts.setdefault(n, [0.0, *cycle_ends(n, cycles, multiplier)])
        i = min(bisect.bisect_right(bounds, t + 1e-9), cycles) - 1
        return low + (1 - low) * _half_cosine(min(1.0, (t - bounds[i]) / (bounds[i + 1] - bounds[i])))

    return _warmed(steps, warmup, factor)


def cycle_ends(steps: int, cycles: int, multiplier: float) -> list[float]:
    """The steps (after the warm-up) just before which each cosine of ``sgdr`` ends.

    >>> cycle_ends(70, cycles=3, multiplier=2)
    [10.0, 30.0, 70.0]
    """
    lengths = [multiplier**i for i in range(cycles)]
    return [steps * sum(lengths[: i + 1]) / sum(lengths) for i in range(cycles)]


class Plateau:
    """A factor that falls when a watched number has not fallen for a while; what it is depends on ``observe``."""

    def __init__(
        self, warm: Schedule, factor: float, patience: int, threshold: float, low: float
    ) -> None:  # fmt: skip
        self._warm, self._factor, self._patience = warm, factor, patience
        self._threshold, self._low = threshold, low
        self.level, self.best, self.bad = 1.0, math.inf, 0

    def __call__(self, at: float) -> float:
        return self._warm(at) * self.level

    def observe(self, value: float) -> None:
        """An epoch's number, smaller is better."""
        if value < self.best - self._threshold:
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.bad > self._patience:
            self.level, self.bad = max(self._low, self.level * self._factor), 0

    def state_dict(self) -> dict[str, Any]:
        """What coming steps depend on."""
        return {"level": self.level, "best": self.best, "bad": self.bad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.level, self.best, self.bad = state["level"], state["best"], state["bad"]


def plateau(
    steps: int, warmup: int = 0, *, factor: Share = 0.1, patience: Annotated[int, Field(ge=0)] = 3,
    threshold: Annotated[float, Field(ge=0)] = 1e-4, low: Low = 0.0,
) -> Plateau:  # fmt: skip
    """Times ``factor`` after more than ``patience`` epochs without an improvement of ``threshold``, not below ``low``.

    What is watched: ``train.monitor``, smoothed by ``train.smoothing``.

    >>> lr = plateau(steps=100, factor=0.5, patience=1)
    >>> for loss in (0.9, 0.9, 0.9):
    ...     lr.observe(loss)
    >>> lr(99)
    0.5
    """
    return Plateau(constant(steps, warmup), factor, patience, threshold, low)


def warmup_steps(share: float, steps: int) -> int:
    """Steps spent in warm-up for a share of the whole; less than all of them.

    >>> warmup_steps(0.1, 100), warmup_steps(0.1, 5), warmup_steps(0.9, 1)
    (10, 1, 0)
    """
    return min(math.ceil(share * steps), steps - 1)


def _half_cosine(t: float) -> float:
    return (1 + math.cos(math.pi * t)) / 2


def _warmed(steps: int, warmup: int, shape: Callable[[float, int], float]) -> Schedule:
    """``shape(t, n)``, t steps of n after the warm-up, with a linear warm-up to where it begins."""
    if steps < 1:
        raise ConfigError(must("steps", "an int > 0", steps))
    if not 0 <= warmup < max(steps, 1):
        raise ConfigError(must("warmup", f"a number of steps in [0, {steps})", warmup))
    n = steps - warmup
    begins = shape(0, n)

    def factor(at: float) -> float:
        if at < warmup:
            return min(1.0, (at + 1) / warmup) * begins
        return shape(at - warmup, n)

    return factor
