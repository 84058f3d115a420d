"""What the other images are asked: one of each group of copies, its standardised features, its nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from finetune.features.knn import nearest
from finetune.features.scaling import Standardiser

_NEIGHBOURS = 15
_SOFTNESS = 0.1


def first_of_each(n: int, copies: Sequence[Sequence[int]]) -> np.ndarray:
    """Numbers of the images that speak: of each group of copies only the first, so that none vouches for another.

    >>> first_of_each(5, [[1, 3]]).tolist()
    [0, 1, 2, 4]
    """
    later = {index for group in copies for index in group[1:]}
    return np.array([i for i in range(n) if i not in later], dtype=np.int64)


def for_all(said: np.ndarray, kept: np.ndarray, n: int, copies: Sequence[Sequence[int]]) -> np.ndarray:
    """(N, ...) from what is said of the ``kept`` images: of each copy the same as of the first.

    >>> for_all(np.array([5.0, 6.0]), np.array([0, 1]), 3, [[1, 2]]).tolist()
    [5.0, 6.0, 6.0]
    """
    out = np.full((n, *said.shape[1:]), np.nan)
    out[kept] = said
    for group in copies:
        out[list(group[1:])] = out[group[0]]
    return out


def standardised(taps: Sequence[np.ndarray], kept: np.ndarray) -> np.ndarray | None:
    """(len(kept), D) float32 of all stages; None where the images are all alike. taps: (N, C_i) each."""
    standardiser = Standardiser.fit([tap[kept] for tap in taps])
    return standardiser.transform([tap[kept] for tap in taps]) if standardiser.scale.any() else None


def neighbours(features: np.ndarray) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The 15 nearest others of each image, a block of rows at a time.

    features: (N, D) float32. Yields (B,) rows, (B, k) weights that sum to 1, by exp(cosine / 0.1), (B, k) their rows.
    """
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    x = torch.nn.functional.normalize(x - x.mean(dim=0), dim=1)
    for rows, near, index in nearest(x, min(_NEIGHBOURS, len(x) - 1)):
        yield rows, torch.softmax(near / _SOFTNESS, dim=1), index
