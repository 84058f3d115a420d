"""Snapshot ensembles: one training with a cyclic learning rate leaves several networks.

Huang et al. 2017, https://arxiv.org/abs/1704.00109. The learning rate falls along a cosine to 0 and starts
again, N times in the usual number of epochs; each time it is down the network sits in a minimum of its own, and
its weights are kept. The answer is the mean of the N networks' probabilities.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import ranks
from finetune.training.ema import WeightAverage
from finetune.zoo.adapters import adapted_layers, merge
from finetune.zoo.model_folder import save_backbone

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone

FOLDER = "snapshots"
"""Below the run folder; each snapshot is a model folder named by its number, from 1."""


class Snapshots(WeightAverage):
    """Averages nothing: writes the network to ``folder`` at the end of each cycle, whole or not at all."""

    def __init__(
        self, backbone: Backbone, ends: tuple[int, ...], folder: Path, classes: tuple[str, ...],
        leave: Callable[[Backbone], None] = lambda backbone: None,
    ) -> None:  # fmt: skip
        super().__init__({})
        self._passed = self._closed = 0
        self.backbone, self.ends, self.folder, self.classes = backbone, ends, folder, classes
        self.leave = leave

    def close_epoch(self, epoch: int, place: float) -> None:
        """One snapshot where a cycle ended, or several did in one epoch. Raises RunError where the disk is full."""
        passed = sum(end <= place for end in self.ends)
        if passed == self._passed or epoch <= self._closed:
            return
        network = self.backbone
        layers = adapted_layers(network)
        if layers or network.task == "regression":
            network = copy.deepcopy(network)
        if layers:
            merge(network, layers)
        if network.task == "regression":
            self.leave(network)
        if ranks.main():
            save_backbone(network, self.folder / str(self.steps + 1), classes=self.classes)
        self.steps, self._passed, self._closed = self.steps + 1, passed, epoch

    def state_dict(self) -> dict[str, Any]:
        """How many were written, and for how many cycles."""
        return {**super().state_dict(), "passed": self._passed, "closed": self._closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the next one."""
        super().load_state_dict(state)
        self._passed, self._closed = int(state["passed"]), int(state["closed"])
