"""Confident learning against a case counted by hand, planted flips, and copies that must not vouch for each other."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.audit.labels import held_out, suspects
from finetune.errors import StrategyError


def test_a_case_counted_by_hand() -> None:
    """Thresholds: class 0 (.9 + .8 + .1) / 3 = .6, class 1 (.7 + .9) / 2 = .8. Image 2 (given 0) has .9 for 1."""
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.1, 0.9]])
    (only,) = suspects(np.log(p), np.array([0, 0, 0, 1, 1]))
    assert (only.index, only.given, only.suggested) == (2, 0, 1)
    assert only.score == pytest.approx(0.8)


def test_images_that_were_never_held_out_are_left_out() -> None:
    p = np.log(np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.1, 0.9]]))
    p[2] = np.nan
    assert suspects(p, np.array([0, 0, 0, 1, 1])) == []


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(StrategyError, match=r"log_p must be \(N, K\) beside N labels"):
        suspects(np.zeros((3, 2)), np.zeros(4, dtype=np.int64))


def clouds(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.normal(0, 1.2, (classes, 16))
    return (centres[labels] + rng.normal(0, 1, (n, 16))).astype(np.float32), labels


def test_most_of_five_percent_flipped_labels_are_found() -> None:
    x, truth = clouds(600, 6, 0)
    rng = np.random.default_rng(1)
    flipped = rng.choice(600, 30, replace=False)
    labels = truth.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, 6, 30)) % 6
    log_p = held_out([x], labels, 6)
    assert log_p is not None
    told = {s.index for s in suspects(log_p, labels)}
    right = len(told & set(flipped.tolist()))
    assert right / 30 > 0.7
    assert right / len(told) > 0.7


def test_rows_are_probabilities() -> None:
    x, labels = clouds(60, 3, 2)
    log_p = held_out([x, x[:, :4]], labels, 3)
    assert log_p is not None
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-6)
    assert (log_p.argmax(axis=1) == labels).mean() > 0.8


def test_a_copy_does_not_vouch_for_anothers_label() -> None:
    x, labels = clouds(200, 2, 3)
    labels[0] = 1 - labels[0]
    copies = [0, *range(200, 212)]
    x, labels = (
        np.concatenate([x, np.repeat(x[:1], 12, axis=0)]),
        np.concatenate([labels, np.repeat(labels[:1], 12)]),
    )
    fooled, wise = held_out([x], labels, 2), held_out([x], labels, 2, [copies])
    assert fooled is not None
    assert wise is not None
    assert wise[0, labels[0]] < fooled[0, labels[0]]
    assert wise[0, labels[0]] < np.log(0.5)
    np.testing.assert_array_equal(wise[copies], np.repeat(wise[:1], 13, axis=0))


def test_nothing_can_be_held_out() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    assert held_out([x], np.array([0, 1, 2]), 3) is None
    assert held_out([np.ones((6, 4), dtype=np.float32)], np.array([0, 0, 0, 1, 1, 1]), 2) is None
