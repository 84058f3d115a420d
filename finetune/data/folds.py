"""k folds of a set of images: stratified, and never dividing copies of an image or a group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.imageset import ImageSet
from finetune.data.splits import components
from finetune.data.stratify import distribute
from finetune.errors import DataError, must
from finetune.task import MULTI_LABEL

_FOLDS = 5
NEVER = -1
"""Fold of the images of a class that would be without any other image in training: they are never held out."""


def folds_of(images: ImageSet, folds: int, seed: int, groups: Sequence[object] | None = None) -> np.ndarray:
    """(N,) fold of each image, 0 to ``folds`` - 1, or ``NEVER``; the same for the same images, seed and groups.

    Every class, label or tenth of the numbers has its share in each fold, as near as copies and groups allow.
    Raises DataError where a fold would be empty.
    """
    prints = images.fingerprints()
    unit = components(len(images), (prints,) if groups is None else (prints, groups))
    if images.task == MULTI_LABEL:
        found = distribute(images.targets, unit, (1 / folds,) * folds, seed)[unit]
    else:
        found = deal(images.labels, unit, folds, seed, never=images.task.plain)[unit]
    empty = sorted(set(range(folds)) - set(found.tolist()))
    if empty:
        what = "images" if groups is None else "groups"
        raise DataError(
            must("data.folds", f"at most the number of {what} that can be held out", folds,
                 f"{len(empty)} folds would be empty.")
        )  # fmt: skip
    return np.asarray(found, dtype=np.int64)


def deal(labels: np.ndarray, unit: np.ndarray, folds: int, seed: int, never: bool = True) -> np.ndarray:
    """(U,) fold of each unit. labels: (N,) class of each image; unit: (N,) unit of each, all of 0..U-1.

    Large units first, each goes where its classes are rarest so far, among equals to the smallest fold. With
    ``never`` classes of a single unit are not dealt.

    >>> deal(np.array([0, 0, 1, 1]), np.arange(4), 2, 0).reshape(2, 2).sum(1).tolist()
    [1, 1]
    """
    count = int(unit.max()) + 1 if len(unit) else 0
    order = np.lexsort((labels, unit))
    starts = np.searchsorted(unit[order], np.arange(count + 1)).tolist()
    listed = labels[order].tolist()
    pairs = np.unique(np.stack([unit, labels]), axis=1)
    single = set(np.flatnonzero(np.bincount(pairs[1]) == 1).tolist()) if never and count else set()
    totals = np.maximum(np.bincount(labels), 1).tolist() if count else []
    held = [[0.0] * len(totals) for _ in range(folds)]
    size = [0] * folds
    found = np.full(count, NEVER, dtype=np.int64)
    drawn = np.random.default_rng((seed, _FOLDS)).permutation(count)
    if count:  # large ones first, and class by class, so that the folds differ by an image
        leading = labels[order][np.asarray(starts[:-1])]
        drawn = drawn[np.lexsort((leading[drawn], -np.diff(starts)[drawn]))]
    for one in drawn.tolist():
        inside = listed[starts[one] : starts[one + 1]]
        if single and not single.isdisjoint(inside):
            continue
        first = inside[0]
        if inside[-1] == first:  # sorted: all of one class
            fold = min(range(folds), key=lambda f: (held[f][first], size[f]))
        else:
            fold = min(range(folds), key=lambda f: (sum(held[f][k] / totals[k] for k in inside), size[f]))
        for k in inside:
            held[fold][k] += 1
        size[fold] += len(inside)
        found[one] = fold
    return found
