"""Snapshot ensembles: one training with a cyclic learning rate leaves several networks.

Huang et al. 2017, https://arxiv.org/abs/1704.00109. The learning rate falls along a cosine to 0 and starts
again, N times in the usual number of epochs; each time it is down the network sits in a minimum of its own, and
its weights are kept. The answer is the mean of the N networks' probabilities.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.training.ema import WeightAverage
from finetune.training.schedule import Schedule, cosine
from finetune.zoo.adapters import adapted_layers, merge
from finetune.zoo.create import save_backbone

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone

FOLDER = "snapshots"
"""Below the run folder; each snapshot is a model folder named by its number, from 1."""


def cycle_ends(epochs: int, cycles: int) -> tuple[int, ...]:
    """The epochs, counted from 1, that end a cycle: as equally long as whole epochs allow.

    >>> cycle_ends(20, 5), cycle_ends(7, 3), cycle_ends(2, 2)
    ((4, 8, 12, 16, 20), (2, 5, 7), (1, 2))
    """
    cycles = min(cycles, epochs)  # a shortened schedule may have fewer
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


class Snapshots(WeightAverage):
    """Averages nothing: writes the network to ``folder`` at the end of each cycle, whole or not at all."""

    def __init__(
        self, backbone: Backbone, ends: tuple[int, ...], folder: Path, classes: tuple[str, ...]
    ) -> None:
        super().__init__({})
        self._passed = self._closed = 0
        self.backbone, self.ends, self.folder, self.classes = backbone, ends, folder, classes

    def close_epoch(self, epoch: int, place: float) -> None:
        """One snapshot where a cycle ended, or several did in one epoch. Raises RunError where the disk is full."""
        passed = sum(end <= place for end in self.ends)
        if passed == self._passed or epoch <= self._closed:
            return
        network = self.backbone
        if layers := adapted_layers(network):
            network = copy.deepcopy(network)
            merge(network, layers)
        save_backbone(network, self.folder / str(self.steps + 1), classes=self.classes)
        self.steps, self._passed, self._closed = self.steps + 1, passed, epoch

    def state_dict(self) -> dict[str, Any]:
        """How many were written, and for how many cycles."""
        return {**super().state_dict(), "passed": self._passed, "closed": self._closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the next one."""
        super().load_state_dict(state)
        self._passed, self._closed = int(state["passed"]), int(state["closed"])
