"""Images that resemble none of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from finetune.features.scaling import Standardiser

NEIGHBOURS = 15
SPREADS = 4.0
"""Robust standard deviations (1.4826 times the median deviation) of the logarithm of an image's distance to its
neighbours, above the median image's. With 15 strangers planted among 4,317 photos of flowers the strangers came to
1.9 to 5.8 and no flower above 3.8."""

AT_MOST = 0.02
"""Share of the images; more than that are no outliers but a kind of image."""

_BLOCK = 1024


def outliers(taps: Sequence[np.ndarray], skip: np.ndarray | None = None) -> list[tuple[int, float]]:
    """(index, robust standard deviations), the furthest first.

    taps: pooled features of every stage, (N, C_i) float32 each, standardised here and given equal weight; the distance
    is Euclidean, averaged over the nearest 15 others, so that a few strangers of one kind do not hide each other.
    skip: (N,) bool, images that are not looked at.
    """
    n = len(taps[-1])
    looked = np.arange(n) if skip is None else np.flatnonzero(~skip)
    if len(looked) <= 2 * NEIGHBOURS:
        return []
    blocks = [tap[looked] for tap in taps]
    x = torch.from_numpy(Standardiser.fit(blocks).transform(blocks))
    distance = np.empty(len(looked), dtype=np.float64)
    for start in range(0, len(looked), _BLOCK):
        rows = torch.arange(start, min(len(looked), start + _BLOCK))
        apart = torch.cdist(x[rows], x)
        apart[torch.arange(len(rows)), rows] = torch.inf
        near = apart.topk(NEIGHBOURS, dim=1, largest=False).values.mean(dim=1)
        distance[start : start + len(rows)] = near.numpy()
    far = np.log(np.maximum(distance, 1e-12))
    far -= np.median(far)
    spread = 1.4826 * float(np.median(np.abs(far)))
    if spread <= 0:
        return []
    far /= spread
    order = np.argsort(-far, kind="stable")[: max(1, int(AT_MOST * len(looked)))]
    return [(int(looked[i]), float(far[i])) for i in order if far[i] > SPREADS]
