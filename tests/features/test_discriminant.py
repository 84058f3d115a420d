"""Shrunk LDA and the nearest centroid: against scikit-learn, against refitting without each image, bad input."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.covariance import oas as sklearn_oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

from finetune.errors import StrategyError
from finetune.features.discriminant import fit_centroid, fit_lda
from finetune.features.heads import HEADS, fit_head


def planted(n: int, d: int, k: int, seed: int = 0, apart: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes with one covariance, correlated and of unequal variances; sizes differ where k !| n."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    mix = rng.normal(size=(d, d)) / np.sqrt(d) + np.diag(np.linspace(0.5, 1.5, d))
    return (rng.normal(size=(n, d)) @ mix + apart * rng.normal(size=(k, d))[y]).astype(np.float32), y


def contrasts(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n - K, D): Helmert's orthonormal contrasts within each class, independent draws of the noise."""
    rows = []
    for label in np.unique(y):
        members = x[y == label].astype(np.float64)
        for j in range(1, len(members)):
            rows.append((members[:j].sum(axis=0) - j * members[j]) / np.sqrt(j * (j + 1)))
    return np.array(rows)


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "d", "k"), [(61, 8, 3), (21, 100, 4), (12, 300, 6)])
def test_lda_agrees_with_scikit_learn_at_the_same_shrinkage(n: int, d: int, k: int) -> None:
    x, y = planted(n, d, k)
    fit = fit_lda(x, y, k, corrected=False)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=fit.shrinkage).fit(x.astype(float), y)
    ours = (x @ fit.weight.T + fit.bias) * n / (n - k) + fit.offset
    theirs = reference.decision_function(x.astype(float))
    assert centred(ours) == pytest.approx(centred(theirs), rel=1e-3, abs=1e-3)


def test_lda_does_as_well_as_scikit_learns_automatic_shrinkage() -> None:
    """scikit-learn shrinks each class on its own; where that works both find the same boundary."""
    (x, y), k = planted(400, 30, 4, apart=0.7), 4
    train, rest = np.arange(400) < 120, np.arange(400) >= 120
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[train], y[train])
    fit = fit_head("lda", x[train], y[train], k)
    ours = (x[rest] @ fit.weight.T + fit.bias).argmax(axis=1)
    assert (ours == reference.predict(x[rest])).mean() > 0.9
    assert (ours == y[rest]).mean() >= reference.score(x[rest], y[rest]) - 0.02
    few = np.arange(8)  # two images a class: scikit-learn does not shrink at all
    two = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x[few], y[few])
    pooled = fit_head("lda", x[few], y[few], k)
    assert ((x[rest] @ pooled.weight.T + pooled.bias).argmax(axis=1) == y[rest]).mean() > two.score(
        x[rest], y[rest]
    )


@pytest.mark.parametrize(("n", "d", "k"), [(61, 8, 3), (21, 100, 4)])
def test_shrinkage_is_scikit_learns_on_the_differences_within_classes(n: int, d: int, k: int) -> None:
    x, y = planted(n, d, k)
    _, expected = sklearn_oas(contrasts(x, y), assume_centered=True)
    assert fit_lda(x, y, k).shrinkage == pytest.approx(expected, rel=1e-4)


def test_centroid_is_the_nearest() -> None:
    x, y = planted(40, 15, 4, apart=0.6)
    fit = fit_centroid(x, y, 4, corrected=False)
    assert ((x @ fit.weight.T + fit.bias).argmax(axis=1) == NearestCentroid().fit(x, y).predict(x)).all()
    assert not fit.offset.any()


@pytest.mark.parametrize("kind", ["lda", "centroid"])
@pytest.mark.parametrize(("n", "d", "k"), [(31, 6, 3), (14, 50, 4), (9, 20, 4)])
def test_leave_one_out_is_exact(kind: str, n: int, d: int, k: int) -> None:
    """Means, scale and shrinkage are those of a fit without the image; only the correction's trace is shared."""
    x, y = planted(n, d, k)
    fit = fit_lda(x, y, k) if kind == "lda" else fit_centroid(x, y, k)
    for i in range(n):
        rest = np.arange(n) != i
        if not (y[rest] == y[i]).any():
            assert np.isnan(fit.loo[i]).all()
            continue
        left, labels = x[rest].astype(np.float64), y[rest]
        inner = contrasts(left, labels)
        share = sklearn_oas(inner, assume_centered=True)[1] if kind == "lda" else 1.0
        within = inner.T @ inner / len(inner)
        matrix = (1 - share) * within + share * np.trace(within) / d * np.eye(d)
        away = x[i] - np.array([left[labels == c].mean(axis=0) for c in range(k)])
        distance = np.einsum("cd,de,ce->c", away, np.linalg.inv(matrix), away)
        expected = -0.5 * (distance - fit.correction / np.bincount(labels))
        assert fit.loo[i] == pytest.approx(expected, rel=2e-4, abs=2e-4)


def test_scores_are_the_distances_to_the_means() -> None:
    x, y = planted(30, 60, 3)
    fit = fit_lda(x, y, 3)
    inner = contrasts(x, y)
    within = inner.T @ inner / len(inner)
    matrix = (1 - fit.shrinkage) * within + fit.shrinkage * np.trace(within) / 60 * np.eye(60)
    away = x[:, None] - np.array([x[y == c].mean(axis=0) for c in range(3)])
    distance = np.einsum("ncd,de,nce->nc", away, np.linalg.inv(matrix), away) - fit.correction / np.bincount(
        y
    )
    assert centred(x @ fit.weight.T + fit.bias) == pytest.approx(centred(-0.5 * distance), abs=1e-2)


def test_correction_makes_noise_score_at_chance() -> None:
    """Pure noise, two images a class: without it the own mean, one image, is always the farthest.

    Judged by log-loss: the accuracy stays somewhat flattering, for the distance to one image varies more.
    """
    rng = np.random.default_rng(0)
    y = np.arange(40) % 20
    losses = []
    for _ in range(10):
        x = rng.normal(size=(40, 200)).astype(np.float32)
        for solve, name in ((fit_lda, "lda"), (fit_centroid, "centroid")):
            assert (solve(x, y, 20, corrected=False).loo.argmax(axis=1) == y).mean() == 0.0
            losses.append(-fit_head(name, x, y, 20).held_out[np.arange(40), y].mean())
    assert np.mean(losses) == pytest.approx(np.log(20), abs=0.05)


def test_rare_classes_are_not_far_because_they_are_rare() -> None:
    """Two images of one class, forty of the other, many dimensions: balanced new images go to both alike."""
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        centres = 0.3 * rng.normal(size=(2, 150))
        y = np.array([0] * 40 + [1] * 2)
        x = (rng.normal(size=(42, 150)) + centres[y]).astype(np.float32)
        new = np.arange(200) % 2
        fit = fit_centroid(x, y, 2)
        answers = ((rng.normal(size=(200, 150)) + centres[new]) @ fit.weight.T + fit.bias).argmax(axis=1)
        shares.append(answers.mean())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_few_images_of_many_dimensions_are_quick() -> None:
    x, y = planted(40, 50, 5)
    wide = np.tile(x, (1, 400))  # 20,000 dimensions: a covariance of 3 GB
    began = time.perf_counter()
    assert np.isfinite(fit_lda(wide, y, 5).weight).all()
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("solver", ["centroid", "lda"])
def test_bad_input_gives_finite_heads(solver: str) -> None:
    x, y = planted(12, 5, 3)
    cases = {
        "flat": (np.zeros((10, 3), dtype=np.float32), np.arange(10) % 2, 2),
        "one image a class": (x[:3], np.arange(3), 3),
        "two images": (x[:2], np.arange(2), 2),
        "copies": (np.repeat(x[:3], 2, axis=0), np.repeat(np.arange(3), 2), 3),
        "one pair": (x[:4], np.array([0, 0, 1, 2]), 3),
        "copies of one image in two classes": (np.repeat(x[:1], 4, axis=0), np.arange(4) % 2, 2),
        "a class without images": (x, np.where(y == 1, 0, y), 5),
        "one dimension": (x[:, :1], y, 3),
        "a constant column": (np.hstack([x, np.full((12, 1), 7, dtype=np.float32)]), y, 3),
        "one outlier": (np.vstack([x[:-1], 1e6 * x[-1:]]), y, 3),
    }
    for name, (features, labels, k) in cases.items():
        fit = fit_head(solver, features, labels, k)
        assert fit.weight.shape == (k, features.shape[1]), name
        assert np.isfinite(fit.weight).all(), name
        assert np.isfinite(fit.bias).all(), name
        single = np.bincount(labels, minlength=k)[labels] < 2
        assert np.isnan(fit.held_out[single]).all(), name
        assert np.isfinite(fit.held_out[~single]).all(), name
    with pytest.raises(StrategyError, match="features must be finite"):
        fit_head(solver, np.full_like(x, np.inf), y, 3)


@pytest.mark.parametrize("solver", ["centroid", "lda", "ridge"])
def test_classes_without_images_are_never_the_answer(solver: str) -> None:
    x, y = planted(30, 8, 3)
    fit = fit_head(solver, x, 2 * y, 6)
    logits = x @ fit.weight.T + fit.bias
    assert set(logits.argmax(axis=1)) <= {0, 2, 4}
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert (p / p.sum(axis=1, keepdims=True))[:, [1, 3, 5]].max() <= 1 / 31 + 1e-6


@pytest.mark.parametrize("solver", HEADS)
def test_held_out_probabilities_mean_something(solver: str) -> None:
    """The mean probability of the label is about the accuracy, on held-out and on new images."""
    x, y = planted(600, 40, 4, apart=0.35)
    train, rest = np.arange(600) < 80, np.arange(600) >= 80
    fit = fit_head(solver, x[train], y[train], 4)
    logits = x[rest] @ fit.weight.T + fit.bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    assert p.max(axis=1).mean() == pytest.approx((p.argmax(axis=1) == y[rest]).mean(), abs=0.1)
    losses = -np.log(p[np.arange(len(p)), y[rest]])
    held = -fit.held_out[np.arange(80), y[train]]
    error = float(losses.std()) / 80**0.5
    assert float(held.mean()) == pytest.approx(float(losses.mean()), abs=3 * error)


def test_nothing_held_out_is_half_way_to_certain() -> None:
    x, _ = planted(5, 30, 5)
    for solver in ("centroid", "lda", "ridge"):
        fit = fit_head(solver, x, np.arange(5), 5)
        logits = x @ fit.weight.T + fit.bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        assert np.diag(p).mean() == pytest.approx(0.6, abs=0.01)


def test_unknown_solver() -> None:
    x, y = planted(12, 5, 3)
    with pytest.raises(
        StrategyError, match=r"probe\.solver must be auto or one of centroid, lda, ridge, logi"
    ):
        fit_head("svm", x, y, 3)
