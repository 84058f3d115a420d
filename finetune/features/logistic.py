"""Multinomial logistic regression on fixed features: L-BFGS over all cross-validation folds at once.

Objective, the mean taken over N samples (scikit-learn's ``LogisticRegression`` with C = 1 / (lambda N))::

    J(W, b) = mean_n -log softmax(W x_n + b)[y_n]  +  lambda / 2 * ||W||^2          (b is not penalised)

Three things make it quick, none of which changes the solution:

- The features are rotated to their principal axes once (the penalty does not see a rotation). There the
  curvature bound of Boehning (1992, doi:10.1007/BF00048682) is diagonal, so it preconditions L-BFGS for free:
  some ten iterations instead of a hundred. With more dimensions than samples the rotation also drops the
  dimensions in which no sample varies.
- Logits are linear in the weights, so the line search costs no matrix product: an iteration is exactly two.
- The folds are solved side by side in one matrix product, each with its own step length; the held-out logits
  fall out of the same product. The path over lambda goes from strong to weak with warm starts and ends as
  soon as the cross-validated loss clearly rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from finetune.errors import StrategyError, must
from finetune.features.finite import require_finite
from finetune.features.lbfgs import Problem, polish, solve

DEFAULT_LAMBDAS: tuple[float, ...] = tuple(float(10.0**e) for e in np.arange(1.0, -6.01, -0.5))
"""L2 strengths on features of unit variance, strong to weak."""

FALLBACK_LAMBDA = 0.1
"""Used where nothing can be held out (every class has one image)."""

_CV_WORK = 4e9  # multiply-adds of one logit product above which fewer folds are solved


@dataclass(frozen=True)
class CvPoint:
    """Cross-validated figures at one lambda."""

    lambda_: float
    log_loss: float
    log_loss_se: float
    accuracy: float
    accuracy_se: float


@dataclass(frozen=True)
class LogisticFit:
    """A solution: ``logits = x @ weight.T + bias``."""

    weight: np.ndarray
    """(K, D) float32."""
    bias: np.ndarray
    """(K,) float32."""
    lambda_: float
    path: tuple[CvPoint, ...] = ()
    """One entry a lambda that was cross-validated; empty where nothing could be held out."""
    held_out: np.ndarray | None = field(default=None, repr=False)
    """(N, K) out-of-fold log-probabilities at the chosen lambda; NaN rows were never held out."""

    @property
    def best(self) -> CvPoint | None:
        """The figures at the chosen lambda."""
        return next((p for p in self.path if p.lambda_ == self.lambda_), None)


def fit_logistic(
    x: np.ndarray, y: np.ndarray, num_classes: int, lambda_: float, *, tolerance: float = 1e-9
) -> LogisticFit:
    """Solve at one lambda. x: (N, D) float, y: (N,) int in [0, num_classes).

    ``tolerance`` bounds the estimated distance to the optimum, in nats. Raises StrategyError.
    """
    check_problem(x, y, num_classes)
    problem = Problem(x, y, num_classes)
    weights = torch.full((len(y), 1), 1.0 / len(y))
    theta = solve(problem, weights, lambda_, problem.start(1), 1e-7)
    theta = polish(problem, lambda_, theta, tolerance)
    weight, bias = problem.unrotate(theta[:, 0])
    return LogisticFit(weight, bias, lambda_)


def fit_logistic_cv(
    x: np.ndarray,
    y: np.ndarray,
    num_classes: int,
    *,
    lambdas: Sequence[float] = (),
    folds: int = 5,
    seed: int = 0,
    tolerance: float = 1e-8,
) -> LogisticFit:
    """Choose lambda by stratified K-fold cross-validated log-loss, then solve on all samples.

    x: (N, D) float, y: (N,) int in [0, num_classes). A class with one image is trained on in every fold and
    held out in none. The default grid is searched in whole decades first, then in half decades around the
    best; grids given by the caller are searched from strong to weak without gaps. Raises StrategyError.
    """
    check_problem(x, y, num_classes)
    problem = Problem(x, y, num_classes)
    fold_of = stratified_folds(y, folds, seed)
    used = np.unique(fold_of[fold_of >= 0])
    if len(used) < 2:
        weights = torch.full((len(y), 1), 1.0 / len(y))
        theta = solve(problem, weights, FALLBACK_LAMBDA, problem.start(1), 1e-7)
        weight, bias = problem.unrotate(polish(problem, FALLBACK_LAMBDA, theta, tolerance)[:, 0])
        return LogisticFit(weight, bias, FALLBACK_LAMBDA)
    # Held out once each is a luxury with very many samples: fewer folds measure lambda well enough there.
    affordable = max(2, int(_CV_WORK / max(1.0, float(len(y)) * problem.z.shape[1] * num_classes)))
    used = used[:affordable]
    path, thetas, held = _search(problem, y, fold_of, used, tuple(lambdas))
    best = min(path, key=lambda p: path[p].log_loss)
    theta = thetas[best].mean(dim=1, keepdim=True)
    theta = solve(problem, torch.full((len(y), 1), 1.0 / len(y)), best, theta, 1e-7)
    weight, bias = problem.unrotate(polish(problem, best, theta, tolerance)[:, 0])
    ordered = tuple(path[key] for key in sorted(path, reverse=True))
    return LogisticFit(weight, bias, best, ordered, held[best])


def stratified_folds(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) fold in which each sample is held out; -1 (never) for the only image of a class.

    >>> int(stratified_folds(np.array([0, 0, 1, 1, 2]), 2, 0)[4])
    -1
    """
    rng = np.random.default_rng(seed)
    fold_of = np.full(len(y), -1, dtype=np.int64)
    offset = 0
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        if len(members) < 2:
            continue
        fold_of[members] = (np.arange(len(members)) + offset) % folds
        offset += len(members)  # keeps the folds equally large when the classes are small
    return fold_of


def check_problem(x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    """Raise StrategyError where no linear head can be fitted: shapes, classes, NaN."""
    check_shape(x, y, num_classes)
    require_finite([x])


def check_shape(x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
    """Raise StrategyError where features and labels do not go together, or there is nothing to tell apart."""
    if x.ndim != 2 or len(x) != len(y):
        raise StrategyError(
            must("features", "an (N, D) array with one row a label", f"{x.shape} and {len(y)} labels")
        )
    if num_classes < 2:
        raise StrategyError(
            must("the number of classes", "at least 2", num_classes, "Add a folder for another class.")
        )
    if len(y) == 0:
        raise StrategyError(must("the training split", "at least one image", 0))
    if int(y.min()) < 0 or int(y.max()) >= num_classes:
        raise StrategyError(must("labels", f"in 0..{num_classes - 1}", f"{int(y.min())}..{int(y.max())}"))


def _search(
    problem: Problem, y: np.ndarray, fold_of: np.ndarray, used: np.ndarray, lambdas: tuple[float, ...]
) -> tuple[dict[float, CvPoint], dict[float, Tensor], dict[float, np.ndarray]]:
    """Walk the lambda path; figures, fold solutions (R+1, F, K) and held-out log-probabilities by lambda."""
    held_mask = torch.as_tensor(fold_of[:, None] == used[None, :])  # (N, F)
    train = (~held_mask).float()
    weights = train / train.sum(dim=0)
    path: dict[float, CvPoint] = {}
    thetas: dict[float, Tensor] = {}
    held: dict[float, np.ndarray] = {}

    def visit(value: float, start: Tensor) -> None:
        theta = solve(problem, weights, value, start, 1e-5)
        path[value], held[value] = _score(problem, theta, held_mask, y, value)
        thetas[value] = theta

    grid = sorted(lambdas, reverse=True) or list(DEFAULT_LAMBDAS[::2])
    theta = problem.start(len(used))
    best = None
    for value in grid:
        visit(value, theta)
        theta = thetas[value]
        if best is None or path[value].log_loss < path[best].log_loss:
            best = value
        elif path[value].log_loss > path[best].log_loss + max(path[best].log_loss_se, 1e-3):
            break  # log-loss is unimodal along the path, noise aside
    if not lambdas and best is not None:
        for value in sorted(DEFAULT_LAMBDAS[1::2], reverse=True):
            if best / 10 < value < best * 10:
                stronger = min((p for p in thetas if p > value), default=best)
                visit(value, thetas[stronger])
    return path, thetas, held


def _score(
    problem: Problem, theta: Tensor, held_mask: Tensor, y: np.ndarray, value: float
) -> tuple[CvPoint, np.ndarray]:
    """Held-out figures of the fold solutions."""
    n, folds, k = len(y), theta.shape[1], theta.shape[2]
    logits = (problem.z @ theta.reshape(-1, folds * k)).view(n, folds, k)
    rows, columns = held_mask.nonzero(as_tuple=True)
    log_p = torch.log_softmax(logits[rows, columns], dim=1).numpy()
    out = np.full((n, k), np.nan, dtype=np.float32)
    out[rows.numpy()] = log_p
    seen = y[rows.numpy()]
    losses = -log_p[np.arange(len(seen)), seen]
    hits = (log_p.argmax(axis=1) == seen).astype(np.float64)
    count = max(len(seen), 1)
    accuracy = float(hits.mean())
    point = CvPoint(
        lambda_=value,
        log_loss=float(losses.mean()),
        log_loss_se=float(losses.std() / count**0.5),
        accuracy=accuracy,
        accuracy_se=float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / count) / count)),
    )
    return point, out
