"""Scores to probabilities: one factor, fitted on answers to images that the head had not seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_RANGE = (-2.0, 3.0)
"""Powers of ten between which the factor is searched, on scores of unit spread."""


def fit_temperature(
    scores: np.ndarray, y: np.ndarray, offset: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """The factor for which ``factor * scores + offset`` are logits of least log-loss, and each sample's loss (N,).

    scores: (N, K) held-out, y: (N,) int, offset: (K,), such as the log of the class shares. The labels count for
    (n + 1) / (n + 2), Laplace's rule of succession: with four images, all four right, the least log-loss would
    ask for an infinite factor. The losses that are returned are plain ones. The loss is convex in the factor;
    bisection on its derivative.
    """
    unit, spread = _unit(scores)
    label = torch.as_tensor(y, dtype=torch.int64)[:, None]
    shift = torch.zeros(scores.shape[1]) if offset is None else torch.as_tensor(offset)
    sure = (len(unit) + 1) / (len(unit) + 2)
    wanted = sure * float(unit.gather(1, label).mean())  # the other classes' mean is zero: rows are centred

    def slope(factor: float) -> float:
        p = torch.softmax(factor * unit + shift, dim=1)
        return float((p * unit).sum(dim=1).mean()) - wanted

    factor = _bisect(slope)
    logits = factor * unit + shift
    losses = torch.logsumexp(logits, dim=1) - logits.gather(1, label)[:, 0]
    return factor / spread, losses.numpy()


def halfway_temperature(scores: np.ndarray, y: np.ndarray, offset: np.ndarray | None = None) -> float:
    """The factor where nothing could be held out, from scores (N, K) of the training images themselves.

    Their own class then gets a mean probability halfway between guessing, 1/K, and certainty: nothing is known
    of how well the head does, and it must claim neither.
    """
    unit, spread = _unit(scores)
    label = torch.as_tensor(y, dtype=torch.int64)[:, None]
    shift = torch.zeros(scores.shape[1]) if offset is None else torch.as_tensor(offset)
    wanted = 0.5 * (1 + 1 / float(scores.shape[1]))

    def excess(factor: float) -> float:
        return float(torch.softmax(factor * unit + shift, dim=1).gather(1, label).mean()) - wanted

    return _bisect(excess) / spread


def _unit(scores: np.ndarray) -> tuple[Tensor, float]:
    """Rows centred, which softmax does not see, and brought to unit spread; the spread, 1 where there is none."""
    s = torch.as_tensor(scores, dtype=torch.float64)
    s = s - s.mean(dim=1, keepdim=True)
    spread = float(s.square().mean().sqrt())
    if not spread > 1e-30:
        return torch.zeros_like(s), 1.0
    return s / spread, spread


def _bisect(slope: Callable[[float], float]) -> float:
    """Where an increasing function of the factor crosses zero, within the range."""
    low, high = _RANGE
    for _ in range(40):
        middle = 0.5 * (low + high)
        if slope(10.0**middle) > 0:
            high = middle
        else:
            low = middle
    return float(10.0**low)
