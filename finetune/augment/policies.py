"""The policies in their batched form: what is drawn for each image, and what that makes of a batch.

They draw from the same distributions as their namesakes in ``finetune.data.augment`` and share their constants.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from finetune.augment.changes import Changes
from finetune.augment.colour import ColourMaps
from finetune.augment.draws import Draws
from finetune.augment.geometry import crop_boxes, crops, flips, short_side_boxes
from finetune.data import augment as single
from finetune.data.preprocessing import Preprocessing
from finetune.data.short_side import most_needed


class Batched(ABC):
    """A batch of square originals -> uint8 images of the network's input size, each augmented on its own."""

    families: ClassVar[tuple[str, ...]] = ("flip", "crop")
    """Those of ``FAMILIES`` that the policy makes use of."""
    scale: ClassVar[tuple[float, float]]
    """Share of the image's area that the crop covers."""
    ratio: ClassVar[tuple[float, float]]
    """Width over height of the crop in pixels, before it is made square."""
    crop_by: ClassVar[str] = "area"
    """``area`` or ``short-side``, as in ``finetune.data.augment``."""

    def __init__(self, prep: Preprocessing, flip: bool = True, avoid: Collection[str] = ()) -> None:
        self.prep, self.avoid = prep, frozenset(avoid)
        self.flip = flip and "flip" not in self.avoid
        self.fill: tuple[float, float, float] = tuple(float(round(255 * v)) for v in prep.mean)  # type: ignore[assignment]

    @property
    def kept(self) -> int:
        """Side of the square that originals are kept at, pixels: the smallest crop of a square image then has
        as many as the network's input; a multiple of 4, so that it can be halved twice."""
        if "crop" in self.avoid:
            needed: float = self.prep.scale_size
        elif self.crop_by == "short-side":
            needed = most_needed(self.prep.size)
        else:
            needed = self.prep.size / math.sqrt(self.scale[0])
        return 4 * math.ceil(needed / 4)

    def changes(self, draws: Draws, aspects: np.ndarray) -> Changes:
        """What happens to images whose width was ``aspects`` (B,) times their height."""
        found = Changes(crops(self.boxes(draws, aspects)))
        if self.flip:
            found.maps = found.maps @ flips(draws.chance(0.5))
        self.vary(found, draws)
        return found

    def boxes(self, draws: Draws, aspects: np.ndarray) -> np.ndarray:
        """(B, 4) what is shown of the images, as shares."""
        if "crop" in self.avoid:
            return evaluated(self.prep, aspects)
        if self.crop_by == "short-side":
            return short_side_boxes(draws, aspects)
        return crop_boxes(draws, aspects, self.scale, self.ratio)

    @abstractmethod
    def vary(self, found: Changes, draws: Draws) -> None:
        """Add what the policy does beside crop and flip."""

    def __call__(self, images: Tensor, draws: Draws, aspects: np.ndarray) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, S, S) uint8, on the same device."""
        made = self.changes(draws, aspects).apply(images, self.prep.size, self.fill)
        return made.round_().to(torch.uint8)


class Light(Batched):
    """For little data close to the source: the object stays whole and keeps its colours."""

    scale, ratio = single.Light.scale, single.Light.ratio

    def vary(self, found: Changes, draws: Draws) -> None:
        """Nothing."""


class Standard(Batched):
    """The usual recipe for finetuning: mild colour jitter."""

    scale, ratio = single.Standard.scale, single.Standard.ratio
    families = single.Standard.families

    def vary(self, found: Changes, draws: Draws) -> None:
        if "colour" not in self.avoid:
            jitter(found.colours(), single.Standard.strength, draws)


JITTERS = ("brightness", "contrast", "saturation")


def jitter(maps: ColourMaps, strength: float, draws: Draws, parts: Collection[str] = JITTERS) -> None:
    """Those of brightness, contrast and saturation in ``parts`` times a factor in 1 +- ``strength``; random order."""
    factors = draws.uniform(1 - strength, 1 + strength, 3)
    order = draws.columns(3).argsort(axis=1)
    for place in range(3):
        for which, change in enumerate((maps.brightness, maps.contrast, maps.saturation)):
            chosen = order[:, place] == which
            if JITTERS[which] in parts and chosen.any():
                change(np.where(chosen, factors[:, which], 1.0))


def evaluated(prep: Preprocessing, aspects: np.ndarray) -> np.ndarray:
    """(B, 4) boxes, as shares of the image, that evaluation shows of images of these aspects."""
    part = prep.size / prep.scale_size
    wide, high = 1 / aspects, aspects
    if prep.crop_mode == "center":
        half = np.stack([np.minimum(1, wide), np.minimum(1, high)], axis=1) * part / 2
    elif prep.crop_mode == "border":
        half = np.stack([np.maximum(1, wide), np.maximum(1, high)], axis=1) * part / 2
    else:
        half = np.full((len(aspects), 2), part / 2)
    return np.concatenate([0.5 - half, 0.5 + half], axis=1)


def batched(policy: str, prep: Preprocessing, flip: bool, avoid: Collection[str]) -> Batched:
    """The batched form of a policy. Raises ConfigError where it has none."""
    from finetune.augment import BATCHED

    kind: Any = BATCHED.get(policy)
    made: Batched = kind(prep, flip, avoid)
    return made
