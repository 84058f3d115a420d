"""Labels too many or too few: a case counted by hand, planted ones, rare labels, and where nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.audit.label_sets import said_of_labels, suspected_labels


def sets(n: int, labels: int, share: float, seed: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features that are the sum of a direction for each label, and the labels."""
    rng = np.random.default_rng(seed)
    values = (rng.random((n, labels)) < share).astype(np.float32)
    directions = rng.normal(0, 1, (labels, 32))
    return (values @ directions + rng.normal(0, noise, (n, 32))).astype(np.float32), values


def test_a_case_counted_by_hand() -> None:
    """Two images of four have each label. Image 2 has .9 for label 0, which it was not given; 3 has .1 for label 1."""
    said = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.9], [0.1, 0.1], [0.2, 0.8], [0.1, 0.9]])
    values = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [1, 0]], dtype=np.float32)
    found = {i: (labels, score) for i, labels, score in suspected_labels(said, values)}
    assert found.keys() == {2, 3, 5}
    assert found[2] == ((0, 1), pytest.approx(0.8))
    assert found[3] == ((), pytest.approx(0.8))
    assert found[5][0] == (1,)  # both labels of one image


def test_labels_that_are_not_judged() -> None:
    said = np.array([[np.nan, 0.9], [np.nan, 0.9], [np.nan, 0.1], [np.nan, 0.1], [np.nan, 0.1]])
    values = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [1, 1]], dtype=np.float32)
    assert suspected_labels(said, values) == [(4, (0,), pytest.approx(0.8, abs=0.06))]


@pytest.mark.parametrize(("labels", "share"), [(4, 0.3), (10, 0.1)])
def test_most_of_the_planted_are_found_and_mended(labels: int, share: float) -> None:
    x, truth = sets(500, labels, share, seed=labels)
    rng = np.random.default_rng(1)
    wrong = rng.choice(500, 25, replace=False)
    given = truth.copy()
    column = rng.integers(0, labels, 25)
    given[wrong, column] = 1 - given[wrong, column]
    said = said_of_labels([x], given)
    assert said is not None
    found = suspected_labels(said, given)
    told = {i for i, _, _ in found}
    assert len(told & set(wrong.tolist())) / 25 > 0.5
    assert len(told & set(wrong.tolist())) / len(told) > 0.6
    mended = sum(set(np.flatnonzero(truth[i])) == set(better) for i, better, _ in found)
    assert mended / len(told) > 0.6


def test_a_rare_label_is_not_suspected_for_being_rare() -> None:
    _, values = sets(400, 6, 0.05, seed=3)
    x = np.random.default_rng(4).normal(size=(400, 16)).astype(np.float32)
    said = said_of_labels([x], values)
    assert said is not None
    assert len(suspected_labels(said, values)) <= 4


def test_a_copy_does_not_vouch_for_anothers_label() -> None:
    x, values = sets(200, 3, 0.4, seed=5)
    values[0, 1] = 1 - values[0, 1]
    x, values = (np.concatenate([a, np.repeat(a[:1], 12, axis=0)]) for a in (x, values))
    copies = [0, *range(200, 212)]
    fooled, wise = said_of_labels([x], values), said_of_labels([x], values, [copies])
    assert fooled is not None
    assert wise is not None
    assert abs(wise[0, 1] - values[0, 1]) > abs(fooled[0, 1] - values[0, 1])
    np.testing.assert_array_equal(wise[copies], np.repeat(wise[:1], 13, axis=0))


def test_labels_that_all_or_no_images_have() -> None:
    x, values = sets(60, 2, 0.5, seed=6)
    values = np.concatenate([values, np.ones((60, 1)), np.zeros((60, 1)), np.eye(60)[:, :1]], axis=1)
    said = said_of_labels([x], values.astype(np.float32))
    assert said is not None
    assert np.isnan(said).all(axis=0).tolist() == [False, False, True, True, True]
    assert np.isfinite(said[:, :2]).all()
    assert ((said[:, :2] > 0.5) == values[:, :2]).mean() > 0.8


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_images(n: int) -> None:
    x, values = np.eye(4, dtype=np.float32)[:n], np.eye(3, dtype=np.float32)[:n]
    assert said_of_labels([x], values) is None


def test_images_that_are_all_alike() -> None:
    values = np.tile(np.eye(2, dtype=np.float32), (5, 1))
    assert said_of_labels([np.ones((10, 4), dtype=np.float32)], values) is None


def test_four_images() -> None:
    values = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.float32)
    said = said_of_labels([np.eye(4, dtype=np.float32)], values)
    assert said is not None
    assert np.isfinite(said).all()
