"""Stochastic weight averaging: the mean of the weights at the ends of the last epochs, at a high learning rate.

Izmailov et al. 2018, https://arxiv.org/abs/1803.05407. The usual schedule runs up to the averaged epochs; then
the learning rate goes, along half a cosine and within one epoch, to a constant share of the peak, as
``torch.optim.swa_utils.SWALR`` does it. Every averaged epoch counts the same. Floating running statistics are
averaged alike, for the scores on the way; at the end they are estimated anew where they were trained.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_swa_multi_avg_fn

from finetune.training.ema import WeightAverage


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
