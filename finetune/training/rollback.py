"""Divergence: noticed early, undone, and gone on from with half the learning rate.

A phase has diverged when a loss is no finite number, or when its smoothed loss is more than three times the
first. Then everything goes back to the last good state and the learning rate is halved, at most
``train.rollbacks`` times; after that the phase ends with a TrainingError. Good states are kept at places that
follow from the step count alone, and checkpoints carry them, so that a killed and resumed run goes back to the
same state as one that was never killed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune import ranks
from finetune.coach.breakage import tenth
from finetune.errors import TrainingError
from finetune.training.checkpoint import Good
from finetune.training.diverged import save_batch
from finetune.training.model_state import load_tensors

if TYPE_CHECKING:
    from finetune.training.job import Job

LIMIT = 3.0
"""Smoothed loss over the first loss from which on a phase counts as diverged."""
HEALTHY = 1.5
"""Above this ratio a state is not kept as good: going back to it would go back into the trouble."""
FIRST_IMAGES = 32
"""The first loss is the mean over the steps in which the first so many images pass."""
SMOOTHING = 0.9
"""Decay per step of the smoothed loss."""
_CAP = 10.0
"""One step counts with at most this many times the first loss: no single batch can make a divergence."""
_STEPS_APART = 100
"""An epoch's end is kept as a good state this many steps after the one before ..."""
_STEPS_WITHIN = 500
"""... and a place within an epoch after so many. Copying is then lost in the time of the steps between."""


class Diverged(TrainingError):
    """Training went wrong at a step; ``recovering`` undoes it or lets it out."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Guard:
    """Watches the loss of one phase's steps and keeps the last good state.

    ``chance`` is the loss of a head that knows nothing. The first loss counts as at least that: a head that
    was solved before starts at nearly nothing, and three times nothing is no divergence.
    """

    def __init__(self, allowed: int, chance: float) -> None:
        self.allowed, self.chance = allowed, chance
        self.good: Good | None = None
        self.events: list[dict[str, Any]] = []
        """What was undone, in order."""
        self._seen, self._first, self._smooth = 0, 0.0, 0.0
        self._reason: str | None = None
        self._unread: list[tuple[Tensor, int]] = []

    @property
    def lr_scale(self) -> float:
        """The factor on every learning rate: halved by each return."""
        return float(0.5 ** len(self.events))

    def watch(self, loss: Tensor, images: int) -> None:
        """A step's mean loss over its images; it stays on the device until somebody asks for trouble."""
        self._unread.append((loss, images))

    def trouble(self) -> str | None:
        """What is wrong with the steps so far, or None. Waits for the device."""
        unread, self._unread = self._unread, []
        for tensor, images in unread:
            loss = float(tensor)
            if self._reason:
                break
            if not math.isfinite(loss):
                self._reason = "The loss is not a finite number"
            elif self._seen < FIRST_IMAGES:
                self._seen, self._first = self._seen + images, self._first + loss * images
                self._smooth = self._reference
            else:
                self._smooth += (1 - SMOOTHING) * (min(loss, _CAP * self._reference) - self._smooth)
                if self._smooth > LIMIT * self._reference:
                    self._reason = (
                        f"The smoothed loss is more than {LIMIT:g} times the first ({self._reference:.3g})"
                    )
        return self._reason

    @property
    def _reference(self) -> float:
        return max(self._first / max(1, self._seen), self.chance)

    def keep(self, job: Job, within: bool = False) -> None:
        """Copy the job's state to the CPU where a good one is due; ``within`` an epoch that is more rarely."""
        if not self.allowed:
            return
        step = job.progress.step
        if self.good is not None:
            if step - self.good.step < (_STEPS_WITHIN if within else _STEPS_APART):
                return
            if self.trouble() or self._smooth > HEALTHY * self._reference:
                return
        state = job.moving_state()
        if all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values()):
            self.good = Good(job.index, step, copied(state, self.good.state if self.good else None), job.best)
        # Else the last step ruined the weights, after its loss was taken: the next loss will say so.

    def state_dict(self) -> dict[str, Any]:
        """Plain values; ``good`` is saved apart. A state in trouble is never saved, so none is in it."""
        self.trouble()
        return {
            "events": self.events,
            "seen": self._seen,
            "first": self._first,
            "smooth": self._smooth,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved values."""
        self._unread, self._reason = [], None
        self.events = list(state["events"])
        self._seen, self._first, self._smooth = state["seen"], state["first"], state["smooth"]


def require_health(job: Job) -> None:
    """Raises Diverged where the steps so far are in trouble. Waits for the device."""
    trouble = job.guard.trouble()
    if trouble:
        raise diverged(job, trouble)


def diverged(job: Job, reason: str) -> Diverged:
    """The error to raise, with the place, the rates and what to do; a row of the metrics says the same."""
    job.reporter.diverged(reason)
    phase, factor = job.phase, job.last_factor
    place = f"epoch {job.progress.epoch + 1} step {job.progress.step} of phase {phase.name!r}"
    rates = f"lr {phase.lr * factor:.3g}, head lr {phase.head_lr * factor:.3g}"
    lr, head_lr = (tenth(rate, job.guard.lr_scale) for rate in (phase.lr, phase.head_lr))
    remedies = [f"lower the learning rate (train.lr={lr:g} train.head_lr={head_lr:g})"]
    if phase.clip_grad is None:
        remedies.append("clip gradients (train.clip_grad=1)")
    if job.engine.precision.dtype != "fp32":
        remedies.append("compute in fp32 (train.precision=fp32)")
    return Diverged(
        f"{reason} at {place} ({rates}): training has diverged. "
        f"Remedies: {', '.join(remedies)}. The last checkpoint is from before.",
        reason,
    )


@contextlib.contextmanager
def recovering(job: Job) -> Iterator[None]:
    """Where the block diverges, take the job back to its last good state and halve the learning rate.

    The checkpoint and the metrics files go back with it: no row of the steps undone is left. Raises
    TrainingError, naming the batch at which it was noticed, where that was done as often as allowed.
    """
    try:
        yield
    except Diverged as trouble:
        _recover(job, trouble)


def _recover(job: Job, trouble: Diverged) -> None:
    guard, good, step, epoch = job.guard, job.guard.good, job.progress.step, job.progress.epoch + 1
    batch = ranks.on_main(lambda: save_batch(job, trouble.reason))
    done = len(guard.events)
    if good is None or done >= guard.allowed:
        halved = f" The learning rate had been halved {done} times before." if done else ""
        raise TrainingError(f"{trouble}{halved}{_where(batch)}") from None
    event = {
        "step": step,
        "epoch": epoch,
        "reason": trouble.reason,
        "back_to_step": good.step,
        "lr_scale": guard.lr_scale / 2,
        "batch": f"{batch.parent.name}/{batch.name}" if batch else None,
    }
    events = [*guard.events, event]
    _go_back(job, good, events)
    job.desk.listener.on_message(
        f"{trouble.reason} at epoch {epoch} step {step}: back to step {good.step} with half the learning rate "
        f"({len(events)} of at most {guard.allowed} times).{_where(batch)}"
    )


def _go_back(job: Job, good: Good, events: list[dict[str, Any]]) -> None:
    """Make a good state the present one, on disk too; ``events`` say what was undone."""
    job.load_state_dict({**copied(good.state), "good": good}, good.best)
    load_tensors(job.backbone, good.state["model"])
    job.guard.events = events
    # In this order: a process killed in between resumes from here and cuts the rows itself.
    job.desk.checkpoints.save({**job.state_dict(), "metrics": good.state["metrics"]}, job.best)
    job.desk.log.cut(good.state["metrics"])
    note_events(job)


def note_events(job: Job) -> None:
    """Keep what was undone with the run's record."""
    if job.guard.events:
        job.desk.record.phase(job.index)["rollbacks"] = job.guard.events
        job.desk.record.save()


def _where(batch: object) -> str:
    return f" The batch: {batch}." if batch else ""


def copied(value: Any, into: Any = None) -> Any:
    """A copy of nested lists and mappings with every tensor on the CPU, in the memory of ``into`` where it fits.

    >>> copied({"a": [torch.ones(2), 3]})
    {'a': [tensor([1., 1.]), 3]}
    """
    if isinstance(value, Tensor):
        if isinstance(into, Tensor) and (into.shape, into.dtype) == (value.shape, value.dtype):
            return into.copy_(value.detach())
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        old = into if isinstance(into, dict) else {}
        return {key: copied(item, old.get(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        known = into if isinstance(into, (list, tuple)) and len(into) == len(value) else [None] * len(value)
        return type(value)(copied(item, other) for item, other in zip(value, known, strict=True))
    return value
