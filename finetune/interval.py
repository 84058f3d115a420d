"""How sure a share of n is."""

from __future__ import annotations

import math

from finetune.errors import DataError, must

_Z95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution


def wilson(correct: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): 95% unless z says otherwise.

    Unlike the normal interval it stays inside [0, 1] and is honest for small n and for 100% right.

    >>> tuple(round(v, 3) for v in wilson(10, 10))
    (0.722, 1.0)
    """
    if n < 1 or not 0 <= correct <= n:
        raise DataError(must("correct of n", "counts with 0 <= correct <= n and n > 0", f"{correct} of {n}"))
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
