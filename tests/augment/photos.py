"""Real photographs for the tests of augmentation: scikit-learn's two, cut into pieces."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Eight pieces of 213 x 213 pixels of a flower and a temple."""
    from sklearn.datasets import load_sample_images

    pieces = []
    for photo in load_sample_images().images:
        pieces += [Image.fromarray(photo[100 * (k > 1) : 100 * (k > 1) + 213, 213 * (k % 2 + k // 2) :][:, :213])
                   for k in range(4)]  # fmt: skip
    return tuple(pieces)


def batch(side: int) -> Tensor:
    """(8, 3, side, side) uint8."""
    resized = [piece.resize((side, side), Image.Resampling.BICUBIC) for piece in photographs()]
    return torch.from_numpy(np.stack([np.asarray(r) for r in resized])).permute(0, 3, 1, 2).contiguous()
