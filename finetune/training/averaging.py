"""Which weights a gradient phase keeps beside those of its last step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.training.averaged_schedule import cycle_ends, first_averaged
from finetune.training.ema import Average, WeightAverage
from finetune.training.snapshots import FOLDER, Snapshots
from finetune.training.swa import SwaAverage

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.strategy.plan import GradientPhase
    from finetune.zoo.backbone import Backbone


def average_of(
    phase: GradientPhase, backbone: Backbone, trained: dict[str, Tensor], run: Path, classes: tuple[str, ...],
    leave: Callable[[Backbone], None],
) -> WeightAverage:  # fmt: skip
    """The moving average, the equal mean of the last epochs, or the snapshots that the phase asks for.

    ``trained`` are the tensors that training changes; snapshots are written below the folder ``run``, after
    ``leave`` has made of a copy what answers outside of the training.
    """
    if phase.swa is not None:
        return SwaAverage(trained, first_averaged(phase.epochs, phase.swa))
    if phase.snapshots is not None:
        return Snapshots(backbone, cycle_ends(phase.epochs, phase.snapshots), run / FOLDER, classes, leave)
    return Average(trained, phase.ema)
