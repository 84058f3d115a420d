"""Learning rates that go with an average of the weights: high and constant for SWA, cyclic for snapshots."""

from __future__ import annotations

import math
from typing import Protocol

from finetune.training.schedule import Schedule, cosine, warmup_steps


def first_averaged(epochs: int, share: float) -> int:
    """The first epoch, counted from 1, whose weights are averaged; there is always one before it, if any.

    >>> [first_averaged(epochs, 0.25) for epochs in (20, 10, 2, 1)], first_averaged(10, 0.99)
    ([16, 8, 2, 1], 2)
    """
    averaged = math.ceil(share * epochs - 1e-9)
    return max(1, epochs - max(1, min(averaged, epochs - 1)) + 1)


def swa_schedule(before: Schedule, first: int, anneal: int, level: float) -> Schedule:
    """``before`` up to step ``first``; from there half a cosine over ``anneal`` steps to ``level``, which stays.

    >>> lr = swa_schedule(lambda step: 1.0, first=4, anneal=4, level=0.5)
    >>> [round(lr(step), 3) for step in (3, 4, 6, 8, 20)]
    [1.0, 1.0, 0.75, 0.5, 0.5]
    """
    if first == 0:
        return before

    def factor(step: float) -> float:
        if step < first:
            return before(step)
        way = (1 - math.cos(math.pi * min(1.0, (step - first) / max(1, anneal)))) / 2
        return level * way + before(first - 1) * (1 - way)

    return factor


def cycle_ends(epochs: int, cycles: int) -> tuple[int, ...]:
    """The epochs, counted from 1, that end a cycle: as equally long as whole epochs allow, at least one each.

    >>> cycle_ends(20, 5), cycle_ends(7, 3), cycle_ends(2, 2)
    ((4, 8, 12, 16, 20), (2, 5, 7), (1, 2))
    """
    cycles = min(cycles, epochs)
    return tuple(round((i + 1) * epochs / cycles) for i in range(cycles))


def cyclic_cosine(ends: tuple[int, ...], warmup: int = 0) -> Schedule:
    """A cosine from the peak to 0 in each cycle; ``ends`` are the steps at which one is over.

    Equation 2 of the paper. Only the first cycle has a warm-up. Unlike those of ``sgdr`` the cycles end where
    epochs do, at which the network is kept.

    >>> lr = cyclic_cosine((4, 8))
    >>> [round(lr(step), 3) for step in range(8)]
    [1.0, 0.854, 0.5, 0.146, 1.0, 0.854, 0.5, 0.146]
    """
    starts = (0, *ends[:-1])
    cycles = [
        cosine(end - start, warmup if start == 0 else 0) for start, end in zip(starts, ends, strict=True)
    ]

    def factor(step: float) -> float:
        number = next((i for i, end in enumerate(ends) if step < end), len(ends) - 1)
        return cycles[number](step - starts[number])

    return factor


class Keys(Protocol):
    """What of a phase, or of a recipe's ``train``, bears on the schedule."""

    @property
    def swa(self) -> float | None: ...
    @property
    def swa_lr(self) -> float: ...
    @property
    def snapshots(self) -> int | None: ...


def averaged_schedule(keys: Keys, usual: Schedule, epochs: int, per_epoch: int, warmup: float) -> Schedule:
    """The learning rate: ``usual``, or what the average that is asked for makes of it.

    ``per_epoch`` steps in each of the ``epochs`` that are planned; ``warmup`` is a share of the steps, here of the
    first cycle's.
    """
    if keys.swa is not None:
        first = first_averaged(epochs, keys.swa) - 1
        return swa_schedule(usual, first * per_epoch, per_epoch, keys.swa_lr)
    if keys.snapshots is not None:
        ends = tuple(end * per_epoch for end in cycle_ends(epochs, keys.snapshots))
        return cyclic_cosine(ends, warmup_steps(warmup, ends[0]))
    return usual
