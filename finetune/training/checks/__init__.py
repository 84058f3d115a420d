"""What is looked at before a phase trains: a check a file, each a function from the scene to its verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet
    from finetune.training.job import Job

Status = Literal["ok", "warning", "failure", "skipped"]


@dataclass(frozen=True)
class Check:
    """A verdict with its figure and, where something is wrong, what to do."""

    name: str
    status: Status
    found: str
    """What was seen, with the figure."""
    remedy: str = ""
    """The recipe key to change, or what else to do; empty where all is well."""

    def __str__(self) -> str:
        return f"{self.name}: {self.found}{' ' + self.remedy if self.remedy else ''}"


@dataclass
class Scene:
    """What the checks look at. None of them changes it: they work on copies (``trial.on_a_copy``)."""

    job: Job
    """The phase, at its first step."""
    images: ImageSet
    """Its training images."""
    chosen: tuple[int, ...]
    """The ones that were decoded for the checks, drawn at random."""
    pixels: Tensor
    """(n, 3, S, S) uint8 of those, as evaluation sees them."""
    labels: Tensor
    """(n,) int64 classes, or (n, K) targets."""
    decodes: float
    """Images a second and thread that were decoded then."""
    began: float
    ends: float
    """When the checks must be done, by ``time.perf_counter``."""
    rate: float | None = None
    """Images a second that the network trains on, as far as was seen."""

    @property
    def fresh(self) -> bool:
        """Whether the head has random weights: no earlier phase solved or trained it."""
        return self.job.index == 0

    def left(self) -> float:
        """Seconds that may still be spent."""
        return self.ends - time.perf_counter()

    def affords(self, images: float) -> bool:
        """Whether so many images can be trained on in the time that is left."""
        return self.left() > (0.0 if self.rate is None else images / self.rate)


CheckFunction = Callable[[Scene], Check]


def skipped(name: str, why: str) -> Check:
    """A check that cannot judge, or would take too long."""
    return Check(name, "skipped", why)


def out_of_time(name: str, scene: Scene) -> Check:
    """A check for which the time that the checks may take is too short."""
    return skipped(name, f"{scene.ends - scene.began:.2g} s were not enough")
