"""Profile: what was found in the data, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from finetune.data.imageset import DataBundle, counted
from finetune.task import MULTI_LABEL, REGRESSION


@dataclass(frozen=True)
class Profile:
    """Counts and sizes of a DataBundle; n, counts, median and imbalance are of the training images."""

    n: int
    """Training images."""
    num_classes: int
    """Classes."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    counts: tuple[int, ...]
    """Training images of each class."""
    median: float
    """Median training images a class."""
    imbalance: float
    """Largest class over smallest class."""
    splits: dict[str, int]
    """Images in train, val and test."""
    widths: tuple[int, int, int]
    """Smallest, median and largest width of all images, pixels."""
    heights: tuple[int, int, int]
    """Smallest, median and largest height, pixels."""
    modes: dict[str, int]
    """Images by stored colour mode, most frequent first."""
    quarantined: int
    """Images set aside."""
    notes: tuple[str, ...] = ()
    """How the splits were made and what looked odd."""
    source: str = ""
    """Where the images came from."""
    aside: dict[str, int] = field(default_factory=dict)
    """The images set aside by kind: without a label, missing, unreadable."""
    task: str = "single-label"
    """What is learned. Of several labels an image ``counts`` are those of the labels; of a number those of the groups
    of like numbers that samples are stratified by."""
    span: tuple[float, float, float] | None = None
    """Of a number: the least, the mean and the largest of the training images."""

    @property
    def grey(self) -> bool:
        """Whether no image has colour channels."""
        return all(mode in ("1", "L", "LA", "F", "I") or mode.startswith("I;16") for mode in self.modes)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def profile(bundle: DataBundle) -> Profile:
    """Measure a bundle. Costs nothing where sizes are known from checking, as in folders."""
    parts = {"train": bundle.train, "val": bundle.val, "test": bundle.test}
    infos = [part.info(i) for part in parts.values() for i in range(len(part))]
    train = bundle.train
    counts, span = np.bincount(train.labels, minlength=len(bundle.classes)), None
    if train.task == MULTI_LABEL:
        counts = train.targets.sum(axis=0).astype(np.int64)
    elif train.task == REGRESSION:
        counts, numbers = np.bincount(train.labels), train.targets.astype(np.float64)
        span = float(numbers.min()), float(numbers.mean()), float(numbers.max())
    return Profile(
        n=len(bundle.train),
        num_classes=len(bundle.classes),
        classes=tuple(bundle.classes),
        counts=tuple(int(c) for c in counts),
        median=float(np.median(counts)),
        imbalance=float(counts.max() / max(1, counts.min())),
        splits={name: len(part) for name, part in parts.items()},
        widths=_spread([i.width for i in infos]),
        heights=_spread([i.height for i in infos]),
        modes=dict(Counter(i.mode for i in infos).most_common()),
        quarantined=len(bundle.quarantined),
        aside=counted(bundle.quarantined),
        notes=bundle.notes,
        source=bundle.source,
        task=train.task.name,
        span=span,
    )


def _spread(values: list[int]) -> tuple[int, int, int]:
    if not values:
        return 0, 0, 0
    return min(values), int(np.median(values)), max(values)
