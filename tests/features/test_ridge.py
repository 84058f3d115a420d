"""Closed-form leave-one-out against refitting without each sample; nearest neighbours against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import StrategyError
from finetune.features.knn import knn_accuracy
from finetune.features.ridge import fit_ridge
from finetune.features.temperature import fit_temperature


def problem(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + d)
    y = np.arange(n) % k
    return (rng.normal(size=(n, d)) + 1.5 * rng.normal(size=(k, d))[y]).astype(np.float32), y


def refit(x: np.ndarray, target: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Textbook ridge with an unpenalised intercept, in double precision."""
    mean, share = x.mean(axis=0), target.mean(axis=0)
    centred = (x - mean).astype(np.float64)
    weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (target - share))
    return weight.T, share - weight.T @ mean


@pytest.mark.parametrize(("n", "d", "k"), [(40, 6, 3), (15, 40, 2)])
def test_leave_one_out_is_exact(n: int, d: int, k: int) -> None:
    x, y = problem(n, d, k)
    target, value = np.eye(k)[y], 0.3
    fit = fit_ridge(x, y, k, [value])
    weight, bias = refit(x, target, n * value)
    assert fit.weight == pytest.approx(weight, abs=1e-4)
    assert fit.bias == pytest.approx(bias, abs=1e-4)
    for i in range(n):
        rest = np.arange(n) != i
        weight, bias = refit(x[rest], target[rest], n * value)
        assert fit.loo[i] == pytest.approx(weight @ x[i] + bias, abs=1e-3)


def test_lambda_of_least_leave_one_out_error_is_taken() -> None:
    x, y = problem(60, 30, 3)
    errors = {value: fit_ridge(x, y, 3, [value]).loo_error for value in (1e-3, 1e-1, 1e1)}
    assert fit_ridge(x, y, 3, list(errors)).lambda_ == min(errors, key=lambda v: errors[v])


def test_bad_input() -> None:
    x, y = problem(10, 3, 2)
    with pytest.raises(StrategyError, match="features must be finite"):
        fit_ridge(np.full_like(x, np.inf), y, 2)
    flat = fit_ridge(np.zeros((10, 3), dtype=np.float32), y, 2)
    assert np.isfinite(flat.loo).all()
    single = fit_ridge(np.eye(3, dtype=np.float32), np.arange(3), 3)
    assert np.isfinite(single.weight).all()


def test_temperature_minimises_the_loss() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 400)
    scores = np.eye(3)[y] * 0.3 + rng.normal(size=(400, 3)) * 0.2
    factor, losses = fit_temperature(scores, y)
    for other in (factor * 0.9, factor * 1.1):
        logits = other * scores
        rival = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(400), y]
        assert losses.mean() < rival.mean()


def test_nearest_neighbour_against_a_loop() -> None:
    x, y = problem(50, 5, 3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    hits = 0
    for i in range(50):
        similarity = unit @ unit[i]
        similarity[i] = -np.inf
        hits += int(y[similarity.argmax()] == y[i])
    assert knn_accuracy(x, y, 3, neighbours=1) == hits / 50
    assert knn_accuracy(x[:1], y[:1], 3) == 0.0
