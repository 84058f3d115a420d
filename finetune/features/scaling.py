"""Standardisation of pooled features, folded back into the linear head afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CONSTANT = 1e-6  # spread below this share of the typical magnitude counts as none


@dataclass(frozen=True)
class Standardiser:
    """``z = (x - mean) * scale`` over concatenated blocks (one block a stage).

    Every dimension gets unit variance; with several blocks each is then rescaled to the same total variance,
    so that a stage with 64 channels weighs as much under the L2 penalty as one with 512 (Head2Toe,
    arXiv 2201.03529, normalises its groups for the same reason). Constant dimensions get scale 0: they
    carry nothing, and dividing by their rounding noise would invent something.
    """

    mean: np.ndarray
    """(D,) float32."""
    scale: np.ndarray
    """(D,) float32."""

    @classmethod
    def fit(cls, blocks: Sequence[np.ndarray]) -> Standardiser:
        """blocks: (N, C_i) arrays with the same N."""
        total = sum(block.shape[1] for block in blocks)
        means, scales = [], []
        for block in blocks:
            mean = block.mean(axis=0, dtype=np.float64)
            spread = block.std(axis=0, dtype=np.float64)
            typical = float(np.sqrt(np.mean(np.square(block, dtype=np.float64)))) if block.size else 0.0
            alive = spread > max(_CONSTANT * typical, 1e-30)
            weight = np.sqrt(total / (len(blocks) * max(1, block.shape[1])))
            scales.append(np.where(alive, weight / np.where(alive, spread, 1.0), 0.0))
            means.append(mean)
        return cls(np.concatenate(means).astype(np.float32), np.concatenate(scales).astype(np.float32))

    def transform(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """(N, D) float32."""
        joined = np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
        z: np.ndarray = (joined - self.mean) * self.scale
        return z.astype(np.float32, copy=False)

    def fold(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A head on standardised features -> the same head on the raw ones. weight: (K, D), bias: (K,)."""
        raw = weight.astype(np.float64) * self.scale
        shifted = bias.astype(np.float64) - raw @ self.mean.astype(np.float64)
        return raw.astype(np.float32), shifted.astype(np.float32)
