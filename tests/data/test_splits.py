"""Held-out parts: stratified, exact in total, seeded, copies together."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.data.splits import carve, limit


@pytest.mark.parametrize("counts", [[10] * 20, [1, 2, 3, 4, 5, 50], [1000, 3], [7] * 43])
@pytest.mark.parametrize("fraction", [0.15, 0.3])
def test_carve(counts: list[int], fraction: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held = carve(labels, fraction, seed=3)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    per_class = np.bincount(labels[held], minlength=len(counts))
    for count, taken in zip(counts, per_class, strict=True):
        assert (taken == 0) if count == 1 else (1 <= taken <= count - 1)
        assert taken <= max(1, np.ceil(fraction * count) + 1)
    if min(counts) >= 1 / fraction:
        assert abs(len(held) - fraction * len(labels)) <= 1


def test_carve_is_seeded() -> None:
    labels = np.repeat([0, 1], 50)
    assert (carve(labels, 0.2, 1)[1] == carve(labels, 0.2, 1)[1]).all()
    assert not np.array_equal(carve(labels, 0.2, 1)[1], carve(labels, 0.2, 2)[1])


def test_groups_stay_together() -> None:
    labels = np.repeat([0, 1], 30)
    groups = [i // 5 for i in range(60)]
    kept, held = carve(labels, 0.2, 0, groups)
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    assert len(held) == 15  # groups of five: 6 wanted of each class, 10 taken of the first, 5 of the second
    one_group = carve(np.zeros(5, dtype=np.int64), 0.2, 0, ["same"] * 5)
    assert len(one_group[1]) == 0


def test_limit_is_nested_and_stratified() -> None:
    labels = np.array([0] * 50 + [1] * 3)
    small, large = limit(labels, 5, 0), limit(labels, 20, 0)
    assert np.bincount(labels[small]).tolist() == [5, 3]
    assert set(small) <= set(large)
    assert not np.array_equal(small, limit(labels, 5, 1))
