"""data.limit_per_class where images have several labels or a number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_targets import load, write_table

from finetune.data.stratify import limit_labels
from finetune.data.targets import strata_of_numbers
from finetune.errors import DataError

LISTS = ["a|b", "b", "c|a", "b", "", "a", "b|d|a", "b"] * 6


def names(images: Any) -> set[str]:
    return {images.name(i) for i in range(len(images))}


def test_every_label_has_so_many_or_all() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((900, 6)) < np.array([0.5, 0.3, 0.1, 0.05, 0.004, 0.9])).astype(np.float32)
    values[:40] = 0
    has = np.concatenate([values, ~values.any(axis=1, keepdims=True)], axis=1)
    assert has.sum(0).min() < 10 < np.sort(has.sum(0))[1], "one label has fewer"
    before: set[int] = set()
    for most in (1, 3, 10, 60, 2000):
        chosen = limit_labels(values, most, 0)
        assert (np.diff(chosen) > 0).all()
        assert (has[chosen].sum(0) >= np.minimum(most, has.sum(0))).all()
        assert before <= set(chosen.tolist()), "nested"
        before = set(chosen.tolist())
        assert (limit_labels(values, most, 0) == chosen).all()
    assert len(before) == 900
    few = limit_labels(values, 10, 0)
    assert len(few) <= 10 * 7
    assert has[few, 6].sum() == 10, "images without labels come along with no other"
    assert not np.array_equal(few, limit_labels(values, 10, 1))


def test_frequent_labels_come_along_with_rare_ones() -> None:
    values = np.zeros((300, 2), dtype=np.float32)
    values[:, 0] = 1
    values[7:17, 1] = 1  # only ever beside the first
    chosen = limit_labels(values, 5, 0)
    assert len(chosen) == 5
    assert values[chosen].sum(0).tolist() == [5, 5]


def test_labels_of_a_table(tmp_path: Path) -> None:
    table = write_table(tmp_path, LISTS)
    whole, few = load(table, task="multi-label"), load(table, task="multi-label", limit_per_class=4)
    assert names(few.test) == names(whole.test)
    used = np.concatenate([few.train.targets, few.val.targets])
    had = np.concatenate([whole.train.targets, whole.val.targets])
    assert len(used) < len(had)
    assert (used.sum(0) >= np.minimum(4, had.sum(0))).all()
    assert (~used.any(axis=1)).sum() == 4
    assert few.train.targets[:, few.classes.index("d")].any()
    assert few.val.targets[:, few.classes.index("d")].any()
    assert any(note.startswith("4 images of each label and of none, or all where") for note in few.notes)


def test_numbers_of_a_table(tmp_path: Path) -> None:
    table = write_table(tmp_path, [f"{i / 4 + i**2 / 90:.3f}" for i in range(80)])
    whole, few = load(table), load(table, limit_per_class=3)
    assert names(few.test) == names(whole.test)
    everything = np.concatenate([part.targets[:, 0] for part in (whole.train, whole.val, whole.test)])
    used = np.concatenate([few.train.targets[:, 0], few.val.targets[:, 0]])
    counts = Counter(strata_of_numbers(used, everything).tolist())
    assert counts == dict.fromkeys(range(10), 3)
    assert any(
        note.startswith("At most 3 images of each tenth of the numbers are used") for note in few.notes
    )
    with pytest.raises(
        DataError, match=r"and no validation images instead\. Raise data\.limit_per_class, or add"
    ):
        load(table, limit_per_class=1)


def test_given_splits_are_limited_one_by_one(tmp_path: Path) -> None:
    split = ["train"] * 24 + ["val"] * 16 + ["test"] * 8
    few = load(write_table(tmp_path, LISTS, split=split), task="multi-label", limit_per_class=2)
    for part in (few.train, few.val):
        assert (part.targets.sum(0) >= 2).all()
        assert len(part) <= 2 * 5
    assert len(few.test) == 8
