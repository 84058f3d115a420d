"""Heads for several labels an image and for numbers, solved on cached features like those for classes (probe.py).

Multi-label: logistic regression for each label against the rest (binary.py). Regression: ridge on the standardised
number, its strength by leave-one-out, the scale folded back so that the head answers in the number's own units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from finetune.errors import StrategyError, must
from finetune.features.binary import fit_binary_cv
from finetune.features.choice import tied
from finetune.features.combine import average_heads
from finetune.features.finite import require_finite
from finetune.features.probe import (
    ProbeSettings,
    check_candidates,
    fit_probe,
    standardised,
)
from finetune.features.probe_result import CandidateScore, ProbeResult
from finetune.features.ridge import fit_ridge_values
from finetune.task import Task

Head = tuple[np.ndarray, np.ndarray, float, np.ndarray]
"""Weight (K, D), bias (K,), strength, held-out outputs (N, K)."""


def fit_task_probe(
    task: Task, phase: ProbeSettings, features: Sequence[np.ndarray], labels: np.ndarray,
    targets: np.ndarray | None, num_classes: int, seed: int = 0,
) -> ProbeResult:  # fmt: skip
    """The head that a probe phase asks for: by ``fit_probe`` from classes, else from (N, K) ``targets``.

    Of the phase's sets of stages the one of least held-out loss is taken, ties to the earlier; with combine=average
    the mean of all within one standard error of it. Raises StrategyError.
    """
    if targets is None:
        return fit_probe(phase, features, labels, num_classes, seed)
    check_candidates(phase, len(features))
    if phase.solver not in ("auto", *task.solvers):
        raise StrategyError(
            must(
                "probe.solver", f"auto or {task.solvers[0]} where the task is {task.name}", repr(phase.solver)
            )
        )
    require_finite(features)
    solve, losses_of = SOLVERS[task.name]
    heads, losses, scores = [], [], []
    for taps, standardiser, x in standardised(phase, features):
        weight, bias, strength, held_out = solve(x, targets, phase, seed)
        heads.append((taps, *standardiser.fold(weight, bias)))
        losses.append(losses_of(held_out, targets))
        scores.append(_score(task, taps, task.solvers[0], strength, losses[-1], held_out, targets))
    cv = tuple(scores)
    even = tied(losses) if phase.combine == "average" else [0]
    if len(even) > 1:
        taps, weight, bias = average_heads([heads[i] for i in even], [tap.shape[1] for tap in features])
        members = tuple(scores[i] for i in even)
        # The mean of their losses: at least that of the mean head, for both losses are convex.
        mean = {key: float(np.mean([getattr(m, key) for m in members])) for key in _FIGURES}
        chosen = CandidateScore(taps, "average", None, task=task, **mean)
        return ProbeResult(
            weight, bias, taps, chosen, "all within one standard error of the best", cv, members
        )
    best = 0
    for i, score in enumerate(scores):
        if score.log_loss < scores[best].log_loss - 1e-6:
            best = i
    taps, weight, bias = heads[best]
    return ProbeResult(weight, bias, taps, scores[best], f"the task is {task.name}", cv)


_FIGURES = ("log_loss", "log_loss_se", "accuracy", "accuracy_se")


def standardisation(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each number, float64 (K,); 1 for a constant one."""
    numbers = targets.astype(np.float64)
    spread = numbers.std(axis=0)
    return numbers.mean(axis=0), np.where(spread > 0, spread, 1.0)


def image_f1(yes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) F1 of each image's labels: 2 |A and B| / (|A| + |B|), 1 where both are empty.

    >>> image_f1(np.array([[True, True], [False, False]]), np.array([[1, 0], [0, 0]])).round(3).tolist()
    [0.667, 1.0]
    """
    truth = targets > 0.5
    both, sizes = (yes & truth).sum(axis=1), yes.sum(axis=1) + truth.sum(axis=1)
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)


def _logistic(x: np.ndarray, targets: np.ndarray, phase: ProbeSettings, seed: int) -> Head:
    fit = fit_binary_cv(x, targets, lambdas=phase.lambdas, folds=phase.folds, seed=seed)
    return fit.weight, fit.bias, fit.lambda_, fit.held_out


def _ridge(x: np.ndarray, targets: np.ndarray, phase: ProbeSettings, seed: int) -> Head:
    mean, spread = standardisation(targets)
    fit = fit_ridge_values(x, torch.as_tensor((targets - mean) / spread), phase.lambdas)
    weight = (fit.weight * spread[:, None]).astype(np.float32)
    return weight, (fit.bias * spread + mean).astype(np.float32), fit.lambda_, fit.loo * spread + mean


def label_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) binary log-loss in nats, the mean over the labels, from (N, K) logits; stays finite far out."""
    each = np.logaddexp(0, logits) - targets * logits
    return np.asarray(each.mean(axis=1), dtype=np.float64)


def number_losses(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) squared error in units of the targets' variance."""
    _, spread = standardisation(targets)
    return np.asarray(np.square((answers - targets) / spread).mean(axis=1), dtype=np.float64)


SOLVERS: dict[
    str,
    tuple[
        Callable[[np.ndarray, np.ndarray, ProbeSettings, int], Head],
        Callable[[np.ndarray, np.ndarray], np.ndarray],
    ],
] = {"multi-label": (_logistic, label_losses), "regression": (_ridge, number_losses)}
"""Task -> how its head is solved, and the loss of each image."""


def _score(
    task: Task, taps: tuple[int, ...], solver: str, strength: float, losses: np.ndarray, held_out: np.ndarray,
    targets: np.ndarray,
) -> CandidateScore:  # fmt: skip
    n = len(losses)
    if np.isnan(losses).any():
        return CandidateScore(taps, solver, strength, float("inf"), 0.0, float("nan"), 0.0, task)
    each = image_f1(held_out > 0, targets) if task.score == "f1" else 1 - losses
    return CandidateScore(
        taps, solver, strength, float(losses.mean()), float(losses.std() / n**0.5), float(each.mean()),
        float(each.std() / n**0.5), task,
    )  # fmt: skip
