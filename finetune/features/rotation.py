"""Principal axes of centred features: where ridge and logistic regression are solved."""

from __future__ import annotations

import torch
from torch import Tensor

_EXACT_WORK = 2e10
"""Multiply-adds up to which the Gram matrix of few samples is formed in double precision."""


def principal_axes(centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) float32 -> rotated samples (N, R), their squared norms (R,) and the orthonormal axes (D, R).

    Directions in which no sample varies are dropped. With fewer samples than dimensions the Gram matrix gives
    the rotated samples without ever forming a (D, D) matrix; there rounding must not pass for a direction
    (duplicates leave many empty ones), and leverages come close to 1, where single precision has no digits.
    """
    n, d = centred.shape
    if d <= n:
        values, axes = torch.linalg.eigh((centred.T @ centred).double())
        keep = values > values[-1].clamp_min(1e-30) * 1e-10
        axes = axes[:, keep]
        return centred @ axes.float(), values[keep], axes
    exact = n * n * d < _EXACT_WORK
    wide = centred.double() if exact else centred
    values, left = torch.linalg.eigh((wide @ wide.T).double())
    keep = values > values[-1].clamp_min(1e-30) * (1e-10 if exact else 1e-6)
    values, left = values[keep], left[:, keep]
    axes = (centred.T @ (left / values.sqrt()).float()).double()
    return left * values.sqrt(), values, axes
