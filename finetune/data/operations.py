"""One change of a small image at a strength: the vocabulary of TrivialAugment, RandAugment and AutoAugment.

An operation takes a level in [0, 1] and a sign; level 1 is the most that TrivialAugment Wide does. The other two
policies use the same operations over narrower ranges, REACH of it.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from finetune.compiler import without_compiler


def trivial_augment(
    image: Image.Image, rng: np.random.Generator, fill: Sequence[int], names: Sequence[str] | None = None
) -> Image.Image:
    """One of fourteen operations at a random one of 31 strengths: torchvision's TrivialAugmentWide.

    Shifts are up to 1/7 of the side, which is the paper's 32 pixels at 224. ``names``: the operations to
    draw from; default: all.
    """
    names = NAMES if names is None else names
    name = names[int(rng.integers(len(names)))]
    level = int(rng.integers(31)) / 30
    sign = 1.0 if rng.random() < 0.5 else -1.0
    made: Image.Image = OPERATIONS[name](image, level, sign, list(fill))
    return made


def _affine(
    image: Image.Image, fill: list[int], translate: list[int], shear: Sequence[float] = (0.0, 0.0)
) -> Any:
    # A shear keeps the upper left corner, as in torchvision's TrivialAugmentWide; a shift has no centre.
    centre = [0.0, 0.0] if any(shear) else None
    return _functional("affine")(
        image, angle=0.0, translate=translate, scale=1.0, shear=list(shear), fill=fill, center=centre
    )


@functools.cache
def _functional(name: str) -> Callable[..., Any]:
    with without_compiler():  # imported with the first image that needs it
        module = importlib.import_module("torchvision.transforms.v2.functional")
    operation: Callable[..., Any] = getattr(module, name)
    return operation


def _degrees(level: float, sign: float) -> float:
    return math.degrees(math.atan(sign * 0.99 * level))


def _shift(image: Image.Image, level: float, sign: float) -> int:
    return int(sign * level * image.width / 7)


def _enhance(kind: Callable[[Image.Image], Any]) -> Callable[..., Any]:
    return lambda image, level, sign, fill: kind(image).enhance(1.0 + sign * 0.99 * level)


OPERATIONS: dict[str, Callable[[Image.Image, float, float, list[int]], Any]] = {
    "identity": lambda image, level, sign, fill: image,
    "shear_x": lambda image, level, sign, fill: _affine(image, fill, [0, 0], [_degrees(level, sign), 0.0]),
    "shear_y": lambda image, level, sign, fill: _affine(image, fill, [0, 0], [0.0, _degrees(level, sign)]),
    "translate_x": lambda image, level, sign, fill: _affine(image, fill, [_shift(image, level, sign), 0]),
    "translate_y": lambda image, level, sign, fill: _affine(image, fill, [0, _shift(image, level, sign)]),
    "rotate": lambda image, level, sign, fill: _functional("rotate")(image, sign * 135.0 * level, fill=fill),
    "brightness": _enhance(ImageEnhance.Brightness),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": lambda image, level, sign, fill: _functional("posterize")(image, round(8 - 6 * level)),
    "solarize": lambda image, level, sign, fill: _functional("solarize")(image, 255.0 * (1 - level)),
    "autocontrast": lambda image, level, sign, fill: _functional("autocontrast")(image),
    "equalize": lambda image, level, sign, fill: _functional("equalize")(image),
}
NAMES = tuple(OPERATIONS)
OPERATIONS["invert"] = lambda image, level, sign, fill: _functional("invert")(image)  # AutoAugment's alone

OPERATIONS_OF: dict[str, tuple[str, ...]] = {
    "colour": ("brightness", "color", "contrast", "posterize", "solarize", "autocontrast", "equalize"),
    "rotation": ("shear_x", "shear_y", "rotate"),
}
"""Family -> the operations that belong to it."""

REACH = {
    "shear_x": 0.3 / 0.99, "shear_y": 0.3 / 0.99, "translate_x": 7 * 150 / 331, "translate_y": 7 * 150 / 331,
    "rotate": 30 / 135, "brightness": 0.9 / 0.99, "color": 0.9 / 0.99, "contrast": 0.9 / 0.99,
    "sharpness": 0.9 / 0.99, "posterize": 4 / 6,
}  # fmt: skip
"""The strongest level of RandAugment and AutoAugment, of an operation's level; 1 where it is not named."""

RAND_CHANGES, RAND_LEVEL = 2, 9 / 30
"""RandAugment's number of operations and their strength (https://arxiv.org/abs/1909.13719), torchvision's defaults."""

Chosen = tuple[str, float, int]
"""An operation, the probability that it is carried out, and its strength in ninths."""

AUTO_PAIRS: tuple[tuple[Chosen, Chosen], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
"""AutoAugment's policy for ImageNet (https://arxiv.org/abs/1805.09501): pairs of operations, one pair an image."""


def banned_names(avoid: Collection[str]) -> set[str]:
    """The operations of some families."""
    named = {name for family in avoid for name in OPERATIONS_OF.get(family, ())}
    return named | ({"invert"} if "colour" in avoid else set())


def narrowed(name: str, level: float) -> float:
    """A level of RandAugment or AutoAugment in [0, 1] as a level of the operation."""
    return level * REACH.get(name, 1.0)


def rand_augment(
    image: Image.Image, rng: np.random.Generator, fill: Sequence[int], names: Sequence[str]
) -> Image.Image:
    """Two operations after each other, each at the same level, up or down."""
    for _ in range(RAND_CHANGES):
        name = names[int(rng.integers(len(names)))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image = OPERATIONS[name](image, narrowed(name, RAND_LEVEL), sign, list(fill))
    return image


def auto_augment(
    image: Image.Image, rng: np.random.Generator, fill: Sequence[int], avoid: Collection[str] = ()
) -> Image.Image:
    """One of the 25 pairs; its operations of an avoided family are left out."""
    banned = banned_names(avoid)
    for name, probability, ninths in AUTO_PAIRS[int(rng.integers(len(AUTO_PAIRS)))]:
        happens, sign = rng.random() < probability, 1.0 if rng.random() < 0.5 else -1.0
        if happens and name not in banned:
            image = OPERATIONS[name](image, narrowed(name, ninths / 9), sign, list(fill))
    return image


def operations(avoid: Collection[str]) -> tuple[str, ...]:
    """The operations of TrivialAugment that are left where some families are avoided; never none.

    >>> operations(["colour", "rotation"])
    ('identity', 'translate_x', 'translate_y', 'sharpness')
    """
    banned = banned_names(avoid)
    return tuple(name for name in NAMES if name not in banned)
