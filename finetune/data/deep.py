"""Images of more than 8 bits a pixel: 16-bit and 32-bit integers, and floats, of one channel.

Which value becomes white depends on the file's kind and the image alone, or on ``data.depth``; so an image looks the
same in training and at prediction time, whatever else lies beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

from finetune.data.imageset import ImageInfo
from finetune.errors import DataError

_DARK = 1 / 8
"""Images that all stay below this share of the range were made with fewer bits than their files could hold."""
_USUAL = (10, 12, 14, 16)


def is_deep(mode: str) -> bool:
    """Whether images of a Pillow mode have more than 8 bits a pixel.

    >>> is_deep("I;16B"), is_deep("L")
    (True, False)
    """
    return mode.startswith("I;16") or mode in ("I", "F")


def from_deep(image: Image.Image, depth: int | None = None) -> Image.Image:
    """8-bit RGB: scaled by ``white``, or from its least to its largest value where no range holds them.

    Raises DataError, its message the bare reason, for values that are no numbers, and for those beyond ``depth``.
    """
    values = np.asarray(image).astype(np.float64)
    low, high = _ends(values)
    if depth is not None and (low < 0 or high > 2**depth - 1):
        raise DataError(
            f"has values from {low:,.6g} to {high:,.6g}, and data.depth={depth} means 0 to {2**depth - 1:,}"
        )
    limit = white(image, low, high, depth)
    scaled = values * (255.0 / limit) if limit else (values - low) * (255.0 / max(high - low, 1e-12))
    grey = np.rint(scaled).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))


def white(image: Image.Image, low: float, high: float, depth: int | None) -> float | None:
    """The value that becomes white: with ``depth`` the largest of so many bits, but 1 of floats up to 1.

    Without: 65535 in 16-bit modes; of 32-bit integers 255 where they fit, else 65535 (Pillow reads some 16-bit files
    so); of floats 1, else 255. None where none of these holds the values.
    """
    whole = image.mode != "F"
    if depth is not None:
        return float(2**depth - 1) if whole or high > 1 else 1.0
    limits: tuple[float, ...] = (255.0, 65535.0) if whole else (1.0, 255.0)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        limits = (65535.0,)
    return next((limit for limit in limits if low >= 0 and high <= limit), None)


def value_range(image: Image.Image, depth: int | None) -> tuple[float, float]:
    """The largest value, and the one that becomes white. Raises DataError."""
    low, high = _ends(np.asarray(image))
    return high, white(image, low, high, depth) or high


def dark(infos: Iterable[ImageInfo], depth: int | None) -> list[str]:
    """A note where all images of more than 8 bits stay nearly black and nobody said how many bits they use."""
    found = [info.deep for info in infos if info.deep is not None and info.deep[1] > 255]
    if depth is not None or not found or any(high > _DARK * limit for high, limit in found):
        return []
    high, limit = max(found)
    bits = next((b for b in _USUAL if high < 2**b), 16)
    images = "1 image has" if len(found) == 1 else f"{len(found):,} images have"
    return [f"{images} more than 8 bits a pixel and no value above {high:,.0f} of {limit:,.0f}: nearly black. "
            f"Say how many bits they use: data.depth={bits}."]  # fmt: skip


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())  # NaN where any is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError("has values that are no numbers (NaN or infinite)")
    return low, high
