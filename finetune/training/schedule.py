"""Learning-rate schedules: functions from the step to a factor on the peak learning rate.

Steps are optimizer steps, counted from 0. Warm-up is linear and reaches the peak with its last step, so that
the first step already moves the weights (``1 / warmup`` of the peak, never 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from finetune.errors import ConfigError, must

Schedule = Callable[[int], float]


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """``(1 + cos(pi * t)) / 2`` with t from 0 after the warm-up to 1 just past the last step.

    SGDR without restarts, https://arxiv.org/abs/1608.03983.

    >>> lr = cosine(steps=10, warmup=2)
    >>> [round(lr(step), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    warmup = _checked(steps, warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return (1 + math.cos(math.pi * progress)) / 2

    return factor


def constant(steps: int, warmup: int = 0) -> Schedule:
    """The peak, after the warm-up.

    >>> lr = constant(steps=10, warmup=4)
    >>> [lr(step) for step in (0, 3, 4, 9)]
    [0.25, 1.0, 1.0, 1.0]
    """
    warmup = _checked(steps, warmup)
    return lambda step: min(1.0, (step + 1) / warmup) if warmup else 1.0


def warmup_steps(share: float, steps: int) -> int:
    """Steps spent in warm-up for a share of the whole; less than all of them.

    >>> warmup_steps(0.1, 100), warmup_steps(0.1, 5), warmup_steps(0.9, 1)
    (10, 1, 0)
    """
    return min(math.ceil(share * steps), steps - 1)


def _checked(steps: int, warmup: int) -> int:
    if steps < 1:
        raise ConfigError(must("steps", "an int > 0", steps))
    if not 0 <= warmup < max(steps, 1):
        raise ConfigError(must("warmup", f"a number of steps in [0, {steps})", warmup))
    return warmup
