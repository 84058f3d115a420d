"""Leave-one-out nearest-neighbour accuracy: do images of one class lie together at all?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from finetune.features.logistic import check_problem

_BLOCK = 1024  # rows of the similarity matrix in memory at once


def knn_accuracy(x: np.ndarray, y: np.ndarray, num_classes: int, neighbours: int = 5) -> float:
    """Share of samples that the vote of their nearest other samples labels rightly.

    Cosine similarity; votes are weighted by exp(similarity / 0.07) as in Wu et al. (arXiv 1805.01978), which
    also settles ties. Give centred features. x: (N, D) float, y: (N,) int. Raises StrategyError.
    """
    check_problem(x, y, num_classes)
    n = len(y)
    if n < 2:
        return 0.0
    samples = torch.nn.functional.normalize(
        torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32), dim=1
    )
    labels = torch.as_tensor(y, dtype=torch.int64)
    hits = 0
    for rows, near, index in nearest(samples, min(neighbours, n - 1)):
        votes = torch.zeros(len(rows), num_classes)
        votes.scatter_add_(1, labels[index], (near / 0.07).exp())
        hits += int((votes.argmax(dim=1) == labels[rows]).sum())
    return hits / n


def nearest(samples: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The ``k`` most similar *other* samples of each, a block of rows at a time.

    samples: (N, D) rows of length 1. Yields (B,) row numbers, (B, k) cosines in falling order, (B, k) their rows.
    """
    for start in range(0, len(samples), _BLOCK):
        rows = torch.arange(start, min(len(samples), start + _BLOCK))
        similarity = samples[rows] @ samples.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        yield rows, *similarity.topk(k, dim=1)
