"""What is kept of each training image between epochs: in memory while it fits, in the pixel cache, or made anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.augment import Augmentation
from finetune.data.imageset import ImageSet
from finetune.data.memory import BYTES_A_PIXEL
from finetune.data.pixel_cache import PixelCache
from finetune.data.preprocessing import Preprocessing
from finetune.data.reading import needed_side
from finetune.data.transforms import evaluate_pixels, evaluation_settings

Original = Image.Image | np.ndarray

_LARGE = 4
"""Photos with so many times the pixels that are kept are worth a place on disk: decoding them costs several times
what reading those pixels does, and the pixels take about the room of the file."""


def store_for(images: ImageSet, settings: Mapping[str, Any] | None) -> PixelCache | None:
    """The pixel cache, where the set's reading uses it and it is known what the pixels depend on."""
    return None if settings is None or images.reading.cache == "memory" else PixelCache(settings)


def worth_storing(images: ImageSet, index: int, kept: int) -> bool:
    """Whether ``kept`` pixels of an image go to the disk although there is room in memory."""
    if images.reading.cache == "disk":
        return True
    info = images.info(index)
    return info.width * info.height >= _LARGE * kept


class EvaluationPixels:
    """(S, S, 3) uint8 as evaluation wants them, of one set after the other."""

    def __init__(self, images: ImageSet, prep: Preprocessing) -> None:
        self.images, self.prep, self.need = images, prep, needed_side(prep)
        self.store = store_for(images, evaluation_settings(prep))

    def __getitem__(self, index: int) -> np.ndarray:
        if self.store is None:
            return evaluate_pixels(self.images.reduced(index, self.need), self.prep)
        key = self.images.key(index, self.need)
        pixels = self.store.get(key)
        if pixels is None:
            pixels = evaluate_pixels(self.images.reduced(index, self.need), self.prep)
            if worth_storing(self.images, index, self.prep.size**2):
                self.store.add(key, pixels)
        return pixels

    def flush(self) -> None:
        """Write what waits for the disk."""
        if self.store is not None:
            self.store.flush()


class Originals:
    """What ``Augmentation.original`` leaves of each image. May be used from several threads.

    Whether an image comes from memory, from the disk or from its file does not change a pixel.

    Args:
        images: the training set; its ``reading`` says how.
        augmentation: the policy that is to be fed.
        memory: bytes.
    """

    def __init__(self, images: ImageSet, augmentation: Augmentation, memory: int) -> None:
        self.images, self.augmentation, self.prep = images, augmentation, augmentation.prep
        self.need = needed_side(self.prep, augmentation.short)
        self._fast = images.reading.fast and augmentation.keeps is not None
        self._arrays = self._fast and augmentation.takes_arrays
        # Arrays are resized by torch, Pillow images by Pillow: nearly, but not quite, the same pixels.
        settings = {**(augmentation.keeps or {}), "by": "torch"} if self._arrays else augmentation.keeps
        self._store = store_for(images, settings)
        self._kept: dict[int, Original] = {}
        self._free = memory
        self._stored = 0
        if self._store is not None and self._store.filled:
            self._stored = sum(images.key(i, self.need) in self._store for i in range(len(images)))

    def __getitem__(self, sample: int) -> Original:
        kept = self._kept.get(sample)
        if kept is not None:
            return kept
        key = b"" if self._store is None else self.images.key(sample, self.need)
        stored = None if self._store is None else self._store.get(key)
        if stored is not None:
            if self._arrays:
                return stored  # mapped: it takes no memory of its own
            return self._keep(sample, Image.fromarray(stored))[0]
        made = self._make(sample)
        made, fits = self._keep(sample, made)
        if self._store is not None:
            pixels = math.prod(_size(made))
            if not fits or worth_storing(self.images, sample, pixels):
                self._store.add(key, np.asarray(made))
                self._stored += 1
        return made

    def _make(self, sample: int) -> Original:
        if not self._fast:
            return self.augmentation.original(self.images.load(sample))
        made = self.augmentation.original(self.images.reduced(sample, self.need, self._arrays))
        return np.array(made) if self._arrays and isinstance(made, Image.Image) else made

    def _keep(self, sample: int, made: Original) -> tuple[Original, bool]:
        """The image, and whether there was room for it."""
        size = _bytes(made)
        # Two threads may both pass this test and overdraw the budget by an image: harmless.
        fits = size <= self._free
        if fits:
            self._free -= size
            self._kept[sample] = made
        return made, fits

    def resident(self) -> float:
        """Share of the originals that need no decoding any more, by the size of those that were read so far."""
        total = max(1, len(self.images))
        used = sum(map(_bytes, self._kept.values()))
        fitting = (self._free + used) / used * len(self._kept) / total if used else 0.0
        return min(1.0, max(fitting, self._stored / total))

    def flush(self) -> None:
        """Write what waits for the disk."""
        if self._store is not None:
            self._store.flush()


def _size(original: Original) -> tuple[int, int]:
    return original.shape[:2] if isinstance(original, np.ndarray) else original.size


def _bytes(original: Original) -> int:
    if isinstance(original, np.ndarray):
        return original.nbytes
    return original.width * original.height * BYTES_A_PIXEL
