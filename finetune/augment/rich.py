"""The policy ``rich``: every operation there is, each at a mild strength; and some of them alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np

from finetune.augment.automatic import erase_some
from finetune.augment.changes import Changes
from finetune.augment.draws import Draws
from finetune.augment.geometry import affine, perspectives
from finetune.augment.policies import JITTERS, Batched, jitter
from finetune.data import augment as single
from finetune.data.policies import FAMILY_OF
from finetune.data.preprocessing import Preprocessing
from finetune.recipe_values import PARTS

DEGREES, SHIFT, SHEAR = 10.0, 0.05, 0.1
"""Most rotation; most shift, of the side; most shear, a tangent."""
CORNERS, WARP, CONTROL = 0.15, 0.04, 6
"""Most that perspective moves a corner, of the side; most that the warp moves a pixel; its control points a side."""
HUE, CAST, LIGHTING = 0.04, 20.0, 0.1
"""Most hue, of the circle; most colour cast, of 255; deviation of the principal components' multiples."""
BLUR, NOISE = (0.2, 1.2), 0.04
"""Deviations of the blur, pixels; the most of the noise, of 255 as 1."""


class Rich(Batched):
    """Crops and flips as ``standard``; rotation, shift, shear, and half the time perspective or a smooth warp;
    jitter, hue, and half the time a colour cast; PCA lighting; now and then blur, noise, erasing."""

    scale, ratio = single.Standard.scale, single.Standard.ratio
    families = single.FAMILIES
    parts: ClassVar[tuple[str, ...]] = PARTS
    """The operations that there are."""
    whole = False
    """Whether the images are what evaluation shows already, so that nothing is to be cropped."""
    rare = True
    """Whether what belongs to no family (blur, noise, erasing) takes place."""

    def __init__(self, prep: Preprocessing, flip: bool = True, avoid: Collection[str] = ()) -> None:
        super().__init__(prep, flip, {*avoid, *left_out(self.parts)})

    def boxes(self, draws: Draws, aspects: np.ndarray) -> np.ndarray:
        if self.whole:
            return np.tile([0.0, 0.0, 1.0, 1.0], (len(aspects), 1))
        return super().boxes(draws, aspects)

    def has(self, *parts: str) -> bool:
        """Whether any of these operations takes place."""
        return any(p in self.parts and FAMILY_OF.get(p) not in self.avoid for p in parts)

    def vary(self, found: Changes, draws: Draws) -> None:
        if self.has("rotation", "translation", "shear", "perspective", "elastic"):
            self.warp(found, draws)
        if self.has("brightness", "contrast", "saturation", "hue", "cast", "lighting"):
            self.colour(found, draws)
        if self.rare and self.has("blur"):
            blurred = np.flatnonzero(draws.chance(0.2))
            found.pointwise("blur", blurred, draws.uniform(*BLUR)[blurred])
        if self.rare and self.has("noise"):
            noisy = np.flatnonzero(draws.chance(0.2))
            deviation, place = draws.uniform(0, 255 * NOISE)[noisy], draws.uniform(0, 1)[noisy]
            found.noise = (noisy, deviation, place) if len(noisy) else None
        if self.rare and self.has("erasing"):
            erase_some(found, draws, single.Strong.erase)

    def warp(self, found: Changes, draws: Draws) -> None:
        """Rotation, shift, shear; perspective of a quarter of the images, a smooth warp of another quarter."""
        degrees, shift, shear = (
            most * self.has(part)
            for part, most in (("rotation", DEGREES), ("translation", SHIFT), ("shear", SHEAR))
        )
        turn, x, y, sx, sy = draws.uniform(-1, 1, 5).T
        found.maps = found.maps @ affine(degrees * turn, shift * x, shift * y, shear * sx, shear * sy)
        kind = draws.columns(1)[:, 0]
        inwards = 2 * CORNERS * draws.columns(8).reshape(-1, 4, 2)
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        if self.has("perspective"):
            ends = corners * (1 - np.where(kind < 0.25, 1.0, 0.0)[:, None, None] * inwards)
            found.maps = found.maps @ perspectives(ends)
        bends = 2 * WARP * draws.uniform(-1, 1, 2 * CONTROL**2).reshape(-1, 2, CONTROL, CONTROL)
        bent = (kind >= 0.75) & self.has("elastic")
        if bent.any():
            found.bends = bends * bent[:, None, None, None]

    def colour(self, found: Changes, draws: Draws) -> None:
        """Jitter, hue, lighting, and a cast of half the images."""
        maps = found.colours()
        if self.has(*JITTERS):
            jitter(maps, single.Standard.strength, draws, self.parts)
        if self.has("hue"):
            maps.hue(draws.uniform(-HUE, HUE))
        if self.has("lighting"):
            maps.lighting(LIGHTING * draws.normal(3))
        if self.has("cast"):
            maps.cast(draws.uniform(-CAST, CAST, 3) * draws.chance(0.5)[:, None])


class Composed(Rich):
    """``parts`` alone, each as ``rich`` has it."""


def left_out(parts: Collection[str]) -> set[str]:
    """Of flips and crops those that are not among some operations."""
    return {"flip", "crop"} - set(parts)
