"""What the images of a data set are said to show, whatever that is: a class each, a set of labels, a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from finetune.data.imageset import ImageSet

Answer = TypeVar("Answer")
"""A class's number, the numbers of an image's labels, or a number."""


@dataclass(frozen=True)
class Judgement(Generic[Answer]):
    """What the other images say of each."""

    suspects: tuple[tuple[int, Answer, float], ...] = ()
    """(image, suggested answer, score), the surest first."""
    figure: float | None = None
    """How well the other images tell an image's answer: ``task.score``; None where nothing could be held out."""


class Truths(ABC, Generic[Answer]):
    """The answers that were given, and all that a data check says of them. One class a task."""

    noun: ClassVar[str]
    """What may be wrong: a label, a number."""
    torn: ClassVar[str]
    """Why copies with different answers are left out of a cleaned list."""
    contradiction: ClassVar[str]
    """Heading of copies that were given different answers."""
    contradiction_means: ClassVar[str]
    doubts: ClassVar[str]
    """Heading of the suspects."""
    doubts_mean: ClassVar[str]
    one_name: ClassVar[str] = "Class names that look like one class"
    alike: ClassVar[str]
    """Among which images ``name_groups`` looks for the nearest."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        self.task = images.task

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def given(self, index: int) -> Answer:
        """What the image was given."""

    @abstractmethod
    def plain(self, answer: Answer) -> Any:
        """An answer for JSON."""

    @abstractmethod
    def shown(self, answer: Answer) -> str:
        """An answer for people."""

    def scored(self, score: float) -> str:
        """A suspect's score for people."""
        return f"{score:.2f}"

    def cell(self, index: int) -> str:
        """What the image was given, as a cell of a table that ``finetune run`` reads with ``overrides``."""
        return self.shown(self.given(index))

    def overrides(self) -> tuple[str, ...]:
        """Overrides that a run on such a table needs."""
        return (f"data.task={self.task.name}",)

    @abstractmethod
    def contradict(self, group: Sequence[int]) -> bool:
        """Whether these copies were given different answers."""

    @abstractmethod
    def judge(self, taps: Sequence[np.ndarray], copies: Sequence[Sequence[int]]) -> Judgement[Answer]:
        """Which answers the other images contradict.

        taps: pooled features of every stage, (N, C_i) float32 each; copies: groups of images that show the same, of
        which only the first speaks. Nothing is suspected where there are too few images to hold any out.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """How often each answer was given, for JSON."""

    @abstractmethod
    def bars(self) -> list[tuple[str, int]]:
        """The same as (name, images), for a drawing."""

    @abstractmethod
    def headline(self) -> str:
        """How many images there are, of what."""

    @abstractmethod
    def span(self) -> str:
        """A sentence on how they are distributed."""

    @abstractmethod
    def told(self, figure: float) -> str:
        """A sentence on ``Judgement.figure``."""

    def names(self) -> tuple[str, ...]:
        """The names that may mean the same: of classes, of labels."""
        return self.images.classes


def least_and_most(counts: dict[str, int], noun: str) -> str:
    """From how many to how many images a class or label has.

    >>> least_and_most({"a": 3, "b": 1200}, "class")
    'From 3 (a) to 1,200 (b) images a class.'
    """
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    return f"From {counts[smallest]:,} ({smallest}) to {counts[largest]:,} ({largest}) images a {noun}."


def imbalance(counts: dict[str, int]) -> float:
    """The most images of a class or label over the fewest.

    >>> imbalance({"a": 3, "b": 12})
    4.0
    """
    return max(counts.values()) / max(1, min(counts.values()))
