"""The L-BFGS solution against scikit-learn's, cross-validation, and what must be refused."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune.errors import StrategyError
from finetune.features.logistic import FALLBACK_LAMBDA, fit_logistic, fit_logistic_cv, stratified_folds


def blobs(n: int, d: int, k: int, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes with unequal feature variances, standardised."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    centres = rng.normal(size=(k, d)) * spread / np.sqrt(d) * 3
    x = rng.normal(size=(n, d)) * np.exp(-np.arange(d) / d * 3) + centres[y]
    x = (x - x.mean(0)) / x.std(0)
    return x.astype(np.float32), y


def log_loss(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
    logits = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    logits -= logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]).mean())


@pytest.mark.parametrize(("n", "d", "k"), [(300, 20, 3), (60, 200, 4), (120, 120, 5)])
@pytest.mark.parametrize("lambda_", [1.0, 1e-2, 1e-4])
def test_agrees_with_scikit_learn(n: int, d: int, k: int, lambda_: float) -> None:
    x, y = blobs(n, d, k)
    reference = LogisticRegression(C=1 / (lambda_ * n), tol=1e-9, max_iter=10_000).fit(
        x.astype(np.float64), y
    )
    ours = fit_logistic(x, y, k, lambda_)
    theirs = log_loss(x, y, reference.coef_, reference.intercept_)
    assert log_loss(x, y, ours.weight, ours.bias) == pytest.approx(theirs, abs=1e-5)
    assert ours.weight == pytest.approx(reference.coef_, abs=2e-3)


def test_agrees_where_samples_fill_few_dimensions() -> None:
    """Fewer samples than dimensions and a rank lower still: rounding must not pass for a direction."""
    rng = np.random.default_rng(0)
    n, d, k, lambda_ = 100, 512, 3, 1e-6
    x = rng.normal(size=(n, 20)) @ rng.normal(size=(20, d)) * np.linspace(0.01, 1, d)
    x, y = x.astype(np.float32), rng.integers(0, k, n)
    reference = LogisticRegression(C=1 / (lambda_ * n), tol=1e-9, max_iter=10_000).fit(
        x.astype(np.float64), y
    )
    ours = fit_logistic(x, y, k, lambda_)
    theirs = log_loss(x, y, reference.coef_, reference.intercept_)
    assert log_loss(x, y, ours.weight, ours.bias) == pytest.approx(theirs, abs=1e-4)


def test_two_classes_agree_with_the_symmetric_form() -> None:
    """softmax with rows +-w/2 under lambda equals the logistic w under lambda / 2."""
    x, y = blobs(200, 30, 2)
    reference = LogisticRegression(C=2 / (1e-2 * 200), tol=1e-9, max_iter=10_000).fit(x.astype(np.float64), y)
    ours = fit_logistic(x, y, 2, 1e-2)
    assert ours.weight[1] - ours.weight[0] == pytest.approx(reference.coef_[0], abs=1e-3)


def test_cross_validated_loss_is_that_of_separate_fits() -> None:
    x, y = blobs(120, 15, 3)
    fit = fit_logistic_cv(x, y, 3, lambdas=(1e-1,), folds=4, seed=3)
    fold_of = stratified_folds(y, 4, 3)
    losses = []
    for fold in range(4):
        train, held = fold_of != fold, fold_of == fold
        alone = fit_logistic(x[train], y[train], 3, 1e-1)
        losses.append(log_loss(x[held], y[held], alone.weight, alone.bias) * held.sum())
    assert fit.path[0].log_loss == pytest.approx(sum(losses) / len(y), abs=1e-4)


def test_lambda_follows_the_noise() -> None:
    """Pure noise wants the strongest penalty, clean classes a weak one."""
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(80, 60)).astype(np.float32), rng.integers(0, 3, 80)
    clean, y = blobs(200, 20, 3, spread=3.0)
    noisy_fit, clean_fit = fit_logistic_cv(noise, labels, 3), fit_logistic_cv(clean, y, 3)
    assert noisy_fit.lambda_ >= 1.0 > 0.1 >= clean_fit.lambda_
    assert clean_fit.best is not None
    assert clean_fit.best.accuracy > 0.9
    assert len(noisy_fit.path) < 9, "the path should end once the loss clearly rises"


def test_folds_are_stratified_and_spare_single_images() -> None:
    y = np.array([0] * 10 + [1] * 5 + [2])
    fold_of = stratified_folds(y, 5, seed=1)
    assert fold_of[-1] == -1
    assert np.bincount(fold_of[:10]).tolist() == [2] * 5
    assert sorted(fold_of[10:15]) == [0, 1, 2, 3, 4]


def test_class_with_one_image_is_learnt_not_held_out() -> None:
    x, y = blobs(60, 10, 2)
    x, y = np.vstack([x, np.full((1, 10), 4.0, dtype=np.float32)]), np.append(y, 2)
    fit = fit_logistic_cv(x, y, 3)
    assert fit.held_out is not None
    assert np.isnan(fit.held_out[-1]).all()
    assert (x[-1] @ fit.weight.T + fit.bias).argmax() == 2


def test_one_image_a_class_falls_back() -> None:
    x, y = np.eye(4, 6, dtype=np.float32), np.arange(4)
    fit = fit_logistic_cv(x, y, 4)
    assert fit.lambda_ == FALLBACK_LAMBDA
    assert fit.best is None
    assert ((x @ fit.weight.T + fit.bias).argmax(axis=1) == y).all()


def test_absent_class_and_constant_features_are_harmless() -> None:
    x, y = blobs(50, 8, 3)
    x[:, 3] = 0.0
    fit = fit_logistic_cv(x, y, 5)  # classes 3 and 4 have no image
    assert np.isfinite(fit.weight).all()
    assert np.isfinite(fit.bias).all()
    flat = fit_logistic_cv(np.zeros((20, 4), dtype=np.float32), np.arange(20) % 2, 2)
    assert np.isfinite(flat.bias).all()


def test_refusals() -> None:
    x, y = blobs(20, 4, 2)
    with pytest.raises(StrategyError, match="number of classes must be at least 2"):
        fit_logistic(x, y, 1, 0.1)
    with pytest.raises(StrategyError, match="features must be finite"):
        fit_logistic(np.where(x > 1, np.nan, x), y, 2, 0.1)
    with pytest.raises(StrategyError, match=r"features must be an \(N, D\) array"):
        fit_logistic(x[:5], y, 2, 0.1)
    with pytest.raises(StrategyError, match="training split must be at least one image"):
        fit_logistic(x[:0], y[:0], 2, 0.1)
    with pytest.raises(StrategyError, match=r"labels must be in 0\.\.1"):
        fit_logistic(x, y + 1, 2, 0.1)
