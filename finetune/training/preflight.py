"""Preflight: a look at everything that commonly goes wrong in silence, in seconds, before a phase trains.

Each check is in a file of its own in ``checks/`` and has its remedy. They work on copies: afterwards weights,
buffers and random states are what they were, bit for bit, and training ends as it would have without.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from finetune.data.imageset import ImageSet
from finetune.data.reading import needed_side
from finetune.data.transforms import evaluate_pixels
from finetune.errors import TrainingError
from finetune.training.checks import Check, CheckFunction, Scene
from finetune.training.checks.first_loss import first_loss
from finetune.training.checks.frozen import frozen
from finetune.training.checks.gradients import gradients
from finetune.training.checks.loader import loader
from finetune.training.checks.overfit import overfit
from finetune.training.checks.preprocessing import preprocessing
from finetune.training.checks.regularisation import regularisation
from finetune.training.job import Job

# In this order the cheap ones come first and the one that can wait longest comes last.
CHECKS: tuple[CheckFunction, ...] = (
    preprocessing, gradients, first_loss, regularisation, frozen, loader, overfit,
)  # fmt: skip
IMAGES = 64
"""Decoded for the checks, at most, in a share of their time."""
LEAST, SHARE, MOST = 2.0, 0.03, 60.0
"""Seconds that the checks may take: this share of the training, within these limits ..."""
ENOUGH, TENTH = 5.0, 0.1
"""... and up to so many seconds a larger share, for most checks are then done in full."""


@dataclass(frozen=True)
class Report:
    """The verdicts on one phase."""

    phase: str
    checks: tuple[Check, ...]
    seconds: float

    def of(self, *statuses: str) -> list[Check]:
        """The checks that ended so."""
        return [check for check in self.checks if check.status in statuses]

    def lines(self) -> list[str]:
        """What a run says: one line where all is well, and one for each check that is not."""
        well, seconds = len(self.of("ok")), f"in {self.seconds:.1f} s"
        left_out: dict[str, list[str]] = {}
        for check in self.of("skipped"):
            left_out.setdefault(check.found, []).append(check.name)
        told = f"Preflight: {well} of {len(self.checks)} checks well, {seconds}"
        if well == len(self.checks):
            told = f"Preflight: all {well} checks well, {seconds}"
        if left_out:
            listed = (f"{', '.join(names)} ({why})" for why, names in left_out.items())
            told += f"; not judged: {', '.join(listed)}"
        return [f"{told}.", *(f"{c.status.capitalize()}: {c}" for c in self.of("warning", "failure"))]

    def require(self) -> None:
        """Raises TrainingError where a check failed."""
        failed = self.of("failure")
        if failed:
            noun = "problem" if len(failed) == 1 else "problems"
            listed = "".join(f"\n  - {check}" for check in failed)
            raise TrainingError(
                f"Preflight found {len(failed)} {noun} before phase {self.phase!r}:{listed}\n"
                "train.preflight=false (--no-preflight) trains all the same."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "phase": self.phase,
            "seconds": round(self.seconds, 2),
            "checks": [asdict(c) for c in self.checks],
        }


def preflight(job: Job, images: ImageSet, seconds: float | None = None) -> Report:
    """Run every check on a phase that is about to begin; ``images`` are its training images.

    ``seconds``: what may be spent; default: as ``seconds_for`` the training's expected time. A check that would take
    longer, or that cannot judge, says so. Raises DataError where an image cannot be read.
    """
    began = time.perf_counter()
    scene = _scene(job, images, began, LEAST if seconds is None else seconds)
    scene.ends = began + (MOST if seconds is None else seconds)
    checks = []
    for check in CHECKS:
        checks.append(check(scene))
        if scene.rate is not None and seconds is None:
            training = job.steps * job.phase.accumulate * job.phase.batch_size / scene.rate
            scene.ends = began + seconds_for(training)
        job.check_stop()
    return Report(job.phase.name, tuple(checks), time.perf_counter() - began)


def seconds_for(training: float) -> float:
    """Seconds that the checks before so many seconds of training may take.

    >>> [seconds_for(training) for training in (1, 30, 100, 1000, 10_000)]
    [2.0, 3.0, 5.0, 30.0, 60.0]
    """
    return min(MOST, max(LEAST, min(ENOUGH, TENTH * training), SHARE * training))


def _scene(job: Job, images: ImageSet, began: float, seconds: float) -> Scene:
    """Decode images until a quarter of the time is over."""
    prep, random = job.backbone.preprocessing, np.random.default_rng(job.feed.seed)
    chosen = [int(i) for i in random.permutation(len(images))[:IMAGES]]
    pixels: list[np.ndarray] = []
    for index in chosen:
        pixels.append(evaluate_pixels(images.reduced(index, needed_side(prep)), prep).transpose(2, 0, 1))
        if len(pixels) >= 2 and time.perf_counter() - began > seconds / 4:
            break
    rate = len(pixels) / max(1e-9, time.perf_counter() - began)
    chosen = chosen[: len(pixels)]
    labels = job.feed.train_labels[chosen]
    return Scene(
        job, images, tuple(chosen), torch.from_numpy(np.stack(pixels)), labels, rate, began, began + seconds
    )
