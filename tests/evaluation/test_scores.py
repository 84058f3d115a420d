"""Figures of labels and numbers, against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from finetune.evaluation.scores import average_precision, score_labels, score_numbers


def test_labels() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 4)) < [0.5, 0.2, 0.05, 0.9]).astype(np.float32)
    p = np.clip(0.5 * truth + 0.7 * rng.random((200, 4)), 0, 1).round(2)  # with ties
    found = score_labels(truth, p, ("a", "b", "c", "d"))
    said = p > 0.5
    assert found.mean_ap == pytest.approx(metrics.average_precision_score(truth, p, average="macro"))
    assert found.micro_f1 == pytest.approx(metrics.f1_score(truth, said, average="micro"))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found.subset_accuracy == pytest.approx(metrics.accuracy_score(truth, said))
    each = [metrics.log_loss(truth[:, k], np.clip(p[:, k], 1e-6, 1 - 1e-6)) for k in range(4)]
    assert found.log_loss == pytest.approx(np.mean(each), rel=0.05)
    for k, row in enumerate(found.classes):
        assert row.average_precision == pytest.approx(metrics.average_precision_score(truth[:, k], p[:, k]))
        assert row.precision == pytest.approx(metrics.precision_score(truth[:, k], said[:, k]))
        assert row.recall == pytest.approx(metrics.recall_score(truth[:, k], said[:, k]))
    assert found.interval[0] < found.mean_ap < found.interval[1]
    assert found.to_dict()["metric"] == "mean_ap"
    assert found.to_dict()["n"] == 200


def test_a_label_without_images_counts_nowhere() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], np.float32)
    found = score_labels(truth, np.array([[0.9, 0.1], [0.2, 0.6], [0.8, 0.1], [0.1, 0.1]]), ("a", "b"))
    assert found.mean_ap == 1.0
    assert np.isnan(found.classes[1].average_precision)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(average_precision(np.zeros(3), np.arange(3.0)))


def test_numbers() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(50, 10, 300)
    answers = truth + rng.normal(0, 4, 300)
    found = score_numbers(truth, answers)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(truth, answers))
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(truth, answers))
    assert found.r2 == pytest.approx(metrics.r2_score(truth, answers))
    for value, (low, high) in ((found.mae, found.interval), (found.rmse, found.rmse_interval),
                               (found.r2, found.r2_interval)):  # fmt: skip
        assert low < value < high
    # The interval of a mean: within a third of the normal one's width.
    error = np.abs(truth - answers)
    normal = 2 * 1.96 * error.std() / 300**0.5
    assert abs((found.interval[1] - found.interval[0]) / normal - 1) < 1 / 3
    assert "truth" not in found.to_dict()
    assert found.to_dict()["metric"] == "mae"
    assert np.isnan(score_numbers(np.ones(4), np.arange(4.0)).r2)
