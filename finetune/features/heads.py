"""The four linear heads behind one function: weights, and what each says of images that it had not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune.errors import StrategyError, must
from finetune.features.discriminant import DiscriminantFit, fit_centroid, fit_lda
from finetune.features.logistic import check_problem, fit_logistic_cv
from finetune.features.ridge import fit_ridge
from finetune.features.temperature import fit_temperature, halfway_temperature

HEADS: tuple[str, ...] = ("centroid", "lda", "ridge", "logistic")
"""From the simplest to the most flexible: ties go to the earlier."""


@dataclass(frozen=True)
class HeadFit:
    """``logits = x @ weight.T + bias``; their softmax are probabilities."""

    solver: str
    weight: np.ndarray
    """(K, D) float32."""
    bias: np.ndarray
    """(K,) float32."""
    lambda_: float | None
    """L2 strength of ridge and logistic, shrinkage of LDA; None for the nearest centroid, which has none."""
    held_out: np.ndarray = field(repr=False)
    """(N, K) float32 log-probabilities of each image by a solution that never saw it, leave-one-out or out of
    fold; NaN for the images that were never held out: a class's only one."""


def fit_head(
    solver: str, x: np.ndarray, y: np.ndarray, num_classes: int, *, lambdas: Sequence[float] = (),
    folds: int = 5, seed: int = 0,
) -> HeadFit:  # fmt: skip
    """Solve one head. x: (N, D) standardised float, y: (N,) int.

    Classes without images are never the answer. Raises StrategyError for features or labels that no head can
    be fitted to, and for a solver that does not exist.
    """
    if solver == "logistic":
        return _logistic(x, y, num_classes, lambdas, folds, seed)
    if solver == "ridge":
        return _ridge(x, y, num_classes, lambdas)
    if solver == "lda":
        lda = fit_lda(x, y, num_classes)
        return _discriminant(solver, lda, lda.shrinkage, x, y, num_classes)
    if solver == "centroid":
        return _discriminant(solver, fit_centroid(x, y, num_classes), None, x, y, num_classes)
    raise StrategyError(must("probe.solver", f"auto or one of {', '.join(HEADS)}", repr(solver)))


def _logistic(
    x: np.ndarray, y: np.ndarray, num_classes: int, lambdas: Sequence[float], folds: int, seed: int
) -> HeadFit:
    fit = fit_logistic_cv(x, y, num_classes, lambdas=lambdas, folds=folds, seed=seed)
    held_out = fit.held_out
    if held_out is None:
        held_out = np.full((len(y), num_classes), np.nan, dtype=np.float32)
    return HeadFit("logistic", fit.weight, fit.bias, fit.lambda_, held_out)


def _ridge(x: np.ndarray, y: np.ndarray, num_classes: int, lambdas: Sequence[float]) -> HeadFit:
    check_problem(x, y, num_classes)
    classes, index = np.unique(y, return_inverse=True)
    fit = fit_ridge(x, index, max(2, len(classes)), lambdas)
    # Leaving an image out makes its own class the rarer one; the shares are put back as they are.
    n, counts = len(y), np.bincount(index, minlength=fit.loo.shape[1])
    without = (counts[None, :] - np.eye(len(counts))[index]) / max(1, n - 1)
    loo = fit.loo - without + counts / n
    loo[counts[index] < 2] = np.nan
    offset = np.zeros(len(counts))
    scaled = _scaled(loo, fit.weight, fit.bias, offset, x, index)
    return HeadFit("ridge", *_all_classes(classes, *scaled[:2], n, num_classes), fit.lambda_,
                   _log_probabilities(classes, scaled[2], n, num_classes))  # fmt: skip


def _discriminant(
    solver: str, fit: DiscriminantFit, strength: float | None, x: np.ndarray, y: np.ndarray, num_classes: int
) -> HeadFit:
    index = np.searchsorted(fit.classes, y)
    weight, bias, loo = _scaled(fit.loo, fit.weight, fit.bias, fit.offset, x, index)
    n = len(y)
    return HeadFit(solver, *_all_classes(fit.classes, weight, bias, n, num_classes), strength,
                   _log_probabilities(fit.classes, loo, n, num_classes))  # fmt: skip


def _scaled(
    loo: np.ndarray, weight: np.ndarray, bias: np.ndarray, offset: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, bias and held-out scores as logits: the temperature of least held-out log-loss, plus the offset."""
    held = ~np.isnan(loo).any(axis=1)
    if held.any():
        factor, _ = fit_temperature(loo[held], y[held], offset)
    else:
        factor = halfway_temperature(x @ weight.T + bias, y, offset)
    return factor * weight, factor * bias + offset, factor * loo + offset


def _all_classes(
    classes: np.ndarray, weight: np.ndarray, bias: np.ndarray, n: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """A head for all K classes from one for those with images (``classes``).

    A class without images gets the mean of the others' logits less log(n + 1). It is never the answer, and
    never more probable than 1 in n + 1, Laplace's figure for what n images have not shown.
    """
    full = np.repeat(weight.mean(axis=0, keepdims=True), num_classes, axis=0)
    shift = np.full(num_classes, bias.mean() - np.log(n + 1))
    full[classes], shift[classes] = weight[: len(classes)], bias[: len(classes)]
    return full.astype(np.float32), shift.astype(np.float32)


def _log_probabilities(classes: np.ndarray, logits: np.ndarray, n: int, num_classes: int) -> np.ndarray:
    """(N, C) logits of the classes with images -> (N, K) float32 log-probabilities; NaN rows stay NaN."""
    full = np.repeat(logits.mean(axis=1, keepdims=True) - np.log(n + 1), num_classes, axis=1)
    full[:, classes] = logits[:, : len(classes)]
    full = full - full.max(axis=1, keepdims=True)
    full -= np.log(np.exp(full).sum(axis=1, keepdims=True))
    return np.asarray(full, dtype=np.float32)
