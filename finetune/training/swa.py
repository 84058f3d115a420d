"""Stochastic weight averaging: the mean of the weights at the ends of the last epochs, at a high learning rate.

Izmailov et al. 2018, https://arxiv.org/abs/1803.05407. The usual schedule runs up to the averaged epochs; then
the learning rate goes, along half a cosine and within one epoch, to a constant share of the peak, as
``torch.optim.swa_utils.SWALR`` does it. Every averaged epoch counts the same. Floating running statistics are
averaged alike, for the scores on the way; at the end they are estimated anew where they were trained.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_swa_multi_avg_fn

from finetune.training.ema import WeightAverage
from finetune.training.schedule import Schedule


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


class SwaAverage(WeightAverage):
    """The equal mean of the weights at the end of epoch ``first`` and of every later one."""

    def __init__(self, trained: dict[str, Tensor], first: int) -> None:
        super().__init__(trained)
        self.first, self._closed = first, 0

    @property
    def holds(self) -> bool:
        """Before the first averaged epoch the model is scored as it is."""
        return self.steps > 0

    def close_epoch(self, epoch: int, place: float) -> None:
        """Take the weights in, each epoch once."""
        if place >= self.first and epoch > self._closed:
            self._take_in(get_swa_multi_avg_fn())  # type: ignore[no-untyped-call]
            self._closed = epoch

    def state_dict(self) -> dict[str, Any]:
        """Tensors, the count and the last epoch that was taken in."""
        return {**super().state_dict(), "closed": self._closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        super().load_state_dict(state)
        self._closed = int(state["closed"])
