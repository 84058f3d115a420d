"""One-vs-rest logistic regression on fixed features: all labels and all folds in one L-BFGS.

Objective, for each label k on its own, the mean taken over N samples (scikit-learn's ``LogisticRegression`` with
C = 1 / (lambda N))::

    J(w, b) = mean_n log(1 + exp(-s_nk (w x_n + b)))  +  lambda / 2 * ||w||^2          (b is not penalised)

with s = 1 for yes and -1 for no. The sum over the labels and folds is one smooth convex function of independent
blocks, which torch.optim.LBFGS solves. The features are rotated to their principal axes first and divided by the
root of the curvature there, at most variance / 4 + lambda: that preconditions it (Boehning and Lindsay 1988).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finetune.data.stratify import label_folds
from finetune.features.logistic import DEFAULT_LAMBDAS, FALLBACK_LAMBDA
from finetune.features.rotation import principal_axes

_BIAS = 1e-6
"""Strength on b: keeps it finite for a label that is the same on all samples of a fold, changes nothing else."""


@dataclass(frozen=True)
class BinaryFit:
    """``logits = x @ weight.T + bias``; their sigmoids are the probabilities of the labels."""

    weight: np.ndarray
    """(K, D) float32."""
    bias: np.ndarray
    """(K,) float32."""
    lambda_: float
    held_out: np.ndarray = field(repr=False)
    """(N, K) float32 logits of each sample by a solution that never saw it; NaN where nothing was held out."""


def fit_binary(x: np.ndarray, y: np.ndarray, lambda_: float) -> BinaryFit:
    """Solve at one lambda. x: (N, D) float, y: (N, K) of 0 and 1."""
    problem = _Problem(x, y)
    weight, bias = problem.solve_all(lambda_)
    return BinaryFit(weight, bias, lambda_, np.full(y.shape, np.nan, dtype=np.float32))


def fit_binary_cv(
    x: np.ndarray, y: np.ndarray, *, lambdas: Sequence[float] = (), folds: int = 5, seed: int = 0
) -> BinaryFit:
    """Choose one lambda for all labels by cross-validated log-loss, then solve on all samples.

    The folds keep the share of every label (iterative stratification). The path goes from strong to weak with warm
    starts and ends where the loss clearly rises; the default grid is searched in whole decades, then in half ones.
    """
    problem = _Problem(x, y)
    folds = min(folds, len(y))
    if folds < 2:
        return fit_binary(x, y, FALLBACK_LAMBDA)
    fold_of = torch.as_tensor(label_folds(y, folds, seed))
    held = fold_of[:, None] == torch.arange(folds)[None, :]  # (N, F)
    losses: dict[float, float] = {}
    answers: dict[float, np.ndarray] = {}
    starts: dict[float, Tensor] = {}

    def visit(value: float, start: Tensor | None) -> None:
        starts[value] = problem.solve(value, (~held).float(), start)
        logits = problem.logits(starts[value], value)  # (N, F, K)
        own = logits[held.nonzero(as_tuple=True)]  # by sample, each once
        answers[value] = own.numpy()
        losses[value] = float(F.binary_cross_entropy_with_logits(own, problem.y))

    best, last = None, None
    for value in sorted(lambdas, reverse=True) or DEFAULT_LAMBDAS[::2]:
        visit(value, None if last is None else problem.moved(starts[last], last, value))
        last = value
        if best is None or losses[value] < losses[best]:
            best = value
        elif losses[value] > losses[best] + 1e-3:
            break
    assert best is not None
    for value in () if lambdas else DEFAULT_LAMBDAS[1::2]:
        if best / 10 < value < best * 10:
            near = min((p for p in starts if p > value), default=best)
            visit(value, problem.moved(starts[near], near, value))
    best = min(losses, key=lambda value: losses[value])
    weight, bias = problem.solve_all(best)
    return BinaryFit(weight, bias, best, answers[best])


class _Problem:
    """Rotated samples with a column of ones, targets, and the way back to the given features."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        samples = torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
        self.mean = samples.mean(dim=0)
        rotated, _, axes = principal_axes(samples - self.mean)
        rotated, self.axes = rotated.float(), axes.float()  # (N, R), (D, R)
        self.z = torch.cat([rotated, torch.ones(len(rotated), 1)], dim=1)  # (N, R+1)
        self.variance = self.z.square().mean(dim=0)  # (R+1,)
        self.y = torch.as_tensor(np.asarray(y), dtype=torch.float32)  # (N, K)
        self.penalised = torch.cat([torch.ones(rotated.shape[1]), torch.full((1,), 0.0)])

    def _scale(self, lambda_: float) -> Tensor:
        """(R+1,) what the free parameters are multiplied by to become weights."""
        return (self.variance / 4 + lambda_ * self.penalised).rsqrt()

    def moved(self, theta: Tensor, from_: float, to: float) -> Tensor:
        """The same weights in the parameters of another lambda."""
        return theta * (self._scale(from_) / self._scale(to))[:, None, None]

    def logits(self, theta: Tensor, lambda_: float) -> Tensor:
        """(R+1, F, K) free parameters -> (N, F, K)."""
        rows, folds, k = theta.shape
        weights = theta * self._scale(lambda_).to(theta.dtype)[:, None, None]
        return (self.z.to(theta.dtype) @ weights.reshape(rows, folds * k)).view(-1, folds, k)

    def solve(
        self, lambda_: float, used: Tensor, start: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(R+1, F, K) free parameters of the F problems of which each has the samples ``used`` (N, F)."""
        share = (used / used.sum(dim=0)).to(dtype)[:, :, None]  # (N, F, 1)
        y, k = self.y.to(dtype)[:, None, :], self.y.shape[1]
        scale = self._scale(lambda_).to(dtype)[:, None, None]
        strength = (lambda_ * self.penalised + _BIAS * (1 - self.penalised)).to(dtype)[:, None, None]
        if start is None:
            positive = (self.y.sum(dim=0) + 0.5) / (len(self.y) + 1)
            start = torch.zeros(self.z.shape[1], used.shape[1], k)
            start[-1] = positive.logit() / self._scale(lambda_)[-1]
        theta = start.to(dtype).clone().requires_grad_()
        exact = dtype == torch.float64
        optimizer = torch.optim.LBFGS(
            [theta], max_iter=500 if exact else 100, history_size=20, line_search_fn="strong_wolfe",
            tolerance_grad=1e-8 if exact else 1e-5, tolerance_change=1e-13 if exact else 1e-8,
        )  # fmt: skip

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = self.logits(theta, lambda_)
            each = F.binary_cross_entropy_with_logits(logits, y.expand_as(logits), reduction="none")
            loss = (each * share).sum() + 0.5 * (strength * (scale * theta).square()).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return theta.detach()

    def solve_all(self, lambda_: float) -> tuple[np.ndarray, np.ndarray]:
        """Weight (K, D) and bias (K,) on the given features, from all samples, in double precision.

        A label that all samples have, or none, gets its smoothed share whatever the image.
        """
        theta = self.solve(lambda_, torch.ones(len(self.y), 1), dtype=torch.float64)[:, 0]
        theta = theta * self._scale(lambda_).double()[:, None]
        yes = self.y.double().sum(dim=0)
        constant = (yes == 0) | (yes == len(self.y))
        theta[:-1, constant] = 0
        theta[-1, constant] = ((yes + 0.5) / (len(self.y) - yes + 0.5)).log()[constant]
        weight = theta[:-1].T @ self.axes.T.double()
        bias = theta[-1] - weight @ self.mean.double()
        return weight.float().numpy(), bias.float().numpy()
