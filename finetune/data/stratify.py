"""Iterative stratification: images with several labels each, divided so that every label keeps its share.

Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data": again and again the label with
the fewest images left is taken, and each of its images goes to the part that wants that label most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.splits import components

_SEED, _LIMIT = 4, 6


def carve_labels(
    values: np.ndarray, fraction: float, seed: int, groups: Sequence[Sequence[object]]
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of every label without dividing a group: (indices kept, indices held out), ascending.

    Args:
        values: (N, K), above 0 where the image has the label.
        fraction: share held out, in (0, 1).
        seed: same seed, same split.
        groups: one or more (N,) of hashables; images that share any of them stay together.
    """
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    unit = components(len(values), groups)
    held = distribute(values, unit, (1 - fraction, fraction), seed)[unit] == 1
    return np.flatnonzero(~held), np.flatnonzero(held)


def label_folds(values: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) fold of each image, every label in its share.

    >>> label_folds(np.array([[1.0], [1.0], [0.0], [0.0]]), 2, 0)[:2].tolist() in ([0, 1], [1, 0])
    True
    """
    return distribute(values, np.arange(len(values)), (1 / folds,) * folds, seed)


def limit_labels(values: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Ascending indices that give every label ``most`` images, or all it has, with few more than that takes.

    Having none of the labels counts as one more label. In each of ``most`` rounds the labels are gone through, the
    rarest first, and one that lacks an image of that round gets its next one, drawn with the seed. What comes along
    counts too, so frequent labels are mostly served by the images of rare ones, and have more than ``most``.
    Nested: the choice of a smaller ``most`` is a subset of that of a larger one with the same seed.

    >>> values = np.array([[1, 1], [1, 0], [1, 1], [0, 0], [0, 0]])
    >>> chosen = limit_labels(values, 1, 0)
    >>> values[chosen].sum(axis=0).tolist(), len(chosen)
    ([1, 1], 2)
    """
    has = values > 0
    has = np.concatenate([has, ~has.any(axis=1, keepdims=True)], axis=1)
    counts = has.sum(axis=0)
    if len(values) == 0 or most >= counts.max():
        return np.arange(len(values))
    drawn = []
    for label in range(has.shape[1]):
        members = np.flatnonzero(has[:, label])
        drawn.append(iter(np.random.default_rng((seed, _LIMIT, label)).permutation(members).tolist()))
    chosen, got = np.zeros(len(values), dtype=bool), np.zeros(len(counts), dtype=np.int64)
    rarest_first = np.argsort(counts, kind="stable").tolist()
    for wanted in range(1, most + 1):
        for label in rarest_first:
            if got[label] < min(wanted, counts[label]):
                one = next(i for i in drawn[label] if not chosen[i])
                chosen[one] = True
                got += has[one]
    return np.flatnonzero(chosen)


def distribute(values: np.ndarray, unit: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """(U,) part that each unit goes to. values: (N, K); unit: (N,) unit of each image, all of 0..U-1."""
    count = int(unit.max()) + 1
    labels, size = np.zeros((count, values.shape[1])), np.bincount(unit, minlength=count).astype(float)
    np.add.at(labels, unit, (values > 0).astype(float))
    rng = np.random.default_rng((seed, _SEED))
    order = rng.permutation(count)
    order = order[np.argsort(-size[order], kind="stable")]  # what is large is placed while there is room
    wanted = np.outer(shares, labels.sum(axis=0))  # (S, K)
    room = np.asarray(shares) * size.sum()  # (S,)
    part = np.full(count, -1, dtype=np.int64)
    left = labels.sum(axis=0)
    while (left > 0).any():
        label = int(np.where(left > 0, left, np.inf).argmin())
        for one in order[(part[order] < 0) & (labels[order, label] > 0)]:
            _place(int(one), wanted[:, label], part, wanted, room, labels, size, rng)
        left = labels[part < 0].sum(axis=0)
    for one in order[part[order] < 0]:
        _place(int(one), room, part, wanted, room, labels, size, rng)
    return part


def _place(
    one: int, wish: np.ndarray, part: np.ndarray, wanted: np.ndarray, room: np.ndarray, labels: np.ndarray,
    size: np.ndarray, rng: np.random.Generator,
) -> None:  # fmt: skip
    """Give a unit to the part that wishes for it most, among equals to the emptiest, then by lot."""
    most = np.flatnonzero(wish >= wish.max() - 1e-9)
    most = most[room[most] >= room[most].max() - 1e-9]
    chosen = int(most[0] if len(most) == 1 else rng.choice(most))
    part[one] = chosen
    wanted[chosen] -= labels[one]
    room[chosen] -= size[one]
