"""How the pixels of a set of images are made and kept: ``data.decode`` and ``data.cache`` of the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from finetune.data.preprocessing import Preprocessing
    from finetune.recipe import DataRecipe

MARGIN = 2.5
"""Short side of a decoded image over that of the image which evaluation crops from, at least."""

_USUAL_SIZE, _USUAL_CROP = 224, 0.875


@dataclass(frozen=True)
class Reading:
    """What a set was told; the default is what every set can do."""

    fast: bool = False
    """Whether JPEGs may be decoded at a reduced scale, and training crops resized by torch."""
    cache: Literal["auto", "memory", "disk"] = "memory"
    """Where resized images are kept."""
    side: int = 0
    """``expected_side``, for those who need few pixels: the scale that images were first decoded at."""
    depth: int | None = None
    """Bits that images of more than 8 bits use; None: see ``finetune.data.deep``."""

    @classmethod
    def of(cls, recipe: DataRecipe) -> Reading:
        """As the recipe has it."""
        return cls(recipe.decode == "fast", recipe.cache, expected_side(recipe) or 0, recipe.depth)


def needed_side(prep: Preprocessing, short: int = 0) -> int:
    """Least short side of a decoded image, pixels: MARGIN times that of evaluation, and never below ``short``."""
    return max(math.ceil(MARGIN * prep.scale_size), short)


def expected_side(recipe: DataRecipe) -> int | None:
    """The same before the network is known; None where images are to be decoded in full.

    A guess: where it is wrong, images are decoded once more.
    """
    size = recipe.image_size or _USUAL_SIZE
    return math.ceil(MARGIN * math.floor(size / _USUAL_CROP)) if recipe.decode == "fast" else None
