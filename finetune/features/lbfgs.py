"""L-BFGS for multinomial logistic regression, several weightings of the same samples side by side.

The objective and why this is quick are told in logistic.py, which chooses lambda with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.features.rotation import principal_axes

_HISTORY = 10
_CURVATURE = 0.5  # strong Wolfe: accept a step once the slope has halved
_ARMIJO = 1e-4


class Problem:
    """Rotated samples with a column of ones, one-hot labels, and the way back to the given features."""

    def __init__(self, x: np.ndarray, y: np.ndarray, num_classes: int) -> None:
        samples = torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
        self.mean = samples.mean(dim=0)
        rotated, _, axes = principal_axes(samples - self.mean)
        rotated, self.axes = rotated.float(), axes.float()  # (N, R), (D, R)
        self.z = torch.cat([rotated, torch.ones(len(rotated), 1)], dim=1)  # (N, R+1)
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


def polish(problem: Problem, lambda_: float, theta: Tensor, tolerance: float) -> Tensor:
    """Finish in double precision where that is cheap; single precision is good to about 1e-6 nats."""
    if problem.z.numel() * problem.k > 200_000_000:
        return theta
    weights = torch.full((len(problem.labels), 1), 1.0 / len(problem.labels), dtype=torch.float64)
    return solve(problem, weights, lambda_, theta.double(), tolerance)


def solve(
    problem: Problem,
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
