"""In which order an epoch brings the images: each once, or every class equally often."""

from __future__ import annotations

import numpy as np


def balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N,) sample indices in which every class that has images comes N / K times, give or take one.

    An image of a class returns only after all the others of its class have come; which ones a large class
    leaves out is drawn by ``rng``. In expectation torch's WeightedRandomSampler with weights 1 / n_k, with
    less chance in it.

    >>> order = balanced_order(np.array([0, 0, 0, 0, 0, 1]), np.random.default_rng(0))
    >>> np.bincount(np.array([0, 0, 0, 0, 0, 1])[order])
    array([3, 3])
    """
    classes = np.unique(labels)
    quota = np.full(len(classes), len(labels) // len(classes))
    quota[rng.permutation(len(classes))[: len(labels) % len(classes)]] += 1
    drawn = []
    for label, count in zip(classes, quota, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = -(-int(count) // len(members))
        drawn.append(
            np.concatenate([rng.permutation(members) for _ in range(rounds)] or [members[:0]])[:count]
        )
    return rng.permutation(np.concatenate(drawn))


def returns(order: np.ndarray) -> np.ndarray:
    """How often the sample at each place has come before.

    >>> returns(np.array([7, 3, 7, 7, 3]))
    array([0, 0, 1, 2, 1])
    """
    places = np.argsort(order, kind="stable")
    ordered = order[places]
    first = np.searchsorted(ordered, ordered)
    counted = np.empty(len(order), dtype=np.int64)
    counted[places] = np.arange(len(order)) - first
    return counted
