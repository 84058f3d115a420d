"""Ridge classification in closed form, with exact leave-one-out answers for every lambda at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from finetune.features.logistic import check_problem
from finetune.features.rotation import principal_axes

DEFAULT_LAMBDAS: tuple[float, ...] = tuple(float(10.0**e) for e in np.arange(2.0, -4.01, -0.5))
"""L2 strengths on features of unit variance, per sample: the penalty is N * lambda * ||W||^2."""


@dataclass(frozen=True)
class RidgeFit:
    """``scores = x @ weight.T + bias``; the scores approximate one-hot labels."""

    weight: np.ndarray
    """(K, D) float32."""
    bias: np.ndarray
    """(K,) float32."""
    lambda_: float
    loo: np.ndarray = field(repr=False)
    """(N, K) float32: each sample's scores by the solution that never saw it."""
    loo_error: float
    """Mean squared leave-one-out residual at the chosen lambda."""

    def loo_accuracy(self, y: np.ndarray, among: np.ndarray | None = None) -> float:
        """Leave-one-out accuracy, a share in [0, 1]; of the samples in the mask ``among`` (N,) where it is given.

        Class shares are taken out first: leaving a sample out makes its own class the rarer one, which under
        a strong penalty would count against the right answer (balanced noise would score below chance).
        """
        n, k = self.loo.shape
        counts = np.bincount(y, minlength=k)
        share = (counts[None, :] - np.eye(k)[y]) / max(1, n - 1)
        hits = (self.loo - share).argmax(axis=1) == y
        return float((hits if among is None else hits[among]).mean())


def fit_ridge(x: np.ndarray, y: np.ndarray, num_classes: int, lambdas: Sequence[float] = ()) -> RidgeFit:
    """Least squares on one-hot labels, lambda by leave-one-out squared error.

    Minimises ``sum_n ||onehot(y_n) - W x_n - b||^2 + N lambda ||W||^2``. With hat matrix H the answer without
    sample n is ``y_n - (y_n - yhat_n) / (1 - H_nn)`` (Allen's PRESS), exact for a fixed N lambda, so that one
    eigendecomposition serves every lambda and every left-out sample.

    x: (N, D) float, y: (N,) int. Raises StrategyError.
    """
    check_problem(x, y, num_classes)
    target = torch.nn.functional.one_hot(torch.as_tensor(y, dtype=torch.int64), num_classes).double()
    return fit_ridge_values(x, target, lambdas)


def fit_ridge_values(x: np.ndarray, target: torch.Tensor, lambdas: Sequence[float] = ()) -> RidgeFit:
    """The same on any targets, (N, K) float64."""
    samples = torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
    n = len(samples)
    mean = samples.mean(dim=0)
    centred = samples - mean
    rotated, values, axes = principal_axes(centred)
    left = rotated.double() / values.sqrt()  # (N, R), orthonormal columns
    share = target.mean(dim=0)
    projected = left.T @ (target - share)  # (R, K)
    squared = left.square()
    best: tuple[float, float, torch.Tensor] | None = None
    for value in sorted(lambdas or DEFAULT_LAMBDAS, reverse=True):
        shrink = values / (values + n * value)  # (R,)
        fitted = share + left @ (shrink[:, None] * projected)
        leverage = (1.0 / n + squared @ shrink).clamp_max(1 - 1e-9)
        loo = target - (target - fitted) / (1 - leverage)[:, None]
        error = float((target - loo).square().mean())
        if best is None or error < best[0]:
            best = (error, value, loo)
    assert best is not None
    error, value, loo = best
    weight = (axes @ ((values.sqrt() / (values + n * value))[:, None] * projected)).T  # (K, D)
    bias = share - weight @ mean.double()
    return RidgeFit(weight.float().numpy(), bias.float().numpy(), value, loo.float().numpy(), error)
