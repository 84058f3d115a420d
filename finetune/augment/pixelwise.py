"""Changes that are no affine map of colours: (b, 3, S, S) float32 in [0, 255] -> the same, an amount for each image.

Formulas are torchvision's (``transforms.v2.functional``), with amounts that differ within the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_TABLE = 1 << 20
BLUR_RADIUS = 3
"""Pixels on each side that the blur looks at, enough for deviations of up to 1.5 pixels."""


def on(device: torch.device, values: np.ndarray) -> Tensor:
    """(b,) as (b, 1, 1, 1) float32 there."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device).view(-1, 1, 1, 1)


def posterize(x: Tensor, bits: np.ndarray) -> Tensor:
    """Only the first bits of each colour."""
    step = on(x.device, 2.0 ** (8 - np.asarray(bits)))
    return x.round().div_(step).floor_().mul_(step)


def solarize(x: Tensor, threshold: np.ndarray) -> Tensor:
    """Inverted from the threshold on."""
    return torch.where(x.round() >= on(x.device, threshold), 255 - x, x)


def autocontrast(x: Tensor, _: np.ndarray) -> Tensor:
    """Each channel stretched to [0, 255]."""
    low, high = x.round().amin(dim=(2, 3), keepdim=True), x.round().amax(dim=(2, 3), keepdim=True)
    flat = low == high
    stretched = (x - low) * (255 / torch.where(flat, torch.ones_like(low), high - low))
    return torch.where(flat, x, stretched.clamp_(0, 255))


def equalize(x: Tensor, _: np.ndarray) -> Tensor:
    """Each channel's histogram made level."""
    b, c, h, w = x.shape
    levels = x.round().long().view(b * c, -1)
    counts = torch.zeros((b * c, 256), dtype=torch.int64, device=x.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    last = counts.gather(1, levels.amax(dim=1, keepdim=True))
    step = (h * w - last).div(255, rounding_mode="floor")
    before = counts.cumsum(1) - counts
    table = (before + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp_(0, 255)
    plain = torch.arange(256, device=x.device).expand_as(table)
    table = torch.where(step == 0, plain, table)
    return table.gather(1, levels).view(b, c, h, w).float()


def sharpness(x: Tensor, factor: np.ndarray) -> Tensor:
    """Away from a slightly blurred copy by the factor; the outermost pixels stay."""
    if min(x.shape[2:]) <= 2:
        return x
    kernel = torch.ones((3, 3), device=x.device)
    kernel[1, 1] = 5
    blurred = x.clone()
    weights = (kernel / kernel.sum()).expand(x.shape[1], 1, 3, 3)
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(x, weights, groups=x.shape[1])
    return torch.lerp(blurred, x, on(x.device, factor)).clamp_(0, 255)


def blur(x: Tensor, deviation: np.ndarray) -> Tensor:
    """Gaussian, of a standard deviation in pixels for each image; the edge is reflected."""
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / np.maximum(np.asarray(deviation)[:, None], 1e-3)) ** 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    mode = "reflect" if min(x.shape[2:]) > BLUR_RADIUS else "replicate"
    for dim in (2, 3):
        pad = (0, 0, BLUR_RADIUS, BLUR_RADIUS) if dim == 2 else (BLUR_RADIUS, BLUR_RADIUS, 0, 0)
        wide = F.pad(x, pad, mode=mode)
        x = sum(  # type: ignore[assignment]
            wide.narrow(dim, i, x.shape[dim]) * on(x.device, kernel[:, i]) for i in range(len(offsets))
        )
    return x


@lru_cache(maxsize=2)
def _normal_table(device: torch.device, length: int) -> Tensor:
    """The same standard normal numbers on every device."""
    return torch.randn(length, generator=torch.Generator().manual_seed(20), dtype=torch.float32).to(device)


def noise(x: Tensor, deviation: np.ndarray, place: np.ndarray) -> Tensor:
    """Gaussian noise of a deviation of 255 for each image.

    It is read from one long table at the place (b,) in [0, 1) that belongs to the sample: an image's noise depends
    neither on its batch nor on the device, and costs no generator for each image.
    """
    count = x[0].numel()
    table = _normal_table(x.device, _TABLE + count)
    starts = torch.from_numpy((np.asarray(place) * _TABLE).astype(np.int64)).to(x.device)
    drawn = table.unfold(0, count, 1)[starts].view_as(x)
    return (x + on(x.device, deviation) * drawn).clamp_(0, 255)


def erase(x: Tensor, boxes: np.ndarray, fill: tuple[float, float, float]) -> Tensor:
    """The boxes (b, 4) left, top, right, bottom as shares of the side are filled with the colour."""
    edges = torch.from_numpy(np.round(np.asarray(boxes) * x.shape[-1]).astype(np.float32)).to(x.device)
    left, top, right, bottom = (edges[:, i].view(-1, 1, 1) for i in range(4))
    line = torch.arange(x.shape[-1], device=x.device)
    columns = (line >= left) & (line < right)  # (b, 1, S)
    rows = (line.view(1, -1, 1) >= top) & (line.view(1, -1, 1) < bottom)  # (b, S, 1)
    colour = torch.tensor(fill, dtype=x.dtype).to(x.device).view(1, 3, 1, 1)
    return torch.where((rows & columns).unsqueeze(1), colour, x)


POINTWISE: dict[str, Callable[[Tensor, np.ndarray], Tensor]] = {
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "sharpness": sharpness,
    "blur": blur,
}
