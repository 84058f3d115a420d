"""Running loss, accuracy (or the task's own score) and speed of the training batches."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finetune import ranks
from finetune.training.objectives import Classes, Objective


class Meter:
    """Sums over an interval and over the epoch; they stay on the device until read, so adding never waits."""

    def __init__(self, device: torch.device, objective: Objective | None = None) -> None:
        self.objective = objective or Classes()
        # Sums in float64 are exact enough to be saved and gone on with; MPS has float32 only.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._device = device
        self._interval, self._epoch = self._zeros(), self._zeros()
        self._seconds = 0.0
        self._images, self._busy = 0, 0.0
        self._epoch_images, self._epoch_busy = 0, 0.0
        self._since = time.perf_counter()

    def _zeros(self) -> Tensor:
        """Loss, score, images, contradicted labels."""
        return torch.zeros(4, dtype=self._dtype, device=self._device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """A micro-batch: mean loss, (B, K) logits, (B,) labels or (B, K) targets, which the objective scores."""
        n = len(labels)
        answers = logits.detach()
        right = self.objective.scores(answers, labels).sum().to(self._dtype)
        against = self.objective.contradicted(answers, labels).sum().to(self._dtype)
        total = loss.detach().to(self._dtype) * n
        # A number copied to a GPU makes the processor wait for it; one that is filled in there does not.
        self._interval += torch.stack([total, right, torch.full_like(total, n), against])
        self._images += n

    def add_step(self, parts: Sequence[tuple[Tensor, Tensor, Tensor]], images: int) -> None:
        """The parts of an optimizer step, of all processes; ``images`` of all of them together."""
        if ranks.alone():
            for part in parts:
                self.add(*part)
            return
        mine = Meter(self._device, self.objective)
        for part in parts:
            mine.add(*part)
        mine.unite()
        self._interval += mine._interval
        self._images += images

    def unite(self) -> None:
        """Make the interval that of all processes."""
        ranks.add_up([self._interval])

    def resume_clock(self) -> None:
        """Training goes on after something else (validation, saving)."""
        self._since = time.perf_counter()

    def pause_clock(self) -> None:
        """What follows does not count as training time."""
        now = time.perf_counter()
        self._seconds += now - self._since
        self._busy += now - self._since
        self._since = now

    @property
    def seconds(self) -> float:
        """Time spent in training steps since the phase began, over all attempts."""
        return self._seconds

    def read(self) -> dict[str, float]:
        """Mean loss and accuracy of the interval so far, and the speed. Waits for the device."""
        return self._means(self._interval) | {"images_per_second": _rate(self._images, self._busy)}

    def close_interval(self) -> dict[str, float]:
        """Like read(), then start the next interval."""
        row = self.read()
        self._epoch += self._interval
        self._interval = self._zeros()
        self._epoch_images += self._images
        self._epoch_busy += self._busy
        self._images, self._busy = 0, 0.0
        return row

    def close_epoch(self) -> dict[str, float]:
        """Mean loss and accuracy of the epoch and the share of contradicted labels, where that is known; then start
        the next."""
        self.close_interval()
        row = self._means(self._epoch) | {"images_per_second": _rate(self._epoch_images, self._epoch_busy)}
        images, against = self._epoch[2:].tolist()
        if images and math.isfinite(against):
            row["contradicted"] = against / images
        self._epoch = self._zeros()
        self._epoch_images, self._epoch_busy = 0, 0.0
        return row

    def _means(self, sums: Tensor) -> dict[str, float]:
        loss, right, n, _ = sums.tolist()
        score = self.objective.score
        return {"loss": loss / n, score: right / n} if n else {"loss": math.nan, score: math.nan}

    def state_dict(self) -> dict[str, Any]:
        """The sums and the time so far."""
        return {"interval": self._interval.cpu(), "epoch": self._epoch.cpu(), "seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved sums."""
        self._interval, self._epoch = (self._loaded(state[name]) for name in ("interval", "epoch"))
        self._seconds = float(state["seconds"])

    def _loaded(self, sums: Tensor) -> Tensor:
        """Saved sums; of a version that did not count contradicted labels they are not known."""
        sums = sums.to(self._device, self._dtype)
        return sums if len(sums) == 4 else torch.cat([sums, sums.new_full((4 - len(sums),), math.nan)])


def _rate(images: int, seconds: float) -> float:
    return images / seconds if seconds > 0 else 0.0
