"""The average of several linear heads is a linear head: on the stages of all of them, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Head = tuple[tuple[int, ...], np.ndarray, np.ndarray]
"""Stages that feed it, weight (K, sum of their widths), bias (K,)."""


def average_heads(heads: Sequence[Head], widths: Sequence[int]) -> Head:
    """One head whose logits are the mean of the given heads' logits.

    widths: columns of every stage, input to head. Where two heads read the same stage their weights add up.
    """
    stages = tuple(sorted({stage for taps, _, _ in heads for stage in taps}))
    starts = dict(
        zip(stages, np.cumsum([0, *(widths[stage] for stage in stages)])[:-1].tolist(), strict=True)
    )
    classes = len(heads[0][2])
    weight = np.zeros((classes, sum(widths[stage] for stage in stages)))
    bias = np.zeros(classes)
    for taps, own, shift in heads:
        column = 0
        for stage in taps:
            width = widths[stage]
            weight[:, starts[stage] : starts[stage] + width] += own[:, column : column + width]
            column += width
        bias += shift.astype(np.float64)
    return stages, (weight / len(heads)).astype(np.float32), (bias / len(heads)).astype(np.float32)


def average_log_probabilities(held_out: Sequence[np.ndarray]) -> np.ndarray:
    """(N, K) log-probabilities of the mean logits; NaN where one of the heads has not held the image out."""
    mean = np.mean([rows.astype(np.float64) for rows in held_out], axis=0)
    mean = mean - mean.max(axis=1, keepdims=True)
    mean -= np.log(np.exp(mean).sum(axis=1, keepdims=True))
    return np.asarray(mean, dtype=np.float32)
