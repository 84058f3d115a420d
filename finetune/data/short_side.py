"""Random crops as VGG and ResNet were trained with (https://arxiv.org/abs/1409.1556, https://arxiv.org/abs/1512.03385).

The image is scaled until its short side has 256 to 480 pixels, and 224 x 224 of them are cut out anywhere: objects of
several sizes, never stretched. For a network of another input size all three numbers are multiplied alike.
"""

from __future__ import annotations

import math

import numpy as np

SHORT = (256 / 224, 480 / 224)
"""The short side after scaling over the side of the crop, least and most."""


def most_needed(side: int) -> int:
    """Pixels on the short side from which on no crop of ``side`` is scaled up."""
    return math.ceil(side * SHORT[1])


def short_side_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the square of an image of (width, height) that becomes the network's input."""
    width, height = size
    side = max(1, round(min(size) / rng.uniform(*SHORT)))
    left, top = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    return left, top, left + side, top + side
