"""Every figure against scikit-learn's, and where the two must differ."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from finetune.errors import DataError
from finetune.evaluation import metrics
from finetune.evaluation.table import write_predictions
from finetune.interval import wilson


def sample(n: int = 400, k: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 2 * np.eye(k)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities


@pytest.mark.parametrize("k", [2, 7, 40])
def test_agrees_with_scikit_learn(k: int) -> None:
    labels, p = sample(k=k)
    got = metrics.score(labels, p, tuple(f"c{i}" for i in range(k)))
    said = p.argmax(axis=1)
    assert got.accuracy == pytest.approx(sk.accuracy_score(labels, said))
    assert got.log_loss == pytest.approx(sk.log_loss(labels, p, labels=range(k)))
    assert got.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels, said))
    assert got.macro_f1 == pytest.approx(sk.f1_score(labels, said, average="macro"))
    np.testing.assert_array_equal(got.matrix, sk.confusion_matrix(labels, said, labels=range(k)))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, said, labels=range(k), zero_division=0
    )
    np.testing.assert_allclose([c.precision for c in got.classes], precision)
    np.testing.assert_allclose([c.recall for c in got.classes], recall)
    np.testing.assert_allclose([c.f1 for c in got.classes], f1)
    assert [c.support for c in got.classes] == support.tolist()
    if k > 5:
        assert got.top5 == pytest.approx(sk.top_k_accuracy_score(labels, p, k=5, labels=range(k)))
    else:
        assert got.top5 == 1.0


def test_wilson_covers_and_stays_inside() -> None:
    # Table of Brown, Cai and DasGupta (2001): 95% interval of 8 of 10.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    with pytest.raises(DataError, match="correct of n must be counts"):
        wilson(3, 2)


def test_a_class_without_images_does_not_count_in_the_means() -> None:
    got = metrics.score(
        np.array([0, 0, 1]), np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0]]), ("a", "b", "c")
    )
    assert got.balanced_accuracy == pytest.approx(0.75)
    assert [c.name for c in got.worst_first()] == ["a", "b"]
    assert np.isnan(got.classes[2].recall)


def test_mistakes_are_listed_most_frequent_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    said = np.array([1, 1, 0, 2, 1, 2])
    got = metrics.score(labels, np.eye(3)[said], ("a", "b", "c"))
    assert got.confusions() == [("a", "b", 2)]


def test_empty_and_unequal_sets_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"labels and predictions must be equally many and at least one. Got 0 and 0"
    ):
        metrics.accuracy(np.array([], int), np.array([], int))
    with pytest.raises(DataError, match="Got 2 and 3 instead"):
        metrics.log_loss(np.array([0, 1]), np.full((3, 2), 0.5))


def test_log_loss_of_a_certain_mistake_is_finite() -> None:
    assert 10 < metrics.log_loss(np.array([0]), np.array([[0.0, 1.0]])) < 20


def test_predictions_table(tmp_path: Path) -> None:
    p = np.array([[0.25, 0.75], [0.9, 0.1]])
    write_predictions(tmp_path / "p.csv", ["a, b.png", "ü.png"], p, ("no", "yes"), np.array([1, 1]))
    rows = list(csv.DictReader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == {
        "image": "a, b.png",
        "label": "yes",
        "predicted": "yes",
        "probability": "0.75",
        "p:no": "0.25",
        "p:yes": "0.75",
    }
    assert rows[1]["image"] == "ü.png"
    assert rows[1]["predicted"] == "no"
