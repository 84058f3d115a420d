"""Linear discriminants for few images: nearest centroid and shrunk LDA, leave-one-out in closed form.

Both call an image by its distance to the class means, ``d_k = (x - c_k)' A^-1 (x - c_k)``: a linear head, for
x' A^-1 x is the same for every class. A is the covariance within the classes, shared by all of them and shrunk
towards a multiple of the identity. With few images in many dimensions most of it is unknown, so much of it is shrunk:

- LDA shrinks by the formula of Chen, Wiesel, Eldar and Hero ("Shrinkage algorithms for MMSE covariance
  estimation", 2010, arXiv 0907.4698), which needs only two traces. It is applied to the n - K directions in which
  images differ within their classes, so that two images a class count as one difference each. (scikit-learn's
  ``shrinkage="auto"`` shrinks each class on its own; with two images a class it then does not shrink at all.)
- the nearest centroid is the other end: A is the multiple of the identity.

The mean of m images lies tr(A^-1 Cov) / m further from everything than the true one, so that classes with few
images would look far. That is subtracted (Moran and Murphy, Applied Statistics 28, 1979). Without it no leave-one-out
figure could be believed either: with two images a class the own mean is one image, the others' are of two.

Nothing of size (D, D) is formed where there are fewer images than dimensions: all is solved in the space that the
images span. Leaving image i out changes the scatter by one outer product, so each answer follows from one eigen-
decomposition (Sherman and Morrison), with the means, the scale and the shrinkage as they would be without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from finetune.features.logistic import check_problem
from finetune.features.rotation import principal_axes

_BLOCK = 4096  # images whose leave-one-out answers are worked out at once


@dataclass(frozen=True)
class DiscriminantFit:
    """Scores ``x @ weight.T + bias`` are -1/2 of the squared distances, up to a number common to all classes.

    The C classes that have images only: ``classes``. The class shares are not in the scores: ``offset``.
    """

    classes: np.ndarray
    """(C,) the labels that occur, ascending."""
    weight: np.ndarray
    """(C, D) float32."""
    bias: np.ndarray
    """(C,) float32."""
    offset: np.ndarray
    """(C,) float32, to be added to the (scaled) scores: log class shares, or zeros for the nearest centroid."""
    shrinkage: float
    """In [0, 1]: how much of A is the multiple of the identity."""
    correction: float
    """tr(A^-1 Cov), estimated on images left out; divided by the images of a class it is taken off its distance."""
    loo: np.ndarray = field(repr=False)
    """(N, C) float32: each image's scores by the solution that never saw it; NaN for a class's only image."""


def fit_lda(
    x: np.ndarray, y: np.ndarray, num_classes: int, shrinkage: float | None = None, *, corrected: bool = True
) -> DiscriminantFit:
    """Linear discriminant analysis with a shrunk covariance; ``shrinkage`` None takes it from the formula.

    x: (N, D) float, y: (N,) int. Where images do not differ within their classes (one image each, copies) there
    is no covariance and the identity stands in for it. ``corrected=False`` is the textbook's: the scores are then
    (n - K) / n of those of scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr")`` with this shrinkage,
    which divides the scatter by n. Raises StrategyError.
    """
    check_problem(x, y, num_classes)
    space = _Space(x, y)
    return space.solve(shrinkage, torch.log(space.counts / space.counts.sum()), corrected)


def fit_centroid(
    x: np.ndarray, y: np.ndarray, num_classes: int, *, corrected: bool = True
) -> DiscriminantFit:
    """Nearest centroid: every direction counts the same, and so does every class. Raises StrategyError.

    x: (N, D) float, y: (N,) int. ``corrected=False`` is scikit-learn's ``NearestCentroid``.
    """
    check_problem(x, y, num_classes)
    space = _Space(x, y)
    return space.solve(1.0, torch.zeros_like(space.counts), corrected)


def oas(trace: Tensor, trace_of_square: Tensor, samples: float, dimensions: int) -> Tensor:
    """Oracle-approximating shrinkage in [0, 1] from tr(S) and tr(S^2); any common factor of S drops out.

    As scikit-learn's ``oas``, which leaves out the 2 / p of the paper.
    """
    square = trace.square()
    excess = (trace_of_square - square / dimensions).clamp_min(0)
    ratio = (trace_of_square + square) / ((samples + 1) * excess).clamp_min(1e-300)
    return ratio.clamp_max(1.0)


class _Space:
    """The samples in the eigenbasis of their scatter within the classes; R directions, R < N."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        samples = torch.as_tensor(np.ascontiguousarray(x), dtype=torch.float32)
        self.classes, index = np.unique(y, return_inverse=True)
        self.labels = torch.as_tensor(index.reshape(-1), dtype=torch.int64)  # (N,)
        self.mean = samples.mean(dim=0)
        rotated, _, axes = principal_axes(samples - self.mean)
        z = rotated.double()  # (N, R)
        self.counts = torch.bincount(self.labels).double()  # (C,)
        means = torch.zeros(len(self.counts), z.shape[1], dtype=torch.float64)
        means = means.index_add_(0, self.labels, z) / self.counts[:, None]
        residual = z - means[self.labels]
        values, basis = torch.linalg.eigh(residual.T @ residual)
        self.values = values.clamp_min(0)  # (R,)
        self.z, self.means, self.residual = z @ basis, means @ basis, residual @ basis
        self.axes = axes.double() @ basis  # (D, R)
        self.dimensions = max(1, int((samples.amax(dim=0) != samples.amin(dim=0)).sum()))
        self.freedom = len(samples) - len(self.counts)
        total = float(z.square().sum())
        self.trace = self.values.sum()
        self.known = self.freedom >= 1 and float(self.trace) > 1e-10 * total
        self.spread = total / max(1, len(samples) - 1)

    def solve(self, shrinkage: float | None, offset: Tensor, corrected: bool) -> DiscriminantFit:
        """The head for a fixed shrinkage, or for that of the formula."""
        loo = torch.full((len(self.z), len(self.counts)), torch.nan, dtype=torch.float64)
        correction = 0.0
        if self.known:
            share = self._shrinkage(self.trace, self.values.square().sum(), self.freedom, shrinkage)
            level = share * self.trace / (self.dimensions * self.freedom)
            inverse = 1.0 / ((1 - share) / self.freedom * self.values + level)  # (R,) A^-1 in its eigenbasis
            correction = self._leave_one_out(loo, shrinkage, corrected)
        else:
            share = torch.ones(())
            inverse = torch.full_like(self.values, self.dimensions / max(self.spread, 1e-30))
            held = self.counts[self.labels] >= 2  # copies: leaving one out changes no mean
            distance = self._distances(self.z[held], inverse[None, :].expand(int(held.sum()), -1))
            loo[held] = -0.5 * distance
        weight = self.means * inverse  # (C, R)
        bias = -0.5 * (weight * self.means).sum(dim=1) + 0.5 * correction / self.counts
        weight = weight @ self.axes.T  # (C, D)
        bias = bias - weight @ self.mean.double()
        return DiscriminantFit(
            self.classes,
            weight.float().numpy(),
            bias.float().numpy(),
            offset.float().numpy(),
            float(share),
            correction,
            loo.float().numpy(),
        )

    def _shrinkage(self, trace: Tensor, square: Tensor, freedom: float, fixed: float | None) -> Tensor:
        if fixed is not None:
            return torch.full_like(trace, fixed)
        return oas(trace, square, freedom, self.dimensions)

    def _distances(self, z: Tensor, inverse: Tensor) -> Tensor:
        """Squared distances of samples (B, R) to the means (C, R), each with its own diagonal (B, R): (B, C)."""
        weighted = inverse * z
        own = (weighted * z).sum(dim=1, keepdim=True)
        distances: Tensor = own - 2 * weighted @ self.means.T + inverse @ self.means.square().T
        return distances

    def _leave_one_out(self, loo: Tensor, fixed: float | None, corrected: bool) -> float:
        """Fill in the scores (N, C) of every image but the only ones of their class; returns the correction."""
        rows = torch.nonzero(self.counts[self.labels] >= 2)[:, 0]
        own_parts = []
        for part in torch.split(rows, _BLOCK):
            loo[part], own = self._block(part, fixed)
            own_parts.append(own)
        # x_i is farther from the mean without it than from the true one: by the same factor u as the residual.
        u = self._growth(rows)
        correction = float((torch.cat(own_parts) / u).mean()) if corrected else 0.0
        images = self.counts.expand(len(rows), -1).clone()
        images[torch.arange(len(rows)), self.labels[rows]] -= 1
        loo[rows] = -0.5 * (loo[rows] - correction / images)
        return correction

    def _growth(self, rows: Tensor) -> Tensor:
        """x_i minus the mean of its class without it is this many times x_i minus the mean with it."""
        counts = self.counts[self.labels[rows]]
        return counts / (counts - 1)

    def _block(self, rows: Tensor, fixed: float | None) -> tuple[Tensor, Tensor]:
        """Squared distances (B, C) of some images, each by the solution without it; those to the own class (B,)."""
        z, r, u = self.z[rows], self.residual[rows], self._growth(rows)
        freedom = max(1, self.freedom - 1)
        norm, along = r.square().sum(dim=1), (r.square() * self.values).sum(dim=1)
        # An image that carries all of the scatter would leave none, and infinite distances.
        trace = (self.trace - u * norm).clamp_min(1e-3 * float(self.trace))
        square = self.values.square().sum() - 2 * u * along + (u * norm).square()
        square = torch.maximum(square, trace.square() / self.dimensions)
        share = self._shrinkage(trace, square, freedom, fixed)  # (B,)
        level, scale = share * trace / (self.dimensions * freedom), (1 - share) / freedom
        inverse = 1.0 / (scale[:, None] * self.values + level[:, None])  # (B, R)
        within = (inverse * r.square()).sum(dim=1)  # r' A^-1 r before r's own part is taken out of A
        rest = (1 - scale * u * within).clamp_min(1e-12)
        distance = self._distances(z, inverse)
        cross = (inverse * z * r).sum(dim=1, keepdim=True) - (inverse * r) @ self.means.T
        distance += (scale * u / rest)[:, None] * cross.square()
        own = u.square() * within / rest
        distance[torch.arange(len(rows)), self.labels[rows]] = own
        return distance, own
