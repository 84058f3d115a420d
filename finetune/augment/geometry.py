"""Where every output pixel comes from: crop, flip, rotation, shear, shift, perspective and a smooth warp as one map.

Maps are (B, 3, 3) homographies from the output's coordinates to the source's, both in [-1, 1] from edge to edge of
the picture (x to the right, y down), made by NumPy on the host. The pixels are looked up once, bilinearly.

Where many source pixels fall on an output pixel, bilinear lookup skips some (aliasing). From 1.8 of them on in each
direction, where it becomes the smaller error, a sample is read from its image at half the size (at a quarter from 3.6
on), each pixel the mean of four. The policies keep originals so small that it rarely comes to that.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.augment.draws import Draws
from finetune.data.short_side import SHORT

SHRINK = 1.8
"""Source pixels an output pixel, in each direction, from which on the half-size images are read."""


def crop_boxes(
    draws: Draws, aspects: np.ndarray, scale: tuple[float, float], ratio: tuple[float, float]
) -> np.ndarray:
    """(B, 4) left, top, right, bottom as shares of images of ``aspects`` (width over height): Inception's crops.

    ``scale`` is the share of the area, ``ratio`` the crop's width over height in pixels. As ``data.augment.crop_box``
    without rounding to whole pixels: the first of ten tries that fits, else the largest centred box.
    """
    area = draws.uniform(*scale, count=10)
    shape = np.exp(draws.uniform(float(np.log(ratio[0])), float(np.log(ratio[1])), count=10))
    place = draws.columns(2)
    w, h = np.sqrt(area * shape / aspects[:, None]), np.sqrt(area * aspects[:, None] / shape)
    fits = (w <= 1) & (h <= 1)
    first, found = fits.argmax(axis=1), fits.any(axis=1)
    rows = np.arange(len(aspects))
    clipped = np.clip(aspects, *ratio)
    width = np.where(found, w[rows, first], np.minimum(1, clipped / aspects))
    height = np.where(found, h[rows, first], np.minimum(1, aspects / clipped))
    left = (1 - width) * np.where(found, place[:, 0], 0.5)
    top = (1 - height) * np.where(found, place[:, 1], 0.5)
    return np.stack([left, top, left + width, top + height], axis=1)


def short_side_boxes(draws: Draws, aspects: np.ndarray) -> np.ndarray:
    """The same for ``data.short_side.short_side_box``: squares in pixels, without rounding to whole ones."""
    part, place = 1 / draws.uniform(*SHORT), draws.columns(2)
    sides = part[:, None] * np.stack([np.minimum(1, 1 / aspects), np.minimum(1, aspects)], axis=1)
    begin = (1 - sides) * place
    return np.concatenate([begin, begin + sides], axis=1)


def crops(boxes: np.ndarray) -> np.ndarray:
    """(B, 3, 3): the output shows the boxes of (B, 4) shares; outside [0, 1] there is nothing but fill."""
    made = identity(len(boxes))
    left, top, right, bottom = boxes.T
    made[:, 0, 0], made[:, 0, 2] = right - left, left + right - 1
    made[:, 1, 1], made[:, 1, 2] = bottom - top, top + bottom - 1
    return made


def identity(rows: int) -> np.ndarray:
    """(B, 3, 3)."""
    return np.tile(np.eye(3), (rows, 1, 1))


def flips(which: np.ndarray) -> np.ndarray:
    """(B, 3, 3): left-right where (B,) is True."""
    made = identity(len(which))
    made[:, 0, 0] = np.where(which, -1.0, 1.0)
    return made


def affine(
    degrees: np.ndarray | float = 0.0, shift_x: np.ndarray | float = 0.0, shift_y: np.ndarray | float = 0.0,
    shear_x: np.ndarray | float = 0.0, shear_y: np.ndarray | float = 0.0, corner: bool = False,
) -> np.ndarray:  # fmt: skip
    """(B, 3, 3): torchvision's ``affine`` of a square picture, its parameters (B,) each, looked up backwards.

    ``degrees`` turn clockwise; shifts are shares of the side; shears are tangents and, with ``corner``, leave the
    upper left corner where it is, else the centre.
    """
    turn, x, y, sx, sy = np.broadcast_arrays(
        np.deg2rad(np.atleast_1d(degrees)), shift_x, shift_y, np.arctan(shear_x), np.arctan(shear_y)
    )
    a, c = np.cos(turn - sy) / np.cos(sy), np.sin(turn - sy) / np.cos(sy)
    forward = identity(len(turn))
    forward[:, 0, 0], forward[:, 0, 1] = a, -a * np.tan(sx) - np.sin(turn)
    forward[:, 1, 0], forward[:, 1, 1] = c, -c * np.tan(sx) + np.cos(turn)
    if corner:
        forward[:, :2, 2] = forward[:, :2, :2].sum(axis=2) - 1
    forward[:, 0, 2] += 2 * x
    forward[:, 1, 2] += 2 * y
    return np.asarray(np.linalg.inv(forward))


def perspectives(ends: np.ndarray) -> np.ndarray:
    """(B, 3, 3): the picture's corners go to ``ends`` (B, 4, 2), from the upper left one clockwise."""
    starts = np.broadcast_to([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], ends.shape)
    rows = np.zeros((len(ends), 8, 8))
    x, y = ends[..., 0], ends[..., 1]
    for i in (0, 1):
        rows[:, i::2, 3 * i], rows[:, i::2, 3 * i + 1], rows[:, i::2, 3 * i + 2] = x, y, 1
        rows[:, i::2, 6], rows[:, i::2, 7] = -x * starts[..., i], -y * starts[..., i]
    solved = np.linalg.solve(rows, starts.reshape(len(ends), 8, 1))[..., 0]
    return np.concatenate([solved, np.ones((len(ends), 1))], axis=1).reshape(-1, 3, 3)


def shrinkage(maps: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """(B,) source pixels of (H, W) an output pixel at the centre, the mean of both directions."""
    area = np.abs(np.linalg.det(maps)) / np.abs(maps[:, 2, 2]) ** 3
    return np.asarray(np.sqrt(area * size[0] * size[1]) / side)


def _leave(maps: np.ndarray) -> bool:
    """Whether any output corner lies outside its source."""
    corners = np.array([[-1.0, 1, -1, 1], [-1.0, -1, 1, 1], [1, 1, 1, 1]])
    seen = maps @ corners
    return bool((np.abs(seen[:, :2] / seen[:, 2:]) > 1 + 1e-6).any())


def resample(
    images: Tensor, maps: np.ndarray, side: int, fill: tuple[float, float, float], bends: np.ndarray | None = None
) -> Tensor:  # fmt: skip
    """(B, 3, H, W) uint8 or float in [0, 255] -> (B, 3, S, S) float32, on their device.

    ``bends``: (B, 2, g, g) shifts of the output's coordinates on a coarse grid, cubic in between: a smooth warp, after
    everything that the maps say. Outside the source there is ``fill``.
    """
    device = images.device
    grid = _grid(maps, side, device, bends)
    smaller = shrinkage(maps, (images.shape[2], images.shape[3]), side) / SHRINK
    levels = np.maximum(0, np.floor(np.log2(smaller)) + 1).astype(int)
    if not levels.any():
        out = _lookup(images, grid)
    else:
        out = torch.empty((len(images), 3, side, side), device=device)
        for level in np.unique(levels):
            rows = torch.from_numpy(np.flatnonzero(levels == level)).to(device)
            source = images[rows]
            for _ in range(level):
                half = [-(-n // 2) for n in source.shape[2:]]
                source = F.interpolate(source.float(), half, mode="area")
            out[rows] = _lookup(source, grid[rows])
    if bends is not None or _leave(maps):
        beyond = torch.maximum(grid[..., 0].abs(), grid[..., 1].abs()) > 1
        for channel, value in enumerate(fill):
            out[:, channel].masked_fill_(beyond, value)
    return out


def _lookup(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def _grid(maps: np.ndarray, side: int, device: torch.device, bends: np.ndarray | None) -> Tensor:
    """(B, S, S, 2) coordinates in the source of every output pixel's centre."""
    m = torch.from_numpy(maps.astype(np.float32)).to(device)[..., None, None]  # (B, 3, 3, 1, 1)
    line = (torch.arange(side, dtype=torch.float32, device=device) + 0.5) * (2 / side) - 1
    x, y = line.view(1, 1, side), line.view(1, side, 1)
    if bends is not None:
        shift = torch.from_numpy(bends.astype(np.float32)).to(device)
        shift = F.interpolate(shift, (side, side), mode="bicubic", align_corners=True)
        x, y = x + shift[:, 0], y + shift[:, 1]
    grid = torch.empty((len(maps), side, side, 2), device=device)
    bent = bool(np.abs(maps[:, 2] / maps[:, 2, 2:] - [0, 0, 1]).max() > 1e-9)
    for i in (0, 1):
        grid[..., i] = m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2]
    if bent:
        grid /= (m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]).unsqueeze(3)
    elif not np.allclose(maps[:, 2, 2], 1):
        grid /= m[:, 2, 2].unsqueeze(3)
    return grid
