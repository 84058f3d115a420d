"""When a phase's state is written to disk, and what has to be true of it: a state in trouble is never saved.

Checkpoints come every ``save_every`` steps where that is given, else at each epoch's end and once a minute. Those at
epoch ends are left out while they would cost more than a small share of the time.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from finetune import ranks
from finetune.training.rollback import diverged, require_health
from finetune.training.sharded import finite

if TYPE_CHECKING:
    from finetune.training.checkpoint import Good
    from finetune.training.job import Job

_SECONDS = 60.0
_SHARE = 0.03
"""Checkpoints at epoch ends are left out where they would cost more than this share of the time."""


class Saver:
    """Writes one phase's checkpoints, and knows when and what the last one cost."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._saved_at, self._cost = time.perf_counter(), 0.0

    @property
    def due(self) -> bool:
        """Whether a checkpoint is to follow the step that was just finished."""
        every = self.job.desk.save_every
        if every:
            return self.job.progress.step % every == 0
        return time.perf_counter() - self._saved_at > _SECONDS

    def end_epoch(self) -> None:
        """Save where an epoch's end is the place for it and worth its time; the main process says so for all."""
        idle = time.perf_counter() - self._saved_at
        if self.job.desk.save_every is None and ranks.spread(self._cost <= _SHARE * idle):
            self.save()

    def save(self) -> None:
        """Write last.pt and the best weights. Raises RunError (full disk) and TrainingError (NaN)."""
        job = self.job
        require_health(job)
        # The loss above is that of the weights before the last step.
        if not finite(p for p in job.backbone.parameters() if p.requires_grad):
            raise diverged(job, "A weight is not a finite number")
        job.meter.pause_clock()
        started = time.perf_counter()
        job.desk.checkpoints.save(job.state_dict(), job.best, self._good_elsewhere())
        self._saved_at = time.perf_counter()
        self._cost = self._saved_at - started
        job.meter.resume_clock()

    def _good_elsewhere(self) -> Good | None:
        """The good state where it is not the present one."""
        good = self.job.guard.good
        return good if good and good.state["progress"] != asdict(self.job.progress) else None
