"""When to stop before the last epoch: no improvement for a while, or nothing left to improve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune.strategy.plan import GradientPhase

if TYPE_CHECKING:
    from finetune.training.desk import Scores


class Watch:
    """Follows a phase's ``monitor`` from epoch to epoch. Early stopping: Prechelt 1998, "Early stopping -- but when?".

    The number is that of the validation images, or of the training images where there are none. ``smoothing`` s
    makes it an exponential average, ``s * before + (1 - s) * now``, that begins with the first epoch's.
    """

    def __init__(self, phase: GradientPhase, score: str = "accuracy") -> None:
        self.phase, self.score = phase, score
        self.best, self.best_epoch, self.smoothed = math.inf, 0, math.nan
        self.reason: str | None = None
        """Why training stops; None while it goes on."""

    def observe(self, epoch: int, scores: Scores | None, training: Mapping[str, Any]) -> float:
        """An epoch's scores (epochs count from 1); the watched number, smaller is better."""
        monitor, s = self.phase.monitor, self.phase.smoothing
        key, field = ("loss", "loss") if monitor == "loss" else (self.score, "accuracy")
        value = float(training[key] if scores is None else getattr(scores, field))
        value = -value if monitor != "loss" else value
        self.smoothed = value if math.isnan(self.smoothed) else s * self.smoothed + (1 - s) * value
        if self.smoothed < self.best:
            self.best, self.best_epoch = self.smoothed, epoch
        self.reason = self._reason(epoch, scores)
        return self.smoothed

    def _reason(self, epoch: int, scores: Scores | None) -> str | None:
        phase = self.phase
        if phase.stop_at is not None and scores is not None and scores.accuracy >= phase.stop_at:
            return f"the validation {self.score} has reached {scores.accuracy:.4g} (train.stop_at)"
        if isinstance(phase.patience, int) and epoch - self.best_epoch >= phase.patience:
            images = "training" if scores is None else "validation"
            watched = "loss" if phase.monitor == "loss" else self.score
            return (
                f"the {images} {watched} has not improved since epoch {self.best_epoch} "
                f"(train.patience={phase.patience})"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """What coming epochs depend on."""
        return {k: v for k, v in vars(self).items() if k not in ("phase", "score")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        vars(self).update(state)
