"""Random numbers for the samples of a batch, each sample's from (seed, epoch, sample) alone.

A generator for each sample would cost more than the augmentation. Philox is a function of a counter and a key
(Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405), so one call makes the numbers of a whole batch, and
neither the batch size nor the order nor the number of processes can change them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

_STREAM = 0x61756731
"""Keeps these numbers apart from others that are drawn with the same seed."""
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10: (..., 4) counters below 2^32 -> (..., 4) words below 2^32, both as uint64."""
    a, b, c, d = (counter[..., i].astype(np.uint64) for i in range(4))
    for i in range(10):
        k0, k1 = (np.uint64((word + i * step) & 0xFFFFFFFF) for word, step in zip(key, _WEYL, strict=True))
        left, right = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (right >> _SHIFT) ^ b ^ k0, right & _LOW, (left >> _SHIFT) ^ d ^ k1, left & _LOW
    return np.stack([a, b, c, d], axis=-1)


class Draws(ABC):
    """Numbers for the rows of a batch, in the order in which they are asked for."""

    rows: int

    @abstractmethod
    def columns(self, count: int) -> np.ndarray:
        """(B, count) in [0, 1): the next ``count`` numbers of every row."""

    def uniform(self, low: float, high: float, count: int = 1) -> np.ndarray:
        """(B,), or (B, count) for more than one."""
        drawn = low + (high - low) * self.columns(count)
        return drawn[:, 0] if count == 1 else drawn

    def below(self, n: int) -> np.ndarray:
        """(B,) whole numbers in 0 .. n - 1."""
        return np.minimum((self.columns(1)[:, 0] * n).astype(np.int64), n - 1)

    def chance(self, p: float) -> np.ndarray:
        """(B,) True with probability p."""
        return np.asarray(self.columns(1)[:, 0] < p)

    def sign(self) -> np.ndarray:
        """(B,) 1 or -1."""
        return np.where(self.chance(0.5), 1.0, -1.0)

    def normal(self, count: int) -> np.ndarray:
        """(B, count) standard normal, by Box and Muller."""
        u = self.columns(2 * count)
        return np.asarray(np.sqrt(-2 * np.log1p(-u[:, :count])) * np.cos(2 * np.pi * u[:, count:]))


class Counted(Draws):
    """Numbers that follow from (seed, epoch, sample), and from ``time`` where a sample returns within an epoch."""

    def __init__(self, seed: int, epoch: int, samples: np.ndarray, times: np.ndarray) -> None:
        self.rows, self._at = len(samples), 0
        self._key = seed & 0xFFFFFFFF, ((seed >> 32) ^ _STREAM) & 0xFFFFFFFF
        self._counter = np.zeros((self.rows, 1, 4), dtype=np.uint64)
        self._counter[:, 0, 1], self._counter[:, 0, 2], self._counter[:, 0, 3] = samples, epoch, times

    def columns(self, count: int) -> np.ndarray:
        blocks = -(-count // 4)
        counter = np.repeat(self._counter, blocks, axis=1)
        counter[:, :, 0] = np.arange(self._at, self._at + blocks)
        self._at += blocks
        words = philox(counter, self._key).reshape(self.rows, -1)[:, :count]
        return np.asarray(words / 2.0**32)


class Generated(Draws):
    """One row, from a NumPy generator."""

    rows = 1

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def columns(self, count: int) -> np.ndarray:
        return self._rng.random((1, count))
