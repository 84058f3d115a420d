"""Stratified, seeded splits that keep copies of one image on one side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_CARVE, _LIMIT, _GROUPS = 1, 2, 3
_CELLS = 1 << 20
"""Counts that are in memory at once."""


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


def carve_groups(
    labels: np.ndarray, fraction: float, seed: int, groups: Sequence[Sequence[object]]
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about a share of every class without dividing a group: (indices kept, held out), ascending.

    A group may hold several classes (a patient with two diseases). Groups are taken in random order, large ones
    first, each where it brings the held-out counts of all classes closer to their shares: what scikit-learn's
    StratifiedGroupKFold does for folds. A class whose images are all of one group ends on one side whole.

    Args:
        labels: (N,) int class of each image.
        fraction: share held out, in (0, 1).
        seed: same seed, same split.
        groups: one or more (N,) of hashables; images that share any of them stay together.
    """
    if len(labels) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    unit = components(len(labels), groups)
    counts = Counts(unit, labels)
    totals = np.maximum(counts.totals, 1)
    wanted = fraction * counts.totals
    rng = np.random.default_rng((seed, _GROUPS))
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts.spread()[order], kind="stable")]
    held, chosen = np.zeros_like(wanted), np.zeros(len(counts), dtype=bool)
    for index in order.tolist():
        before = (((held - wanted) / totals) ** 2).sum()
        own = counts[index]
        after = (((held + own - wanted) / totals) ** 2).sum()
        if after < before:
            held += own
            chosen[index] = True
    outside = chosen[unit]
    return np.flatnonzero(~outside), np.flatnonzero(outside)


class Counts:
    """How many images of each class every group has.

    A table of a million groups and a thousand classes would have eight gigabytes: a row is made when it is asked for.
    """

    def __init__(self, unit: np.ndarray, labels: np.ndarray) -> None:
        self.classes = int(labels.max()) + 1
        self._labels = labels[np.argsort(unit, kind="stable")]
        self._ends = np.cumsum(np.bincount(unit))
        self.totals = np.bincount(labels, minlength=self.classes).astype(float)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> np.ndarray:
        begin = self._ends[index - 1] if index else 0
        return np.bincount(self._labels[begin : self._ends[index]], minlength=self.classes)

    def spread(self) -> np.ndarray:
        """Standard deviation of each group's counts, some thousand rows at a time."""
        found, step = np.empty(len(self)), max(1, _CELLS // self.classes)
        for first in range(0, len(self), step):
            ends = self._ends[first : first + step]
            begin = self._ends[first - 1] if first else 0
            rows = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=begin))
            cells = rows * self.classes + self._labels[begin : ends[-1]]
            counted = np.bincount(cells, minlength=len(ends) * self.classes).reshape(len(ends), -1)
            found[first : first + step] = counted.astype(float).std(1)
        return found


def carve_least(
    labels: np.ndarray, seed: int, groups: Sequence[Sequence[object]]
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the smallest group of every class that has several: (indices kept, indices held out), ascending.

    For classes so small that one group is more than twice their share, where ``carve_groups`` holds out nothing. A
    group that is the last one left of some class stays.
    """
    unit = components(len(labels), groups)
    counts = np.zeros((unit.max() + 1, int(labels.max()) + 1), dtype=np.int64)
    np.add.at(counts, (unit, labels), 1)
    order = np.random.default_rng((seed, _GROUPS)).permutation(len(counts))
    order = order[np.argsort(counts[order].sum(1), kind="stable")]
    chosen = np.zeros(len(counts), dtype=bool)
    for label in range(counts.shape[1]):
        for index in order[counts[order, label] > 0]:
            rest = counts[~chosen].sum(0) - counts[index] * ~chosen[index]
            if chosen[index] or (rest[counts[index] > 0] > 0).all():
                chosen[index] = True
                break
    outside = chosen[unit]
    return np.flatnonzero(~outside), np.flatnonzero(outside)


def components(n: int, groups: Sequence[Sequence[object]]) -> np.ndarray:
    """(N,) number of the connected component of each image, where sharing a group connects."""

    def pairs() -> Iterator[tuple[int, int]]:
        for named in groups:
            first: dict[object, int] = {}
            for i, name in enumerate(named):
                before = first.setdefault(name, i)
                if before != i:
                    yield i, before

    return connected(n, pairs())


def connected(n: int, pairs: Iterable[tuple[int, int]]) -> np.ndarray:
    """(N,) number of the connected component of each of 0 to N - 1, in the order of their first members.

    >>> connected(5, [(3, 1), (4, 3)]).tolist()
    [0, 1, 2, 1, 1]
    """
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for one, other in pairs:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.unique(np.fromiter(map(root, range(n)), np.int64, n), return_inverse=True)[1]


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
    listed = members.tolist()
    if groups is None:
        return [[i] for i in listed]
    found: dict[object, list[int]] = {}
    for i in listed:
        unit = found.get(groups[i])
        if unit is None:
            found[groups[i]] = [i]
        else:
            unit.append(i)
    return list(found.values())
