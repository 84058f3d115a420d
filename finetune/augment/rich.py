"""The policy ``rich``: every operation there is, each at a mild strength."""

from __future__ import annotations

import numpy as np

from finetune.augment.automatic import erase_some
from finetune.augment.changes import Changes
from finetune.augment.draws import Draws
from finetune.augment.geometry import affine, perspectives
from finetune.augment.policies import Batched, jitter
from finetune.data import augment as single

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
    rare = True
    """Whether what belongs to no family (blur, noise, erasing) takes place."""

    def vary(self, found: Changes, draws: Draws) -> None:
        if "rotation" not in self.avoid:
            self.warp(found, draws)
        if "colour" not in self.avoid:
            self.colour(found, draws)
        if self.rare:
            blurred = np.flatnonzero(draws.chance(0.2))
            found.pointwise("blur", blurred, draws.uniform(*BLUR)[blurred])
            noisy = np.flatnonzero(draws.chance(0.2))
            deviation, place = draws.uniform(0, 255 * NOISE)[noisy], draws.uniform(0, 1)[noisy]
            found.noise = (noisy, deviation, place) if len(noisy) else None
            erase_some(found, draws, single.Strong.erase)

    def warp(self, found: Changes, draws: Draws) -> None:
        """Rotation, shift, shear; perspective of a quarter of the images, a smooth warp of another quarter."""
        turn, x, y, sx, sy = draws.uniform(-1, 1, 5).T
        found.maps = found.maps @ affine(DEGREES * turn, SHIFT * x, SHIFT * y, SHEAR * sx, SHEAR * sy)
        kind = draws.columns(1)[:, 0]
        inwards = 2 * CORNERS * draws.columns(8).reshape(-1, 4, 2)
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        ends = corners * (1 - np.where(kind < 0.25, 1.0, 0.0)[:, None, None] * inwards)
        found.maps = found.maps @ perspectives(ends)
        bends = 2 * WARP * draws.uniform(-1, 1, 2 * CONTROL**2).reshape(-1, 2, CONTROL, CONTROL)
        bent = kind >= 0.75
        if bent.any():
            found.bends = bends * bent[:, None, None, None]

    def colour(self, found: Changes, draws: Draws) -> None:
        """Jitter, hue, lighting, and a cast of half the images."""
        maps = found.colours()
        jitter(maps, single.Standard.strength, draws)
        maps.hue(draws.uniform(-HUE, HUE))
        maps.lighting(LIGHTING * draws.normal(3))
        maps.cast(draws.uniform(-CAST, CAST, 3) * draws.chance(0.5)[:, None])
