"""Several networks that answer as one: the weighted mean of their answers, and which of them to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import ConfigError, must
from finetune.evaluation.metrics import Floats, log_loss

if TYPE_CHECKING:
    import torch

    from finetune.zoo.backbone import Backbone

ROUNDS = 50
"""Picks of the forward selection; weights are multiples of one over the number of picks that are kept."""


@dataclass(frozen=True)
class Members:
    """Networks of the same classes in the same order, and how much each counts."""

    networks: tuple[Backbone, ...]
    weights: tuple[float, ...]
    """Positive; their sum is 1."""


def load_members(listed: Sequence[tuple[Path, float]], device: torch.device) -> Members:
    """From model folders and their weights, onto the device, in eval mode. Raises ZooError."""
    from finetune.zoo.model_folder import load_backbone

    networks = tuple(load_backbone(folder).to(device).eval() for folder, _ in listed)
    return Members(networks, tuple(weight for _, weight in listed))


def mean_probabilities(parts: Sequence[Floats], weights: Sequence[float]) -> np.ndarray:
    """The weighted mean of (N, K) probabilities or numbers, float32.

    >>> mean_probabilities([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], [0.75, 0.25]).tolist()
    [[0.75, 0.25]]
    """
    total = sum(weight * np.asarray(part, np.float64) for part, weight in zip(parts, weights, strict=True))
    return np.asarray(total, dtype=np.float32)


def forward_selection(
    parts: Sequence[Floats],
    labels: np.ndarray,
    rounds: int = ROUNDS,
    loss: Callable[[np.ndarray, Floats], float] = log_loss,
) -> list[float]:
    """Weights of a greedily chosen ensemble: one a part, 0 for those that are left out.

    Caruana et al. 2004, "Ensemble selection from libraries of models": begin with none; in each round add the
    one, with replacement, that makes the loss of the mean least, ties to the earlier. The best prefix of
    all rounds is kept, the shortest among equals.

    Args:
        parts: (N, K) probabilities (or numbers) of the same images, one array a candidate.
        labels: (N,) ints, or the (N, K) targets of another task.
        loss: from those and the mean; that of classes by default.

    Raises:
        ConfigError: no candidates. DataError: no images.
    """
    if not parts:
        raise ConfigError(must("the candidates of a selection", "at least one", "none"))
    wide = [np.asarray(part, np.float64) for part in parts]
    total, picks = np.zeros_like(wide[0]), list[int]()
    best, kept = np.inf, 0
    for size in range(1, rounds + 1):
        losses = [loss(labels, (total + part) / size) for part in wide]
        pick = int(np.argmin(losses))
        picks.append(pick)
        total += wide[pick]
        if losses[pick] < best - 1e-9:
            best, kept = losses[pick], size
    return [picks[:kept].count(i) / kept for i in range(len(wide))]


def greedy_soup(order: Sequence[int], judge: Callable[[list[int]], float]) -> tuple[list[int], list[float]]:
    """The ingredients of a greedy soup, and its score after each candidate.

    Wortsman et al. 2022, https://arxiv.org/abs/2203.05482, recipe 1: in ``order``, best first, a network goes
    into the soup if the mean of the weights then scores at least as high. ``judge`` scores such a mean.
    """
    soup, scores = [order[0]], [judge([order[0]])]
    for candidate in order[1:]:
        score = judge([*soup, candidate])
        if score >= scores[-1]:
            soup.append(candidate)
        scores.append(max(score, scores[-1]))
    return soup, scores
