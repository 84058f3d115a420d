"""Statistics that a few wild rows cannot turn: medians, Theil-Sen slopes, binomial errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import median

_MOST = 120
"""Longer sequences are thinned to block medians first: pairs grow with the square."""


def blocks(values: Sequence[float], count: int) -> list[float]:
    """Medians of ``count`` parts of about equal length, in order; fewer where there are fewer values.

    >>> blocks([1, 2, 9, 4, 5, 6], 2)
    [2, 5]
    """
    count = min(count, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    return [median(values[a:b]) for a, b in itertools.pairwise(edges)]


def theil_sen(values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of points at 0, 1, 2, ... (Theil 1950, Sen 1968); 0 below two.

    >>> theil_sen([0.0, 1.0, 2.0, 30.0, 4.0])
    1.0
    """
    thinned = blocks(values, _MOST)
    if len(thinned) < 2:
        return 0.0
    slopes = [(thinned[j] - thinned[i]) / (j - i) for j in range(len(thinned)) for i in range(j)]
    return median(slopes) * len(thinned) / len(values)


def mann_kendall(values: Sequence[float]) -> float:
    """Mann and Kendall's trend as a number of standard errors: below -2 the values fall beyond chance; 0 below three.

    >>> round(mann_kendall([5, 4, 3, 2, 1]), 2), round(mann_kendall([1, 5, 2, 4, 3]), 2)
    (-2.2, 0.24)
    """
    thinned = blocks(values, _MOST)
    n = len(thinned)
    if n < 3:
        return 0.0
    signs = sum((b > a) - (b < a) for j, b in enumerate(thinned) for a in thinned[:j])
    error = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return (signs - (signs > 0) + (signs < 0)) / error


def scatter(values: Sequence[float]) -> float:
    """Standard deviation of the noise around a slow trend: 1.4826 times the median absolute difference of
    neighbours, over sqrt 2.

    >>> round(scatter([1.0, 2.0, 1.0, 2.0]), 3), scatter([5.0])
    (1.048, 0.0)
    """
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    return 1.4826 * median(steps) / math.sqrt(2) if steps else 0.0


def binomial_error(share: float, n: int) -> float:
    """Standard error of a share of n, with one success and one failure added so that it is never 0.

    >>> round(binomial_error(1.0, 98), 4)
    0.0099
    """
    p = (share * n + 1) / (n + 2)
    return math.sqrt(p * (1 - p) / (n + 2))


def centred(values: Sequence[float]) -> list[float]:
    """Running medians of three: a single lucky or unlucky epoch disappears.

    >>> centred([1, 9, 2, 3])
    [1, 2, 3, 3]
    """
    return (
        [values[0], *(median(values[i - 1 : i + 2]) for i in range(1, len(values) - 1)), values[-1]]
        if len(values) > 2
        else list(values)
    )
