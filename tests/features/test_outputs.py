"""Heads for labels and numbers, against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import log_loss

from finetune.errors import StrategyError
from finetune.features.binary import fit_binary, fit_binary_cv
from finetune.features.outputs import fit_task_probe, label_losses, number_losses
from finetune.features.ridge import DEFAULT_LAMBDAS
from finetune.features.scaling import Standardiser
from finetune.strategy.plan import ProbePhase
from finetune.task import MULTI_LABEL, REGRESSION

N = 240


def features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, 30)).astype(np.float32)


def labels(x: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    return ((x[:, :4] + rng.normal(size=(N, 4))) > [0, 0.5, -0.5, 1.5]).astype(np.float32)


@pytest.mark.parametrize("lambda_", [1.0, 0.1, 1e-2, 1e-3])
def test_each_label_is_sklearns_logistic_regression(lambda_: float) -> None:
    x = features()
    y = labels(x)
    fit = fit_binary(x, y, lambda_)
    for k in range(y.shape[1]):
        theirs = LogisticRegression(C=1 / (lambda_ * N), tol=1e-9, max_iter=3000).fit(x, y[:, k])
        ours = 1 / (1 + np.exp(-(x @ fit.weight[k] + fit.bias[k])))
        assert abs(log_loss(y[:, k], ours) - log_loss(y[:, k], theirs.predict_proba(x)[:, 1])) < 1e-3
        assert np.allclose(fit.weight[k], theirs.coef_[0], atol=0.02)


def test_held_out_answers_never_saw_the_sample() -> None:
    x = features()
    noise = (np.random.default_rng(5).random((N, 3)) < 0.5).astype(np.float32)
    fit = fit_binary_cv(x, noise, seed=0)
    assert label_losses(fit.held_out.astype(float), noise).mean() > 0.68  # ln 2 is guessing; a leak were less
    real = fit_binary_cv(x, labels(x), seed=0)
    assert label_losses(real.held_out.astype(float), labels(x)).mean() < 0.6
    assert real.lambda_ < fit.lambda_


def test_labels_that_nobody_or_everybody_has() -> None:
    x = features()
    y = np.column_stack([labels(x)[:, 0], np.zeros(N), np.ones(N)]).astype(np.float32)
    fit = fit_binary_cv(x, y)
    p = 1 / (1 + np.exp(-(x @ fit.weight.T + fit.bias)))
    assert np.isfinite(fit.weight).all()
    assert not fit.weight[1:].any()
    assert np.allclose(p[:, 1], 0.5 / (N + 1), rtol=1e-3)
    assert np.allclose(1 - p[:, 2], 0.5 / (N + 1), rtol=1e-3)


def probe(task: Any, taps: list[np.ndarray], targets: np.ndarray, **keys: Any) -> Any:
    phase = ProbePhase(**{"candidates": ((0,),), **keys})
    strata = np.zeros(len(targets), dtype=np.int64)
    return fit_task_probe(task, phase, taps, strata, targets, targets.shape[1])


def test_numbers_are_sklearns_ridge_in_their_own_units() -> None:
    x = 5 + 3 * features()
    y = (1000 + 80 * x[:, 0] - 50 * x[:, 1] + np.random.default_rng(2).normal(0, 200, N))[:, None].astype(
        np.float32
    )
    found = probe(REGRESSION, [x], y)
    z = Standardiser.fit([x]).transform([x]).astype(np.float64)
    unit = (y[:, 0] - y.mean()) / y.std()
    cv = RidgeCV(alphas=[N * value for value in DEFAULT_LAMBDAS]).fit(z, unit)
    assert found.lambda_ == pytest.approx(cv.alpha_ / N)
    theirs = Ridge(alpha=cv.alpha_).fit(z, unit).predict(z) * y.std() + y.mean()
    assert np.allclose(found.logits([x])[:, 0], theirs, rtol=1e-4)
    assert found.chosen.log_loss == pytest.approx(-cv.best_score_, rel=1e-3)
    assert set(found.chosen.to_dict()) >= {"squared_error", "r2"}
    assert found.chosen.accuracy == pytest.approx(1 - found.chosen.log_loss)


def test_the_stages_that_tell_are_taken_and_ties_may_be_averaged() -> None:
    x, noise = features(), features(9)
    found = probe(MULTI_LABEL, [noise, x], labels(x), candidates=((0,), (1,), (0, 1)))
    assert found.taps == (1,)
    assert "Held-out log-loss" in found.story()
    mean = probe(MULTI_LABEL, [x, x + 0.01 * noise], labels(x), candidates=((0,), (1,)), combine="average")
    assert mean.taps == (0, 1)
    assert len(mean.members) == 2
    single = [probe(MULTI_LABEL, [x, x + 0.01 * noise], labels(x), candidates=((i,),)) for i in (0, 1)]
    taps = [x, x + 0.01 * noise]
    assert np.allclose(mean.logits(taps), (single[0].logits(taps) + single[1].logits(taps)) / 2, atol=1e-4)


def test_losses_are_what_they_are_called() -> None:
    y = np.array([[1.0], [3.0]])
    assert number_losses(np.array([[2.0], [2.0]]), y).tolist() == [1.0, 1.0]  # the mean explains nothing
    logits = np.array([[0.0, 800.0]])
    assert label_losses(logits, np.array([[1.0, 0.0]]))[0] == pytest.approx((np.log(2) + 800) / 2)


def test_other_heads_are_refused() -> None:
    with pytest.raises(
        StrategyError, match="probe.solver must be auto or ridge where the task is regression"
    ):
        probe(REGRESSION, [features()], features()[:, :1], solver="lda")
    with pytest.raises(StrategyError, match="must be different between images"):
        probe(REGRESSION, [np.ones((N, 3), np.float32)], features()[:, :1])
