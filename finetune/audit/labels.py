"""Labels that are probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from finetune.audit.views import first_of_each, for_all, neighbours, standardised
from finetune.errors import StrategyError, must
from finetune.features.heads import fit_head

SCORE = 0.6
"""Suspects below this are not reported: on five data sets with 5% of their labels planted wrongly, half of those
above were the planted ones, and half of the planted ones were above (benchmarks/label_noise.csv)."""

_UNSEEN = 1e-3


@dataclass(frozen=True)
class Suspect:
    """An image whose label the others contradict."""

    index: int
    given: int
    suggested: int
    score: float
    """Probability of the suggested class minus that of the given one, out of fold; in (0, 1]."""


def suspects(log_p: np.ndarray, labels: np.ndarray) -> list[Suspect]:
    """The images whose labels are probably wrong, the surest first.

    log_p: (N, K) log-probabilities of each image by a model that never saw it; rows with NaN are left out.
    labels: (N,) int. A class's threshold is the mean probability of that class over the images that carry its label.
    An image counts for the class of highest probability among those whose threshold it reaches. Of the images
    labelled k that count for j, scaled to all images labelled k, as many with the widest margin are suspects
    ("prune by noise rate"). Raises StrategyError for another shape.
    """
    if log_p.ndim != 2 or labels.shape != (len(log_p),):
        raise StrategyError(must("log_p", "(N, K) beside N labels", f"{log_p.shape}, {labels.shape}"))
    rows = np.flatnonzero(~np.isnan(log_p).any(axis=1))
    p, y = np.exp(log_p[rows].astype(np.float64)), labels[rows]
    classes = p.shape[1]
    thresholds = np.array([p[y == k, k].mean() if (y == k).any() else np.inf for k in range(classes)])
    reached = np.where(p >= thresholds, p, -1.0)
    counted = reached.argmax(axis=1)
    sure = reached.max(axis=1) > 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[sure], counted[sure]), 1)
    # Images that reach no threshold are spread like the others of their label.
    confident = joint.sum(axis=1)
    scale = np.divide(np.bincount(y, minlength=classes), confident, out=np.ones(classes), where=confident > 0)
    found = []
    for given, other in zip(*np.nonzero(joint), strict=True):
        if given == other:
            continue
        count = round(joint[given, other] * scale[given])
        own = np.flatnonzero((y == given) & sure & (counted == other))
        margin = p[own, other] - p[own, given]
        for i in np.argsort(-margin, kind="stable")[:count]:
            if margin[i] > 0:
                found.append(Suspect(int(rows[own[i]]), int(given), int(other), float(margin[i])))
    return sorted(found, key=lambda s: (-s.score, s.index))


def held_out(
    taps: Sequence[np.ndarray], labels: np.ndarray, classes: int, copies: Sequence[Sequence[int]] = ()
) -> np.ndarray | None:
    """(N, K) log-probabilities of each image by what the *other* images say; None where there are too few.

    The mean of two views: ridge regression on all stages, leave-one-out in closed form, and the vote of the nearest
    neighbours in the last stage. copies: groups of images that show the same; only the first of each speaks, so that
    no copy vouches for another's label, and what is said of it is said of all.
    """
    kept = first_of_each(len(labels), copies)
    if (np.bincount(labels[kept], minlength=classes) > 1).sum() < 2:
        return None
    x = standardised(taps, kept)
    if x is None:
        return None
    said = fit_head("ridge", x, labels[kept], classes).held_out
    mean = (said + _votes(taps[-1][kept], labels[kept], classes)) / 2
    shifted = mean - mean.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return for_all(log_p, kept, len(labels), copies)


def _votes(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(N, K) log of the share of the nearest others' votes."""
    known = torch.from_numpy(labels)
    votes = torch.full((len(labels), classes), _UNSEEN)
    for rows, weights, index in neighbours(features):
        votes[rows[0] : rows[-1] + 1].scatter_add_(1, known[index], weights)
    found: np.ndarray = (votes / votes.sum(dim=1, keepdim=True)).log().numpy()
    return found
