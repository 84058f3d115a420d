"""Brightness, contrast, saturation, hue, colour cast and PCA lighting of a batch as one affine map of colours each.

A map sends a colour x (R, G, B in [0, 255]) of an image whose mean colour is m to ``own @ x + mean @ m + shift``.
Contrast looks at the mean grey, which earlier changes have moved; because every change is affine, the mean moves
along by the same map and the composition is exact. Only the result is cut off at 0 and 255, not what lies in between.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

GREY = np.array([0.2989, 0.587, 0.114])
"""Weights of red, green and blue in torchvision's grey."""
_PCA_VALUES = np.array([55.46, 4.794, 1.148])
_PCA_VECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""Of the colours of ImageNet's pixels in [0, 255] (Krizhevsky et al. 2012)."""


class ColourMaps:
    """One map for each of B images; every method appends a change. (B,) factors, 1 (of hue: 0) for no change."""

    def __init__(self, rows: int) -> None:
        self.own = np.tile(np.eye(3), (rows, 1, 1))
        self.mean = np.zeros((rows, 3, 3))
        self.shift = np.zeros((rows, 3))

    def _then(self, own: np.ndarray, mean: np.ndarray | None = None, shift: np.ndarray | None = None) -> None:
        if mean is None:
            self.mean, self.shift = own @ self.mean, np.einsum("bij,bj->bi", own, self.shift)
        else:
            both = own + mean
            self.mean = own @ self.mean + mean @ (self.own + self.mean)
            self.shift = np.einsum("bij,bj->bi", both, self.shift)
        self.own = own @ self.own
        if shift is not None:
            self.shift = self.shift + shift

    def brightness(self, factor: np.ndarray) -> None:
        """Times the factor."""
        self._then(factor[:, None, None] * np.eye(3))

    def contrast(self, factor: np.ndarray) -> None:
        """Away from the image's mean grey by the factor."""
        f = factor[:, None, None]
        self._then(f * np.eye(3), (1 - f) * np.tile(GREY, (3, 1)))

    def saturation(self, factor: np.ndarray) -> None:
        """Away from each pixel's own grey by the factor."""
        f = factor[:, None, None]
        self._then(f * np.eye(3) + (1 - f) * np.tile(GREY, (3, 1)))

    def hue(self, turns: np.ndarray) -> None:
        """Turned about the grey axis of the RGB cube by a share of the circle; red + green + blue stay.

        HSV's hue, which torchvision turns, is no linear map. At thirds of the circle both exchange the channels; in
        between the hues differ by little, but HSV keeps the largest of R, G and B where this keeps their sum: 5 levels
        of 255 on average at .05, on photographs. (A turn in YIQ, which keeps the luminance, is twice as far away.)
        """
        angle = 2 * np.pi * turns[:, None, None]
        cross = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3)
        self._then(np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) / 3)

    def cast(self, shift: np.ndarray) -> None:
        """(B, 3) added to red, green and blue, of 255 (Wu et al. 2015, https://arxiv.org/abs/1501.02876)."""
        self._then(np.tile(np.eye(3), (len(shift), 1, 1)), None, shift)

    def lighting(self, amounts: np.ndarray) -> None:
        """(B, 3) multiples of the principal components of ImageNet's colours (AlexNet's "lighting")."""
        self.cast((amounts * _PCA_VALUES) @ _PCA_VECTORS.T)

    def invert(self, which: np.ndarray) -> None:
        """255 - x where (B,) is True."""
        s = np.where(which, -1.0, 1.0)[:, None, None]
        self._then(s * np.eye(3), None, np.where(which, 255.0, 0.0)[:, None] * np.ones(3))

    def apply(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) float32 in [0, 255] -> the same shape and range."""
        device = images.device
        own, mean, shift = (
            torch.from_numpy(part.astype(np.float32)).to(device) for part in (self.own, self.mean, self.shift)
        )
        pixels = images.flatten(2)
        if self.mean.any():
            shift = shift + torch.einsum("bij,bj->bi", mean, pixels.mean(dim=2))
        return torch.baddbmm(shift.unsqueeze(2), own, pixels).clamp_(0, 255).view_as(images)
