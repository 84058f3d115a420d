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

DEFAULT_LAMBDAS: tuple[float, ...] = tuple(float(10.0**e) for e in np.arange(1.0, -6.01, -0.5))
"""L2 strengths on features of unit variance, strong to weak."""

FALLBACK_LAMBDA = 0.1
"""Used where nothing can be held out (every class has one image)."""

_HISTORY = 10
_CURVATURE = 0.5  # strong Wolfe: accept a step once the slope has halved
_ARMIJO = 1e-4
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
    problem = _Problem(x, y, num_classes)
    weights = torch.full((len(y), 1), 1.0 / len(y))
    theta = _solve(problem, weights, lambda_, problem.start(1), 1e-7)
    theta = _polish(problem, lambda_, theta, tolerance)
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
    problem = _Problem(x, y, num_classes)
    fold_of = stratified_folds(y, folds, seed)
    used = np.unique(fold_of[fold_of >= 0])
    if len(used) < 2:
        weights = torch.full((len(y), 1), 1.0 / len(y))
        theta = _solve(problem, weights, FALLBACK_LAMBDA, problem.start(1), 1e-7)
        weight, bias = problem.unrotate(_polish(problem, FALLBACK_LAMBDA, theta, tolerance)[:, 0])
        return LogisticFit(weight, bias, FALLBACK_LAMBDA)
    # Held out once each is a luxury with very many samples: fewer folds measure lambda well enough there.
    affordable = max(2, int(_CV_WORK / max(1.0, float(len(y)) * problem.z.shape[1] * num_classes)))
    used = used[:affordable]
    path, thetas, held = _search(problem, y, fold_of, used, tuple(lambdas))
    best = min(path, key=lambda p: path[p].log_loss)
    theta = thetas[best].mean(dim=1, keepdim=True)
    theta = _solve(problem, torch.full((len(y), 1), 1.0 / len(y)), best, theta, 1e-7)
    weight, bias = problem.unrotate(_polish(problem, best, theta, tolerance)[:, 0])
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
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(axis=1).sum())
        raise StrategyError(
            must(
                "features",
                "finite",
                f"NaN or infinity in {bad} of {len(x)} images",
                "The backbone's weights or its precision are broken; try another backbone.",
            )
        )


class _Problem:
    """Rotated samples with a column of ones, one-hot labels, and the way back to the given features."""

    def __init__(self, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
        samples = torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
        n, d = samples.shape
        self.mean = samples.mean(dim=0)
        centred = samples - self.mean
        if d <= n:
            values, axes = torch.linalg.eigh((centred.T @ centred / n).double())
            keep = values > values[-1].clamp_min(1e-30) * 1e-10
            self.axes = axes[:, keep].float()  # (D, R)
            rotated = centred @ self.axes
        else:
            # centred = U S V': the Gram matrix gives U S without ever forming a (D, D) matrix.
            values, left = torch.linalg.eigh((centred @ centred.T / n).double())
            keep = values > values[-1].clamp_min(1e-30) * 1e-10
            scale = (values[keep] * n).sqrt()
            rotated = (left[:, keep] * scale).float()
            self.axes = centred.T @ (left[:, keep] / scale).float()
        ones = torch.ones(n, 1)
        self.z = torch.cat([rotated, ones], dim=1)  # (N, R+1)
        self.variance = torch.cat([rotated.square().mean(dim=0), torch.ones(1)])  # (R+1,)
        self.penalised = torch.cat([torch.ones(rotated.shape[1]), torch.zeros(1)])
        self.labels = torch.as_tensor(y, dtype=torch.int64)
        self.k = num_classes
        self.onehot = torch.nn.functional.one_hot(self.labels, num_classes).float()  # (N, K)

    def start(self, folds: int) -> Tensor:
        """(R+1, F, K) zeros, the bias at the log of the smoothed class shares."""
        theta = torch.zeros(self.z.shape[1], folds, self.k)
        share = (self.onehot.sum(dim=0) + 0.5) / (len(self.labels) + 0.5 * self.k)
        theta[-1] = share.log()
        return theta

    def unrotate(self, theta: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(R+1, K) in rotated coordinates -> weight (K, D), bias (K,) on the given features."""
        theta = theta.double()
        weight = theta[:-1].T @ self.axes.T.double()
        bias = theta[-1] - weight @ self.mean.double()
        bias = bias - bias.mean()
        return weight.float().numpy(), bias.float().numpy()


def _search(
    problem: _Problem, y: np.ndarray, fold_of: np.ndarray, used: np.ndarray, lambdas: tuple[float, ...]
) -> tuple[dict[float, CvPoint], dict[float, Tensor], dict[float, np.ndarray]]:
    """Walk the lambda path; figures, fold solutions (R+1, F, K) and held-out log-probabilities by lambda."""
    held_mask = torch.as_tensor(fold_of[:, None] == used[None, :])  # (N, F)
    train = (~held_mask).float()
    weights = train / train.sum(dim=0)
    path: dict[float, CvPoint] = {}
    thetas: dict[float, Tensor] = {}
    held: dict[float, np.ndarray] = {}

    def visit(value: float, start: Tensor) -> None:
        theta = _solve(problem, weights, value, start, 1e-5)
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
    problem: _Problem, theta: Tensor, held_mask: Tensor, y: np.ndarray, value: float
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


def _polish(problem: _Problem, lambda_: float, theta: Tensor, tolerance: float) -> Tensor:
    """Finish in double precision where that is cheap; single precision is good to about 1e-6 nats."""
    if problem.z.numel() * problem.k > 200_000_000:
        return theta
    weights = torch.full((len(problem.labels), 1), 1.0 / len(problem.labels), dtype=torch.float64)
    return _solve(problem, weights, lambda_, theta.double(), tolerance)


def _solve(
    problem: _Problem,
    weights: Tensor,
    lambda_: float,
    theta: Tensor,
    tolerance: float,
    max_iterations: int = 300,
) -> Tensor:
    """Preconditioned L-BFGS on F weighted problems at once; theta, result: (R+1, F, K).

    weights: (N, F), each column sums to 1. Stops when half the preconditioned squared gradient norm, an
    estimate of the distance to the optimum in nats, is below ``tolerance`` in every problem.
    """
    dtype = theta.dtype
    z = problem.z.to(dtype)
    rows, folds, k = theta.shape
    penalty = (lambda_ * problem.penalised.to(dtype))[:, None, None]
    w = weights.to(dtype)

    def gradient(p: Tensor, at: Tensor) -> Tensor:
        residual = (p - problem.onehot.to(dtype)[:, None, :]) * w[:, :, None]  # (N, F, K)
        return (z.T @ residual.view(-1, folds * k)).view(rows, folds, k) + penalty * at

    logits = (z @ theta.reshape(rows, folds * k)).view(-1, folds, k)
    log_p = torch.log_softmax(logits, dim=2)
    p = log_p.exp()
    current = _loss(log_p, problem.labels, w) + 0.5 * _dot(penalty * theta, theta)
    grad = gradient(p, theta)
    spread = (p * (1 - p) * w[:, :, None]).sum(dim=0).clamp_min(1e-4)  # (F, K) mean curvature of each class
    inverse = 1.0 / (problem.variance.to(dtype)[:, None, None] * spread + penalty)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(max_iterations):
        direction = -_two_loop(grad, history, inverse)
        slope = _dot(grad, direction)
        active = -0.5 * slope > tolerance  # (F,)
        if not bool(active.any()):
            break
        direction = direction * active[None, :, None]
        step_logits = (z @ direction.reshape(rows, folds * k)).view(-1, folds, k)
        norms = (
            _dot(penalty * theta, theta),
            _dot(penalty * theta, direction),
            _dot(penalty * direction, direction),
        )
        line = _Line(logits, step_logits, problem.labels, w, norms)
        step, p, current = line.search(current, slope, active)
        if not bool((step > 0).any()):
            break  # rounding is all that is left
        s = step[None, :, None] * direction
        theta = theta + s
        logits = torch.addcmul(logits, step[None, :, None].expand_as(step_logits), step_logits)
        fresh = gradient(p, theta)
        change = fresh - grad
        curvature = _dot(s, change)
        rho = torch.where(curvature > 1e-30, 1.0 / curvature.clamp_min(1e-30), torch.zeros_like(curvature))
        history.append((s, change, rho))
        del history[:-_HISTORY]
        grad = fresh
    return theta


def _loss(log_p: Tensor, labels: Tensor, w: Tensor) -> Tensor:
    """(N, F, K) log-probabilities, (N,) labels, (N, F) weights -> (F,) mean negative log-likelihood."""
    index = labels[:, None, None].expand(-1, log_p.shape[1], 1)
    return -(log_p.gather(2, index)[:, :, 0] * w).sum(dim=0)


@dataclass
class _Line:
    """The objective along one direction for each of F problems: element-wise work alone."""

    logits: Tensor
    """(N, F, K) at step 0."""
    slopes: Tensor
    """(N, F, K) change of the logits per unit step."""
    labels: Tensor
    w: Tensor
    norms: tuple[Tensor, Tensor, Tensor]
    """Penalty: theta.theta, theta.direction, direction.direction, each (F,)."""

    def search(self, current: Tensor, slope: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Safeguarded Newton for a strong Wolfe step; steps (F,), probabilities (N, F, K), values (F,)."""
        step = active.to(current.dtype)
        low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
        slack = 1e-6 if current.dtype == torch.float32 else 1e-13
        ceiling = current + slack * current.abs()
        at_label = self.slopes.gather(2, self.labels[:, None, None].expand(-1, self.slopes.shape[1], 1))[
            :, :, 0
        ]
        fixed = (at_label * self.w).sum(dim=0)
        for _ in range(12):
            value, p = self.value(step)
            mean = (p * self.slopes).sum(dim=2)  # (N, F)
            first = (mean * self.w).sum(dim=0) - fixed + self.norms[1] + step * self.norms[2]
            fine = (value <= ceiling + _ARMIJO * step * slope) & (first.abs() <= -_CURVATURE * slope)
            if bool((fine | ~active).all()):
                break
            variance = (p * self.slopes.square()).sum(dim=2) - mean.square()
            second = (variance * self.w).sum(dim=0) + self.norms[2]
            high = torch.where(first > 0, torch.minimum(high, step), high)
            low = torch.where(first < 0, torch.maximum(low, step), low)
            newton = step - first / second.clamp_min(1e-30)
            fallback = torch.where(high.isinf(), 4 * step, 0.5 * (low + high))
            newton = torch.where((newton > low) & (newton < high) & (newton <= 10 * step), newton, fallback)
            step = torch.where(fine | ~active, step, newton)
        else:
            value, p = self.value(step)
        worse = value > ceiling
        if bool(worse.any()):
            step = torch.where(worse, torch.zeros_like(step), step)
            value, p = self.value(step)
        return step, p, value

    def value(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (F,) and probabilities (N, F, K) at these steps (F,)."""
        moved = self.logits + step[None, :, None] * self.slopes
        log_p = torch.log_softmax(moved, dim=2)
        penalty = 0.5 * (self.norms[0] + 2 * step * self.norms[1] + step.square() * self.norms[2])
        return _loss(log_p, self.labels, self.w) + penalty, log_p.exp()


def _two_loop(grad: Tensor, history: list[tuple[Tensor, Tensor, Tensor]], inverse: Tensor) -> Tensor:
    """The L-BFGS product H grad (Nocedal & Wright, algorithm 7.4) for each problem."""
    q = grad
    alphas = []
    for s, change, rho in reversed(history):
        alpha = rho * _dot(s, q)
        q = q - alpha[None, :, None] * change
        alphas.append(alpha)
    r = inverse * q
    for (s, change, rho), alpha in zip(history, reversed(alphas), strict=True):
        beta = rho * _dot(change, r)
        r = r + (alpha - beta)[None, :, None] * s
    return r


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(R, F, K), (R, F, K) -> (F,)."""
    return torch.einsum("rfk,rfk->f", a, b)
