"""What a gradient phase counts, what validation says, and what all phases of a run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finetune.training.checkpoint import Checkpoints
from finetune.training.interrupt import StopRequest
from finetune.training.metrics_log import MetricsLog
from finetune.training.record import Record

if TYPE_CHECKING:
    from finetune.events import Listener
    from finetune.training.coaching import Coaching
    from finetune.training.deadline import Deadline


@dataclass
class Progress:
    """How far a phase is. All counts are of finished work."""

    epoch: int = 0
    batch: int = 0
    """Micro-batches of the current epoch."""
    step: int = 0
    """Optimizer steps of the phase."""


@dataclass(frozen=True)
class Scores:
    """Of the validation split."""

    loss: float
    accuracy: float
    """Where no class is learned, the task's own score."""


@dataclass(frozen=True)
class Desk:
    """What all phases of a run share: where results go and who is told."""

    log: MetricsLog
    checkpoints: Checkpoints
    stop: StopRequest
    listener: Listener
    log_every: int
    save_every: int | None
    """Optimizer steps between checkpoints; None: each epoch's end and once a minute."""
    plan: str
    """Digest of the plan; a checkpoint of another plan is refused."""
    record: Record
    """training.json."""
    rollbacks: int
    """How often a phase may go back to its last good state."""
    sync_norms: bool = True
    """Whether batch norms that train see the batches of all processes."""
    reference: dict[str, Tensor] = field(default_factory=dict)
    """The body's weights as the run began with them, on the CPU, where a phase holds on to them."""
    coach: Coaching | None = None
    """None: nobody reads the curves."""
    deadline: Deadline | None = None
    """By when the whole run is done; None: any time."""
    said: set[str] = field(default_factory=set)
    """What was told once and need not be told again by a later phase."""

    @property
    def spent(self) -> float:
        """Seconds of the whole run so far, where they are counted."""
        return self.deadline.spent() if self.deadline is not None else 0.0

    def say_once(self, text: str) -> None:
        """Tell the listener what holds for several phases alike."""
        if text not in self.said:
            self.said.add(text)
            self.listener.on_message(text)

    def write(self, row: dict[str, Any]) -> None:
        """A row for the metrics, which the coach reads too. Raises RunError where the disk is full."""
        self.log.write(row)
        if self.coach is not None:
            self.coach.read(row)
