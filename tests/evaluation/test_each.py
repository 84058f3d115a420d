"""Losses and scores of single answers, against scikit-learn and the figures of whole sets."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.evaluation.each import each_loss, each_score, mean_loss, mean_score
from finetune.evaluation.metrics import log_loss
from finetune.evaluation.scores import score_labels, score_numbers
from finetune.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL

RNG = np.random.default_rng(0)
metrics = pytest.importorskip("sklearn.metrics")


def test_classes() -> None:
    labels, p = RNG.integers(3, size=50), RNG.dirichlet(np.ones(3), size=50).astype(np.float32)
    p[0], labels[0] = (1, 0, 0), 2  # as sure as wrong
    assert mean_loss(SINGLE_LABEL, labels, p) == log_loss(labels, p)
    assert each_score(SINGLE_LABEL, labels, p).dtype == bool
    assert mean_score(SINGLE_LABEL, labels, p) == metrics.accuracy_score(labels, p.argmax(1))


def test_labels() -> None:
    truth, p = (RNG.random((60, 4)) < 0.4).astype(np.float32), RNG.random((60, 4)).astype(np.float32)
    p[0, 0], truth[0, 0] = 1.0, 0.0
    scores = score_labels(truth, p, ("a", "b", "c", "d"))
    assert mean_loss(MULTI_LABEL, truth, p) == pytest.approx(scores.log_loss)
    expected = metrics.f1_score(truth, p > 0.5, average="samples", zero_division=1.0)
    assert mean_score(MULTI_LABEL, truth, p) == pytest.approx(expected)
    assert each_loss(MULTI_LABEL, truth, p).shape == each_score(MULTI_LABEL, truth, p).shape == (60,)


def test_numbers() -> None:
    truth = RNG.normal(100, 20, (40, 1)).astype(np.float32)
    answers = truth + RNG.normal(0, 8, (40, 1)).astype(np.float32)
    assert mean_score(REGRESSION, truth, answers) == pytest.approx(metrics.r2_score(truth, answers))
    assert mean_score(REGRESSION, truth, answers) == pytest.approx(
        score_numbers(truth[:, 0], answers[:, 0]).r2
    )
    assert mean_loss(REGRESSION, truth, answers) == pytest.approx(1 - metrics.r2_score(truth, answers))
