"""A part of an image as the network's input: by Pillow, or by torch's 8-bit kernels in half the time.

Both weigh the same pixels by the same filters; results differ by at most 2 of 255, 0.1 on average. At a crop's border
Pillow also looks at the pixels just outside of it, torch does not.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from finetune.data.transforms import pil_filter

_TORCH = ("bilinear", "bicubic")


def cut_out(
    image: Image.Image | np.ndarray, box: tuple[int, int, int, int], side: int, interpolation: str
) -> Image.Image | np.ndarray:
    """Box (left, top, right, bottom) of a Pillow image or of (H, W, 3) uint8 pixels, resized to a square of the
    same kind, with antialiasing."""
    if isinstance(image, Image.Image):
        return image.resize((side, side), pil_filter(interpolation), box=box)
    if interpolation not in _TORCH:
        picture = Image.fromarray(image)
        return np.array(picture.resize((side, side), pil_filter(interpolation), box=box))
    left, top, right, bottom = box
    return resize_array(image[top:bottom, left:right], (side, side), interpolation)


def resize_array(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """(H, W, 3) uint8 to (width, height) with antialiasing, by torch where it knows the interpolation."""
    if interpolation not in _TORCH:
        return np.array(Image.fromarray(pixels).resize(size, pil_filter(interpolation)))
    import torch

    # In this order the strides say channels last; the other way round torch would first copy to channels first.
    part = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    made = torch.nn.functional.interpolate(part, size=size[::-1], mode=interpolation, antialias=True)
    resized: np.ndarray = made[0].permute(1, 2, 0).numpy()
    return resized
