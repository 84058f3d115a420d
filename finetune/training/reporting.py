"""What a phase's training says of itself: rows for the metrics, and how far it is for who listens.

The metrics get a row at fixed steps and at each epoch's end, so that a resumed run writes the same ones. The listener
is told by the clock, because somebody waits for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.training.desk import Scores
    from finetune.training.job import Job

_SHOW_SECONDS = 0.5


class Reporter:
    """One phase's rows, each with its place in the training."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._shown_at = self._started = time.perf_counter()
        self._first_step = 0

    @property
    def due(self) -> bool:
        """Whether the listener has heard nothing for a while."""
        return time.perf_counter() - self._shown_at > _SHOW_SECONDS

    def begin(self) -> None:
        """This attempt's first step is the coming one: time to the end is reckoned from here."""
        self._first_step = self.job.progress.step

    def fitted_head(self, scores: Scores) -> None:
        """What an earlier phase's head reaches before this one's first step."""
        self.job.desk.write({"kind": "epoch", **self._place(0), **self._validation(scores)})

    def first_step(self) -> None:
        """The loss before anything was learned, which no mean over steps shows."""
        job = self.job
        first = {key: value for key, value in job.meter.read().items() if key in ("loss", job.score)}
        job.desk.write({"kind": "first", **self._place(job.progress.epoch + 1), **first})

    def step(self, logging: bool) -> None:
        """Tell the listener about the interval; ``logging`` closes it and writes its row."""
        job = self.job
        job.meter.pause_clock()
        values = job.meter.close_interval() if logging else job.meter.read()
        row = {**self._place(job.progress.epoch + 1), **values, "seconds": job.meter.seconds}
        if logging:
            moved = job.movement.read()
            job.desk.write({"kind": "step", **row, **({} if moved is None else {"update": moved})})
        job.desk.listener.on_step({**row, "eta_seconds": self._eta()})
        self._shown_at = time.perf_counter()
        job.meter.resume_clock()

    def epoch(self, scores: Scores | None) -> dict[str, Any]:
        """Close the epoch's sums and write its row, which is returned; the progress counts it already."""
        job = self.job
        row = {**self._place(job.progress.epoch), **job.meter.close_epoch(), "seconds": job.meter.seconds}
        if scores is not None:
            row |= self._validation(scores)
        job.desk.write({"kind": "epoch", **row})
        return row

    def tell_epoch(self, row: dict[str, Any]) -> None:
        """Tell the listener about an epoch, once it is known how many more are due."""
        self.job.desk.listener.on_epoch({**row, "eta_seconds": self._eta()})

    def diverged(self, reason: str) -> None:
        """Training is seen to go wrong."""
        place = self._place(self.job.progress.epoch + 1)
        self.job.desk.write({"kind": "diverged", **place, "loss": None, "reason": reason})

    def _place(self, epoch: int) -> dict[str, Any]:
        """Where in the run a row belongs, and the rates of the last finished step."""
        job = self.job
        scale = job.guard.lr_scale
        return {
            "phase": job.phase.name,
            "phase_index": job.index,
            "epoch": epoch,
            "epochs": job.epochs,
            "step": job.progress.step,
            "steps": job.steps,
            "lr": job.phase.lr * job.last_factor,
            "head_lr": job.phase.head_lr * job.last_factor,
            **({"lr_scale": scale} if scale < 1 else {}),
        }

    def _validation(self, scores: Scores) -> dict[str, float]:
        return {"val_loss": scores.loss, f"val_{self.job.score}": scores.accuracy}

    def _eta(self) -> float | None:
        """Seconds to the end of the phase at the pace since this attempt began; None before its first step."""
        job = self.job
        done = job.progress.step - self._first_step
        if not done:
            return None
        return (time.perf_counter() - self._started) / done * (job.steps - job.progress.step)
