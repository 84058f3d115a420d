"""Evaluation preprocessing, pixel for pixel timm's, without importing torchvision or timm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from finetune.data.preprocessing import Preprocessing
from finetune.data.scaled import Scaled

if TYPE_CHECKING:
    import torch

_FILTERS = {
    "nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX, "hamming": Image.Resampling.HAMMING,
}  # fmt: skip


def pil_filter(interpolation: str) -> Image.Resampling:
    """The Pillow filter of a Preprocessing's interpolation name."""
    return _FILTERS[interpolation]


def evaluate_image(image: Image.Image, prep: Preprocessing) -> torch.Tensor:
    """RGB image -> uint8 (3, S, S): what timm's evaluation transform gives before it normalises."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(evaluate_pixels(image, prep).transpose(2, 0, 1)))


def evaluate_pixels(image: Image.Image | Scaled, prep: Preprocessing) -> np.ndarray:
    """RGB image -> uint8 (S, S, 3): scaled to ``prep.scale_size``, centre of ``prep.size`` cut out."""
    resized = resize(image, _scaled_size(image.size, prep), prep.interpolation)
    fill = tuple(round(255 * v) for v in prep.mean) if prep.crop_mode == "border" else (0, 0, 0)
    return np.asarray(centre_crop(resized, prep.size, fill))


def evaluation_settings(prep: Preprocessing) -> dict[str, Any]:
    """What the evaluation pixels depend on: all of the preprocessing but the normalisation."""
    tree = prep.to_dict()
    fill = tree["mean"] if prep.crop_mode == "border" else None
    return {"evaluation": [tree[k] for k in ("size", "crop_pct", "interpolation", "crop_mode")], "fill": fill}


def resize(image: Image.Image | Scaled, size: tuple[int, int], interpolation: str) -> Image.Image:
    """To (width, height) with antialiasing; the same image where the size is already right."""
    if isinstance(image, Scaled):
        return image.resized(size, pil_filter(interpolation))
    return image if image.size == size else image.resize(size, pil_filter(interpolation))


def short_side_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) with the short side at ``short`` and the long side rounded down, as torchvision does.

    >>> short_side_size((640, 480), 256)
    (341, 256)
    """
    width, height = size
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def centre_crop(image: Image.Image, side: int, fill: tuple[int, ...] = (0, 0, 0)) -> Image.Image:
    """The middle ``side`` x ``side`` pixels, padded with ``fill`` where the image is smaller."""
    width, height = image.size
    if width < side or height < side:
        # Odd remainders go to the right and the bottom, as in torchvision.
        wide, high = max(width, side), max(height, side)
        canvas = Image.new("RGB", (wide, high), fill)
        canvas.paste(image, ((wide - width) // 2, (high - height) // 2))
        image, width, height = canvas, wide, high
    if (width, height) == (side, side):
        return image
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    return image.crop((left, top, left + side, top + side))


def _scaled_size(size: tuple[int, int], prep: Preprocessing) -> tuple[int, int]:
    scale = prep.scale_size
    if prep.crop_mode == "squash":
        return scale, scale
    if prep.crop_mode == "border":
        ratio = max(size) / scale
        width, height = round(size[0] / ratio), round(size[1] / ratio)
        return max(1, width), max(1, height)
    return short_side_size(size, scale)
