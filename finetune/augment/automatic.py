"""TrivialAugment, RandAugment and AutoAugment on a batch: operations that differ from image to image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from finetune.augment.changes import Changes
from finetune.augment.draws import Draws
from finetune.augment.geometry import affine, crop_boxes
from finetune.augment.policies import Batched
from finetune.data import augment as single
from finetune.data.operations import (
    AUTO_PAIRS,
    RAND_CHANGES,
    RAND_LEVEL,
    banned_names,
    narrowed,
    operations,
)


def operate(found: Changes, name: str, rows: np.ndarray, level: np.ndarray, sign: np.ndarray) -> None:
    """Append an operation of ``finetune.data.operations`` for some rows (b,), at a level and a sign (b,) each."""
    if len(rows) == 0 or name == "identity":
        return
    signed = sign * level
    if name in GEOMETRIC:
        found.maps[rows] = found.maps[rows] @ GEOMETRIC[name](signed)
    elif name in COLOURS:
        getattr(found.colours(rows), COLOURS[name])(1 + 0.99 * signed)
    elif name == "invert":
        found.colours(rows).invert(np.ones(len(rows), dtype=bool))
    else:
        amount = {
            "sharpness": 1 + 0.99 * signed,
            "posterize": np.round(8 - 6 * level),
            "solarize": 255 * (1 - level),
        }
        found.pointwise(name, rows, amount.get(name, level))


GEOMETRIC = {
    "shear_x": lambda amount: affine(shear_x=0.99 * amount, corner=True),
    "shear_y": lambda amount: affine(shear_y=0.99 * amount, corner=True),
    "translate_x": lambda amount: affine(shift_x=amount / 7),
    "translate_y": lambda amount: affine(shift_y=amount / 7),
    "rotate": lambda amount: affine(degrees=-135 * amount),
}
COLOURS = {"brightness": "brightness", "color": "saturation", "contrast": "contrast"}


def choose(
    found: Changes, names: Sequence[str], chosen: np.ndarray, level: np.ndarray, sign: np.ndarray
) -> None:
    """Append to each image the operation that (B,) ``chosen`` names by its number."""
    for number in np.unique(chosen):
        rows = np.flatnonzero(chosen == number)
        operate(found, names[number], rows, level[rows], sign[rows])


class Automatic(Batched):
    """Crop and flip as ``standard``, then operations, then perhaps erasing."""

    scale, ratio = single.Automatic.scale, single.Automatic.ratio
    families = single.Automatic.families
    erase: ClassVar[float] = 0.0
    """Probability that a rectangle of 2-20% of the area is filled with the mean colour."""

    def vary(self, found: Changes, draws: Draws) -> None:
        self.operate(found, draws)
        if self.erase:
            erase_some(found, draws, self.erase)

    def operate(self, found: Changes, draws: Draws) -> None:
        """TrivialAugment Wide (https://arxiv.org/abs/2103.10158)."""
        names = operations(self.avoid)
        chosen, level = draws.below(len(names)), draws.below(31) / 30
        choose(found, names, chosen, level, draws.sign())


class Trivial(Automatic):
    """TrivialAugment Wide: one of fourteen operations at any strength."""


class Strong(Automatic):
    """For much data or long training: TrivialAugment Wide and erasing."""

    scale, erase = single.Strong.scale, single.Strong.erase


class Rand(Automatic):
    """RandAugment (https://arxiv.org/abs/1909.13719)."""

    def operate(self, found: Changes, draws: Draws) -> None:
        names = operations(self.avoid)
        reach = np.array([narrowed(name, RAND_LEVEL) for name in names])
        for _ in range(RAND_CHANGES):
            chosen = draws.below(len(names))
            choose(found, names, chosen, reach[chosen], draws.sign())


class Auto(Automatic):
    """AutoAugment's policy for ImageNet (https://arxiv.org/abs/1805.09501)."""

    def operate(self, found: Changes, draws: Draws) -> None:
        banned = banned_names(self.avoid)
        pair = draws.below(len(AUTO_PAIRS))
        for place in (0, 1):
            happens, sign = draws.columns(1)[:, 0], draws.sign()
            for number in np.unique(pair):
                name, probability, ninths = AUTO_PAIRS[number][place]
                rows = np.flatnonzero((pair == number) & (happens < probability))
                if name not in banned:
                    level = np.full(len(rows), narrowed(name, ninths / 9))
                    operate(found, name, rows, level, sign[rows])


def erase_some(found: Changes, draws: Draws, probability: float) -> None:
    """A rectangle of 2-20% of the area of some images is filled (https://arxiv.org/abs/1708.04896)."""
    rows = np.flatnonzero(draws.chance(probability))
    boxes = crop_boxes(draws, np.ones(draws.rows), (0.02, 0.2), (0.3, 3.3))
    if len(rows):
        found.erased = rows, boxes[rows]
