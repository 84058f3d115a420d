"""Left-right flips: how, and for which classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

Picture = Image.Image | np.ndarray
"""RGB: a Pillow image, or (H, W, 3) uint8."""


def mirrored(image: Picture) -> Picture:
    """Left and right exchanged."""
    if isinstance(image, Image.Image):
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image[:, ::-1]


def flip_safe(classes: Sequence[str]) -> bool:
    """Whether a mirrored image still is of its class, as far as the names tell.

    Not where every name is a number or a single character (digits, letters, the numbered signs of a road
    sign catalogue), nor where one says left or right.

    >>> flip_safe(["daisy", "rose"]), flip_safe(["0", "1"]), flip_safe(["turn_left", "turn_right"])
    (True, False, False)
    """
    names = [name.strip().lower() for name in classes]
    if all(name.isdigit() or len(name) == 1 for name in names):
        return False
    words = {word for name in names for word in "".join(c if c.isalnum() else " " for c in name).split()}
    return not words & {"left", "right", "clockwise", "anticlockwise", "counterclockwise"}
