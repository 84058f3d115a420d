"""Which of several heads to believe, from the losses on images that none of them saw.

With ten images the least held-out loss is mostly luck (a true gap of one point is called rightly 58 times
of 100 with 50 images). So what decides is the paired difference on the same images, and a difference within one
standard error decides nothing: then the simpler head is taken, or all that are tied are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEW = 5.0
"""Below this median of images a class the heads are compared; from it on logistic regression is taken."""

AVERAGE = 30.0
"""Below this median of images a class tied heads are averaged where the choice is left open."""


def median_per_class(y: np.ndarray) -> float:
    """Median images of the classes that have any.

    >>> median_per_class(np.array([0, 0, 0, 2, 2, 5]))
    2.0
    """
    counts = np.bincount(y)
    return float(np.median(counts[counts > 0]))


def tied(losses: Sequence[np.ndarray]) -> list[int]:
    """Which candidates are within one standard error of the best, in the given order; the best is among them.

    losses: (N,) held-out log-loss of each image for each candidate, NaN where it was never held out. Compared are
    the images that both have. Candidates without any are left out; with none at all the first is returned.

    >>> tied([np.array([1.0, 1.2, 0.9, 1.1]), np.array([0.8, 1.3, 0.7, 1.1]), np.array([4.0, 5.0, 4.0, 5.0])])
    [0, 1]
    """
    means = [mean_loss(row) for row in losses]
    if not np.isfinite(means).any():
        return [0]
    best = int(np.argmin(means))
    return [
        i
        for i, row in enumerate(losses)
        if i == best or (np.isfinite(means[i]) and _within(row - losses[best]))
    ]


def mean_loss(losses: np.ndarray) -> float:
    """Mean over the images that were held out; infinite where there is none."""
    held = losses[~np.isnan(losses)]
    return float(held.mean()) if held.size else float("inf")


def _within(difference: np.ndarray) -> bool:
    """Whether the mean paired difference is at most its standard error; one image has none, and tells nothing."""
    held = difference[~np.isnan(difference)].astype(np.float64)
    if held.size < 2:
        return True
    return bool(held.mean() <= held.std(ddof=1) / held.size**0.5 + 1e-6)
