"""Exponential moving average of the weights: a smoother point than the last step, at no training cost.

``average <- d * average + (1 - d) * weights`` after each step, with ``d = min(decay, (1 + t) / (10 + t))``
after t steps: without this warm-up the average of a short run would still be mostly the start. Floating
running statistics are averaged alike, counters are copied. Polyak and Juditsky 1992; the warm-up is that of
TensorFlow's ``ExponentialMovingAverage(num_updates=...)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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


class Average:
    """The moving average of named tensors that training changes. ``decay=None`` is no average at all."""

    def __init__(self, trained: dict[str, Tensor], decay: float | None) -> None:
        self.decay, self.steps = decay, 0
        self._live = trained if decay is not None else {}
        self._floats = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        self._counters = [name for name, tensor in self._live.items() if not tensor.is_floating_point()]
        self._mean = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights in; call after each optimizer step."""
        if self.decay is None:
            return
        if self._floats:
            blend = get_ema_multi_avg_fn(decay_at(self.steps, self.decay))  # type: ignore[no-untyped-call]
            live = [self._live[name].detach() for name in self._floats]
            blend([self._mean[name] for name in self._floats], live, self.steps)
        for name in self._counters:
            self._mean[name].copy_(self._live[name])
        self.steps += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model holds the average; afterwards its own weights again, bit for bit."""
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

    def state_dict(self) -> dict[str, Any]:
        """Tensors and the step count."""
        return {"steps": self.steps, "mean": dict(self._mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.steps = int(state["steps"])
        for name, tensor in state["mean"].items():
            self._mean[name].copy_(tensor)
