"""ImageSet: one split of labelled images, whatever it was read from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from finetune.data.place import Place
from finetune.data.reading import Reading
from finetune.task import REGRESSION, SINGLE_LABEL, Task

if TYPE_CHECKING:
    from finetune.data.scaled import Scaled


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What is known about an image without keeping its pixels."""

    width: int
    height: int
    mode: str
    """Pillow's colour mode as stored: RGB, L, P, CMYK, I;16 ..."""
    jpeg: bool = False
    """Whether it can be decoded at a reduced scale."""
    deep: tuple[float, float] | None = None
    """Of an image of more than 8 bits a pixel: its largest value, and the value that becomes white."""


class ImageSet(ABC):
    """Labelled images by index. Implementations decode one image at a time; callers batch and cache."""

    classes: tuple[str, ...]
    """Class names; label k is classes[k]. Of several labels an image their names, of a number its name."""
    labels: np.ndarray
    """(N,) int64 classes. Where ``values`` are learned: groups of like images, to split and to sample by."""
    task: Task = SINGLE_LABEL
    reading: Reading = Reading()
    values: np.ndarray | None = None
    """(N, K) float32: yes (1) or no (0) for each label, or the number (K = 1); None where each image has a class."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> np.ndarray:
        """What is learned: (N,) classes, or (N, K) values."""
        return self.labels if self.values is None else self.values

    def truth(self, index: int) -> str:
        """The class of an image, its labels with ``|`` between them, or its number, as text."""
        if self.values is None:
            return self.classes[int(self.labels[index])]
        row = self.values[index]
        if self.task == REGRESSION:
            return f"{row[0]:.7g}"
        return "|".join(name for name, yes in zip(self.classes, row, strict=True) if yes)

    @abstractmethod
    def load(self, index: int) -> Image.Image:
        """The image as RGB, EXIF rotation applied. Raises DataError where it cannot be decoded.

        The image may be shared with other callers: make a copy before drawing on it.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call the image in messages and prediction tables: its path where it has one."""

    @abstractmethod
    def fingerprint(self, index: int) -> bytes:
        """Digest of the image's bytes: the key of everything cached about it."""

    def reduced(self, index: int, short: int, array: bool = False) -> Scaled:
        """The image, where ``reading`` is fast maybe at a reduced scale that leaves ``short`` pixels on the short side.

        ``array``: as an array rather than a Pillow image. Raises DataError as ``load`` does.
        """
        from finetune.data.scaled import Scaled

        image = self.load(index)
        return Scaled(np.array(image) if array else image, image.size)

    def key(self, index: int, short: int) -> bytes:
        """Digest of all that the pixels of ``reduced`` depend on."""
        return self.fingerprint(index)

    def fingerprints(self) -> list[bytes]:
        """Those of all images, in order."""
        return [self.fingerprint(i) for i in range(len(self))]

    def info(self, index: int) -> ImageInfo:
        """Size and stored mode; sets that know them without decoding override this."""
        image = self.load(index)
        return ImageInfo(image.width, image.height, image.mode)

    def file(self, index: int) -> Place | None:
        """The file that holds the image, or its place in an archive; None where none does."""
        return None

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """A view on some of the images, in the given order."""
        return Subset(self, np.asarray(indices, dtype=np.int64))


class Subset(ImageSet):
    """A view on some images of another set."""

    def __init__(self, base: ImageSet, indices: np.ndarray) -> None:
        self.base, self.indices = base, indices
        self.classes, self.reading = base.classes, base.reading
        self.labels = base.labels[indices]
        self.task = base.task
        self.values = None if base.values is None else base.values[indices]

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        return Subset(self.base, self.indices[np.asarray(indices, dtype=np.int64)])

    def load(self, index: int) -> Image.Image:
        return self.base.load(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(int(self.indices[index]))

    def fingerprint(self, index: int) -> bytes:
        return self.base.fingerprint(int(self.indices[index]))

    def reduced(self, index: int, short: int, array: bool = False) -> Scaled:
        return self.base.reduced(int(self.indices[index]), short, array)

    def key(self, index: int, short: int) -> bytes:
        return self.base.key(int(self.indices[index]), short)

    def fingerprints(self) -> list[bytes]:
        return [self.base.fingerprint(i) for i in self.indices.tolist()]

    def info(self, index: int) -> ImageInfo:
        return self.base.info(int(self.indices[index]))

    def file(self, index: int) -> Place | None:
        return self.base.file(int(self.indices[index]))


class Joined(ImageSet):
    """Two sets with the same classes, one after the other (train + val for a cross-validated fit)."""

    def __init__(self, first: ImageSet, second: ImageSet) -> None:
        self.first, self.second = first, second
        self.classes, self.reading = first.classes, first.reading
        self.labels = np.concatenate([first.labels, second.labels])
        self.task = first.task
        if first.values is not None and second.values is not None:
            self.values = np.concatenate([first.values, second.values])

    def _where(self, index: int) -> tuple[ImageSet, int]:
        n = len(self.first)
        return (self.first, index) if index < n else (self.second, index - n)

    def load(self, index: int) -> Image.Image:
        part, i = self._where(index)
        return part.load(i)

    def name(self, index: int) -> str:
        part, i = self._where(index)
        return part.name(i)

    def fingerprint(self, index: int) -> bytes:
        part, i = self._where(index)
        return part.fingerprint(i)

    def reduced(self, index: int, short: int, array: bool = False) -> Scaled:
        part, i = self._where(index)
        return part.reduced(i, short, array)

    def key(self, index: int, short: int) -> bytes:
        part, i = self._where(index)
        return part.key(i, short)

    def info(self, index: int) -> ImageInfo:
        part, i = self._where(index)
        return part.info(i)

    def file(self, index: int) -> Place | None:
        part, i = self._where(index)
        return part.file(i)


@dataclass(frozen=True)
class Quarantined:
    """An image that was set aside, and why."""

    path: str
    reason: str
    kind: Literal["unlabelled", "missing", "unreadable"] = "unreadable"


def counted(quarantined: Iterable[Quarantined]) -> dict[str, int]:
    """How many of each kind, in words.

    >>> counted([Quarantined("a", ""), Quarantined("b", "", "missing"), Quarantined("c", "")])
    {'missing': 1, 'unreadable': 2}
    """
    kinds: Counter[str] = Counter(item.kind for item in quarantined)
    return {words: kinds[kind] for kind, words in _KINDS.items() if kinds[kind]}


_KINDS = {"unlabelled": "without a label", "missing": "missing", "unreadable": "unreadable"}


@dataclass(frozen=True)
class DataBundle:
    """What the sources gave: the splits, what was set aside, what the user should know."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    quarantined: tuple[Quarantined, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences about how the splits were made, printed and saved."""
    source: str = ""
    """The folder or object the images came from."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def task(self) -> Task:
        return self.train.task
