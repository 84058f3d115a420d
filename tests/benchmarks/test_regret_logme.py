"""LogME against the Gaussian density that it integrates, and against a search for its maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.regret.logme import evidence, log_evidence, logme


def problem(n: int, width: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return rng.normal(size=(n, width)) * noise + np.eye(3)[labels] @ rng.normal(size=(3, width)) * 2, labels


def direct(x: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """log N(y; 0, I / beta + x x' / alpha): the weights integrated out by hand."""
    covariance = np.eye(len(y)) / beta + x @ x.T / alpha
    _, volume = np.linalg.slogdet(covariance)
    return float(-0.5 * (y @ np.linalg.solve(covariance, y) + volume + len(y) * math.log(2 * math.pi)))


@pytest.mark.parametrize(("n", "width"), [(40, 7), (15, 40), (20, 20)])
def test_against_the_density(n: int, width: int) -> None:
    x, labels = problem(n, width)
    y = (labels == 1).astype(float)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    for alpha, beta in ((1.0, 1.0), (0.3, 20.0), (50.0, 0.1)):
        along = (left.T @ y) ** 2
        outside = float(y @ y - along.sum())
        found = log_evidence(singular**2, along, outside, n, width, alpha, beta)
        assert found == pytest.approx(direct(x, y, alpha, beta), rel=1e-9)


def test_the_fixed_point_is_the_maximum() -> None:
    x, labels = problem(60, 8)
    y = (labels == 0).astype(float)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    best, alpha, beta = evidence(left, singular**2, y, 8)
    assert best == pytest.approx(direct(x, y, alpha, beta), rel=1e-9)
    for a in (0.8, 1.0, 1.25):
        for b in (0.8, 1.0, 1.25):
            assert direct(x, y, a * alpha, b * beta) <= best + 1e-6


def test_it_is_a_mean_over_classes_and_samples() -> None:
    x, labels = problem(50, 6)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    each = [evidence(left, singular**2, (labels == k).astype(float), 6)[0] / 50 for k in range(3)]
    assert logme(x, labels, 3) == pytest.approx(np.mean(each))
    assert logme(x, labels, 5) == pytest.approx(np.mean(each))  # two classes without images


def test_better_features_score_higher() -> None:
    values = [logme(*problem(90, 10, noise=noise), 3) for noise in (8.0, 2.0, 0.5)]
    assert values == sorted(values)


def test_perfect_and_useless_features() -> None:
    labels = np.repeat([0, 1], 10)
    assert math.isfinite(logme(np.eye(2)[labels], labels, 2))
    for bad in (np.zeros((20, 3)), np.full((20, 3), np.nan), np.ones((1, 3))):
        with pytest.raises(ValueError, match="LogME needs at least two images with finite features"):
            logme(bad, labels[: len(bad)], 2)
