"""LogME: how well a Bayesian linear model explains the labels by the features (You et al. 2021, arXiv 2102.11005).

For each class, its 0/1 labels y (n,) are taken for a linear function of the features F (n, D) with a Gaussian prior
on the weights of precision alpha and Gaussian noise of precision beta. The evidence, the weights integrated out, is

    log p(y | F) = n/2 log beta + D/2 log alpha - n/2 log 2 pi - beta/2 |F m - y|^2 - alpha/2 m'm - 1/2 log |A|
    A = alpha I + beta F'F,  m = beta A^-1 F'y

maximised over alpha and beta by the fixed point of the paper's Algorithm 1 (MacKay's). LogME is the mean over the
classes of the largest evidence a sample. Higher is said to transfer better.
"""

from __future__ import annotations

import math

import numpy as np

_ROUNDS = 100
_TOLERANCE = 1e-6


def logme(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """features: (N, D); labels: (N,) int. Nats a sample; classes without images are left out.

    Raises ValueError for features that are not finite or all zero, or fewer than two images.
    """
    x = np.asarray(features, dtype=np.float64)
    if len(x) < 2 or not np.isfinite(x).all() or not x.any():
        raise ValueError("LogME needs at least two images with finite features that are not all zero.")
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    squared = singular**2
    present = [k for k in range(num_classes) if (labels == k).any()]
    found = [evidence(left, squared, (labels == k).astype(np.float64), x.shape[1])[0] for k in present]
    return float(np.mean(found)) / len(x)


def evidence(left: np.ndarray, squared: np.ndarray, y: np.ndarray, width: int) -> tuple[float, float, float]:
    """Largest log evidence of one class, and the alpha and beta that give it.

    left: (n, r) left singular vectors of F; squared: (r,) squared singular values; y: (n,); width: D.
    """
    n = len(y)
    along = (left.T @ y) ** 2  # (r,) of y's energy along each direction
    outside = max(float(y @ y) - float(along.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(_ROUNDS):
        shrink = alpha / (alpha + beta * squared)  # (r,)
        residual = float((shrink**2 * along).sum()) + outside
        weights = float((beta**2 * squared * along / (alpha + beta * squared) ** 2).sum())  # m'm
        gamma = float((1 - shrink).sum())
        new_alpha = gamma / max(weights, 1e-12)
        new_beta = max(n - gamma, 1e-12) / max(residual, 1e-12)
        settled = abs(math.log(new_alpha / alpha)) + abs(math.log(new_beta / beta)) < _TOLERANCE
        alpha, beta = _bounded(new_alpha), _bounded(new_beta)
        if settled:
            break
    return log_evidence(squared, along, outside, n, width, alpha, beta), alpha, beta


def log_evidence(
    squared: np.ndarray, along: np.ndarray, outside: float, n: int, width: int, alpha: float, beta: float
) -> float:
    """The formula above in the singular basis, at any alpha and beta."""
    shrink = alpha / (alpha + beta * squared)
    residual = float((shrink**2 * along).sum()) + outside
    weights = float((beta**2 * squared * along / (alpha + beta * squared) ** 2).sum())
    volume = float(np.log(alpha + beta * squared).sum()) + (width - len(squared)) * math.log(alpha)
    return 0.5 * (
        n * math.log(beta) + width * math.log(alpha) - n * math.log(2 * math.pi)
        - beta * residual - alpha * weights - volume
    )  # fmt: skip


def _bounded(value: float) -> float:
    """Labels that the features explain perfectly would send beta to infinity."""
    return min(max(value, 1e-10), 1e10)
