"""Stratified, seeded splits that keep copies of one image on one side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CARVE, _LIMIT = 1, 2


def carve(
    labels: np.ndarray, fraction: float, seed: int, groups: Sequence[object] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of every class: (indices kept, indices held out), both ascending.

    The total is exact to one image: what rounding takes from one class the next gives back. A class with
    at least two images (or groups) always has one on each side; a class with one keeps it.

    Args:
        labels: (N,) int class of each image.
        fraction: share held out, in (0, 1).
        seed: same seed, same split.
        groups: (N,) hashable; within a class, images of one group stay together.
    """
    held: list[int] = []
    owed = 0.0
    for label in np.unique(labels):
        units = _units(np.flatnonzero(labels == label), groups)
        rng = np.random.default_rng((seed, _CARVE, int(label)))
        order = rng.permutation(len(units))
        owed += fraction * sum(len(u) for u in units)
        wanted = int(np.floor(owed + 0.5))
        taken: list[int] = []
        for position, unit in enumerate(order):
            last_left = position == len(units) - 1
            first = position == 0 and len(units) >= 2
            if last_left or (len(taken) >= wanted and not first):
                break
            taken += units[unit]
        owed -= len(taken)
        held += taken
    outside = np.zeros(len(labels), dtype=bool)
    outside[held] = True
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def limit(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Ascending indices of at most ``most`` images of each class, drawn with the seed.

    Nested: the draw of a smaller ``most`` is a subset of that of a larger one with the same seed.
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rng = np.random.default_rng((seed, _LIMIT, int(label)))
        chosen.append(members[rng.permutation(len(members))[:most]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def _units(members: np.ndarray, groups: Sequence[object] | None) -> list[list[int]]:
    if groups is None:
        return [[int(i)] for i in members]
    found: dict[object, list[int]] = {}
    for i in members:
        found.setdefault(groups[int(i)], []).append(int(i))
    return list(found.values())
