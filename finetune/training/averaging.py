"""Which weights a gradient phase keeps beside those of its last step, and the learning rate that goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune.training.ema import Average, WeightAverage
from finetune.training.schedule import Schedule, warmup_steps
from finetune.training.snapshots import FOLDER, Snapshots, cycle_ends, cyclic_cosine
from finetune.training.swa import SwaAverage, first_averaged, swa_schedule

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.strategy.plan import GradientPhase
    from finetune.zoo.backbone import Backbone


def average_of(
    phase: GradientPhase, backbone: Backbone, trained: dict[str, Tensor], run: Path, classes: tuple[str, ...]
) -> WeightAverage:
    """The moving average, the equal mean of the last epochs, or the snapshots that the phase asks for.

    ``trained`` are the tensors that training changes; snapshots are written below the folder ``run``.
    """
    if phase.swa is not None:
        return SwaAverage(trained, first_averaged(phase.epochs, phase.swa))
    if phase.snapshots is not None:
        return Snapshots(backbone, cycle_ends(phase.epochs, phase.snapshots), run / FOLDER, classes)
    return Average(trained, phase.ema)


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
