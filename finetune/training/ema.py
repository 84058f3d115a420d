"""Exponential moving average of the weights: a smoother point than the last step, at no training cost.

``average <- d * average + (1 - d) * weights`` after each step, with ``d = min(decay, (1 + t) / (10 + t))``
after t steps: without this warm-up the average of a short run would still be mostly the start. Floating
running statistics are averaged alike, counters are copied. Polyak and Juditsky 1992; the warm-up is that of
TensorFlow's ``ExponentialMovingAverage(num_updates=...)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float) -> float:
    """The decay used for the update after ``step`` earlier ones.

    >>> [round(decay_at(step, 0.999), 3) for step in (0, 10, 90, 100_000)]
    [0.1, 0.55, 0.91, 0.999]
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Some mean of named tensors that training changes; what follows it decides which. This one keeps none.

    ``update`` comes after each optimizer step and ``close_epoch`` after the last step of an epoch; inside
    ``applied`` the model holds the mean.
    """

    def __init__(self, trained: dict[str, Tensor]) -> None:
        self.steps = 0
        """How many sets of weights went into the mean."""
        self._live = trained
        self._floats = [name for name, tensor in trained.items() if tensor.is_floating_point()]
        self._counters = [name for name, tensor in trained.items() if not tensor.is_floating_point()]
        self._mean = {name: tensor.detach().clone() for name, tensor in trained.items()}

    def update(self) -> None:
        """An optimizer step is done."""

    def close_epoch(self, epoch: int, place: float) -> None:
        """Epoch number ``epoch``, counted from 1, is done. A resumed run may say so twice.

        ``place`` is where that is in the planned epochs: ``epoch`` itself, or further where time shortened them.
        """

    @property
    def holds(self) -> bool:
        """Whether there is a mean to apply."""
        return bool(self._live)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model holds the mean; afterwards its own weights again, bit for bit."""
        if not self.holds:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            kept = live.detach().clone()
            live.copy_(self._mean[name])
            self._mean[name].copy_(kept)

    @torch.no_grad()
    def _take_in(self, blend: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        """Blend the present weights into the mean, counters as they are."""
        if self._floats:
            live = [self._live[name].detach() for name in self._floats]
            blend([self._mean[name] for name in self._floats], live, self.steps)
        for name in self._counters:
            self._mean[name].copy_(self._live[name])
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors and the count."""
        return {"steps": self.steps, "mean": dict(self._mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.steps = int(state["steps"])
        for name, tensor in state["mean"].items():
            self._mean[name].copy_(tensor)


class Average(WeightAverage):
    """The exponential moving average. ``decay=None`` is no average at all."""

    def __init__(self, trained: dict[str, Tensor], decay: float | None) -> None:
        super().__init__(trained if decay is not None else {})
        self.decay = decay

    def update(self) -> None:
        """Take the current weights in; call after each optimizer step."""
        if self.decay is not None:
            self._take_in(get_ema_multi_avg_fn(decay_at(self.steps, self.decay)))  # type: ignore[no-untyped-call]
