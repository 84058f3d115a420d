"""Training augmentations: torchvision's operations, every random number from one given generator.

torchvision's own transform classes draw from torch's global generator. That cannot be shared by threads that
decode ahead of the training loop: neither the batches nor the network's dropout would repeat after a resume.
So the parameters are drawn here, from a NumPy generator that belongs to one sample of one epoch, and the
pixels are made by what torchvision calls: Pillow, or ``torchvision.transforms.v2.functional``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, ImageEnhance

from finetune.data.mirroring import Picture, mirrored
from finetune.data.operations import (
    OPERATIONS,
    OPERATIONS_OF,
    REACH,
    auto_augment,
    operations,
    rand_augment,
    trivial_augment,
)
from finetune.data.preprocessing import Preprocessing
from finetune.data.resample import cut_out, resize_array
from finetune.data.scaled import Scaled, as_picture
from finetune.data.short_side import most_needed, short_side_box
from finetune.data.transforms import evaluate_pixels, evaluation_settings, resize, short_side_size

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]


FAMILIES = ("flip", "crop", "colour", "rotation")
"""What a policy may be told to leave out, because the labels mind it: left-right flips; crops of a part of
the image; changes of colour and brightness; rotations, shears and warps."""


class Augmentation(ABC):
    """RGB image -> uint8 pixels of the network's input size. The same generator gives the same pixels."""

    families: ClassVar[tuple[str, ...]] = ()
    """Those of FAMILIES that the policy makes use of."""

    def __init__(self, prep: Preprocessing, flip: bool = True, avoid: Collection[str] = ()) -> None:
        self.prep, self.avoid = prep, frozenset(avoid)
        self.flip = flip and "flip" not in self.avoid
        self.side = prep.size
        """Of the square that ``pixels`` makes."""

    takes_arrays: ClassVar[bool] = False
    """Whether ``pixels`` also takes (H, W, 3) uint8 arrays."""
    short: int = 0
    """Pixels that ``original`` wants on the short side, beyond what evaluation needs."""

    @property
    def keeps(self) -> dict[str, Any] | None:
        """Plain values that say what ``original`` leaves of an image, and that it takes a ``Scaled`` one; None: it
        wants an image in full, and what it makes of it cannot be kept for other runs."""
        return None

    @abstractmethod
    def original(self, image: Image.Image | Scaled) -> Picture:
        """What to keep of a decoded image: all that ``pixels`` can make use of, and no more."""

    @abstractmethod
    def pixels(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3) uint8 from an image that went through ``original``."""

    def alone(self, family: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3) uint8: any RGB image changed by one of ``families`` and nothing else, at a strength that
        the policy uses often: where it draws from a wide range, up to the middle of it."""
        raise KeyError(family)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> torch.Tensor:
        """(3, S, S) uint8 from any RGB image."""
        import torch

        made = self.pixels(self.original(image), rng)
        return torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))


class NoAugmentation(Augmentation):
    """The evaluation image."""

    @property
    def keeps(self) -> dict[str, Any]:
        return evaluation_settings(self.prep)

    def original(self, image: Image.Image | Scaled) -> Image.Image:
        return Image.fromarray(evaluate_pixels(image, self.prep))

    def pixels(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(image)


class Cropped(Augmentation):
    """Random crop, left-right flip, then what the policy adds to the small image."""

    crop_by: ClassVar[str] = "area"
    """``area``, as in Inception's random resized crop; or ``short-side``, whatever ``scale`` and ``ratio`` are."""

    scale: ClassVar[tuple[float, float]]
    """Share of the image's area that the crop covers."""
    ratio: ClassVar[tuple[float, float]]
    """Width over height of the crop, before it is made square."""
    families: ClassVar[tuple[str, ...]] = ("flip", "crop")

    @property
    def short(self) -> int:  # type: ignore[override]
        # The smallest crop of a larger image would still have more pixels than the network's input.
        if "crop" in self.avoid:
            return 0
        if self.crop_by == "short-side":
            return most_needed(self.prep.size)
        return math.ceil(self.prep.size / math.sqrt(self.scale[0]))

    @property
    def keeps(self) -> dict[str, Any]:
        if "crop" in self.avoid:
            return evaluation_settings(self.prep)
        return {"short side": self.short, "interpolation": self.prep.interpolation}

    def original(self, image: Image.Image | Scaled) -> Picture:
        if "crop" in self.avoid:
            return self.whole(image)
        if min(image.size) <= self.short:
            return image.pixels if isinstance(image, Scaled) else image
        size = short_side_size(image.size, self.short)
        if isinstance(image, Scaled) and isinstance(image.pixels, np.ndarray) and image.box is None:
            return resize_array(image.pixels, size, self.prep.interpolation)
        return resize(image, size, self.prep.interpolation)

    def pixels(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        small = image if "crop" in self.avoid else self.crop(image, rng)
        if self.flip and rng.random() < 0.5:
            small = mirrored(small)
        return self.finish(small, rng)

    def crop(self, image: Picture, rng: np.random.Generator) -> Picture:
        """A part of the image as the network's input, of the same kind."""
        size = image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
        by_area = self.crop_by == "area"
        box = crop_box(size, self.scale, self.ratio, rng) if by_area else short_side_box(size, rng)
        return cut_out(image, box, self.prep.size, self.prep.interpolation)

    def whole(self, image: Image.Image | Scaled) -> Image.Image:
        """The evaluation image."""
        return Image.fromarray(evaluate_pixels(image, self.prep))

    def finish(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        """(S, S, 3) uint8 from the cropped image."""
        return np.asarray(image)

    def alone(self, family: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if family == "flip":
            return np.asarray(self.whole(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
        if family == "crop":
            return np.asarray(self.crop(image, rng))
        return super().alone(family, image, rng)


class Light(Cropped):
    """For little data close to the source: the object stays whole and keeps its colours."""

    scale, ratio = (0.7, 1.0), (0.9, 1.11)
    takes_arrays = True


class Standard(Cropped):
    """The usual recipe for finetuning, with the crops of timm's and mild colour jitter."""

    scale, ratio = (0.35, 1.0), (3 / 4, 4 / 3)
    families = ("flip", "crop", "colour")
    takes_arrays = True
    strength: ClassVar[float] = 0.2
    """Brightness, contrast and saturation are multiplied by a factor in 1 +- strength, in random order."""

    def finish(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        if "colour" in self.avoid:
            return np.asarray(image)
        return np.asarray(jitter(as_picture(image), self.strength, rng))

    def alone(self, family: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if family == "colour":
            return np.asarray(jitter(self.whole(image), self.strength, rng))
        return super().alone(family, image, rng)


class Automatic(Cropped):
    """After crop and flip the operations that ``vary`` chooses, and perhaps erasing."""

    scale, ratio = (0.35, 1.0), (3 / 4, 4 / 3)
    families = FAMILIES
    takes_arrays = True
    erase: ClassVar[float] = 0.0
    """Probability that a rectangle of 2-20% of the area is filled with the mean colour."""
    reach: ClassVar[dict[str, float]] = {}
    """The strongest level of an operation that the policy draws; 1 where it is not named."""

    @property
    def colour(self) -> tuple[int, ...]:
        """The mean colour, for what has no pixels."""
        return tuple(round(255 * v) for v in self.prep.mean)

    def vary(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """TrivialAugment Wide."""
        return trivial_augment(image, rng, self.colour, operations(self.avoid))

    def finish(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        image = as_picture(image)
        made = np.asarray(self.vary(image, rng))
        if self.erase and rng.random() < self.erase:
            left, top, right, bottom = crop_box(image.size, (0.02, 0.2), (0.3, 3.3), rng)
            made = made.copy()
            made[top:bottom, left:right] = self.colour
        return made

    def alone(self, family: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if family not in OPERATIONS_OF:
            return super().alone(family, image, rng)
        names = OPERATIONS_OF[family]
        level, sign = rng.uniform(0, 0.5), 1.0 if rng.random() < 0.5 else -1.0
        name = names[int(rng.integers(len(names)))]
        level *= self.reach.get(name, 1.0)
        return np.asarray(OPERATIONS[name](self.whole(image), level, sign, list(self.colour)))


class Strong(Automatic):
    """For much data or long training: TrivialAugment Wide (https://arxiv.org/abs/2103.10158) and erasing."""

    scale = (0.25, 1.0)
    erase = 0.25


class Trivial(Automatic):
    """TrivialAugment Wide: one of fourteen operations at any strength."""


class Rand(Automatic):
    """RandAugment (https://arxiv.org/abs/1909.13719): two operations at three tenths of their range."""

    reach = REACH

    def vary(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return rand_augment(image, rng, self.colour, operations(self.avoid))


class Auto(Automatic):
    """AutoAugment's policy for ImageNet (https://arxiv.org/abs/1805.09501)."""

    reach = REACH

    def vary(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return auto_augment(image, rng, self.colour, self.avoid)


def crop_box(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> Box:
    """(left, top, right, bottom) as in Inception's random resized crop, torchvision's parameters.

    Ten tries for a box of the drawn area and ratio; else the largest centred one of an allowed ratio.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation times a factor in 1 +- ``strength`` each, in random order."""
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(1 - strength, 1 + strength, size=3)
    for which in rng.permutation(3):
        image = changes[which](image).enhance(float(factors[which]))
    return image
