"""Every image as 32 x 32 pixels: what copies, blank images and the page of findings are made from."""

from __future__ import annotations

import numpy as np
from PIL import Image

from finetune.data.imageset import ImageSet
from finetune.data.threads import for_each

SIDE = 32
"""Pixels. Area averages of this size are the same for a re-encoded or resized copy but for a hundredth."""

_ENOUGH = 8 * SIDE
"""Pixels on the short side, at least, of JPEGs that may be decoded at a reduced scale."""

BLANK = 2.0
"""An image whose thumbnail spreads less than this (of 255) in every channel shows nothing."""


def thumbnails(images: ImageSet, threads: int = 1) -> np.ndarray:
    """(N, 32, 32, 3) uint8, the whole image squeezed into the square by area averages. Raises DataError."""
    out = np.empty((len(images), SIDE, SIDE, 3), dtype=np.uint8)

    def fill(index: int) -> None:
        found = images.reduced(index, max(images.reading.side, _ENOUGH))
        out[index] = np.asarray(found.resized((SIDE, SIDE), Image.Resampling.BOX))

    for_each(len(images), fill, threads)
    return out


def blank(thumbs: np.ndarray) -> np.ndarray:
    """(N,) bool: images of one colour.

    >>> grey = np.full((1, 32, 32, 3), 128, np.uint8)
    >>> bool(blank(grey)[0]), bool(blank(grey + np.arange(32, dtype=np.uint8)[:, None, None])[0])
    (True, False)
    """
    spread = thumbs.reshape(len(thumbs), -1, 3).astype(np.float32).std(axis=1)
    found: np.ndarray = (spread < BLANK).all(axis=1)
    return found
