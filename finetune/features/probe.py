"""Carry out a ProbePhase: choose the stages, choose lambda, give a head that sits on the raw taps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from finetune.errors import StrategyError, must
from finetune.features.logistic import check_problem, fit_logistic_cv
from finetune.features.ridge import fit_ridge, fit_temperature
from finetune.features.scaling import Standardiser


class ProbeSettings(Protocol):
    """What is read of a ProbePhase (strategy/plan.py, a room that this one must not import)."""

    @property
    def candidates(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def solver(self) -> str: ...
    @property
    def lambdas(self) -> tuple[float, ...]: ...
    @property
    def folds(self) -> int: ...


@dataclass(frozen=True)
class CandidateScore:
    """Held-out figures of one set of stages at its best lambda."""

    taps: tuple[int, ...]
    lambda_: float
    log_loss: float
    """Nats; infinite where nothing could be held out."""
    log_loss_se: float
    accuracy: float
    """Share in [0, 1]; NaN where nothing could be held out."""
    accuracy_se: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "taps": list(self.taps),
            "lambda": self.lambda_,
            "log_loss": self.log_loss,
            "log_loss_se": self.log_loss_se,
            "accuracy": self.accuracy,
            "accuracy_se": self.accuracy_se,
        }


@dataclass(frozen=True)
class ProbeResult:
    """A linear head on raw pooled taps: ``logits = concat(taps) @ weight.T + bias``."""

    weight: np.ndarray
    """(K, D) float32, D = sum of the widths of ``taps``."""
    bias: np.ndarray
    """(K,) float32."""
    taps: tuple[int, ...]
    """Stages that feed the head, in the order of the columns of ``weight``."""
    lambda_: float
    solver: str
    cv: tuple[CandidateScore, ...] = field(default=())
    """One line a candidate, in the phase's order."""

    @property
    def chosen(self) -> CandidateScore:
        """The held-out figures of the head that was taken."""
        return next(score for score in self.cv if score.taps == self.taps)

    def logits(self, taps: Sequence[np.ndarray]) -> np.ndarray:
        """(N, K) from the pooled taps of every stage, (N, C_i) each."""
        joined = np.concatenate([taps[i] for i in self.taps], axis=1)
        result: np.ndarray = joined @ self.weight.T + self.bias
        return result


def fit_probe(
    phase: ProbeSettings, features: Sequence[np.ndarray], labels: np.ndarray, num_classes: int, seed: int = 0
) -> ProbeResult:
    """Solve the head for every candidate set of stages and keep the one of least cross-validated log-loss.

    features: the pooled taps of every stage, (N, C_i) float32 each; labels: (N,) int. Ties go to the earlier
    candidate. Standardisation is fitted on these images and folded into the head. Raises StrategyError.
    """
    if not phase.candidates:
        raise StrategyError(must("probe candidates", "at least one set of stages", "none"))
    for candidate in phase.candidates:
        if not candidate or any(not 0 <= i < len(features) for i in candidate):
            raise StrategyError(
                must("a probe candidate", f"stage numbers in 0..{len(features) - 1}", candidate)
            )
    scores: list[CandidateScore] = []
    best: ProbeResult | None = None
    for candidate in phase.candidates:
        blocks = [features[i] for i in candidate]
        check_problem(np.concatenate(blocks, axis=1), labels, num_classes)
        standardiser = Standardiser.fit(blocks)
        x = standardiser.transform(blocks)
        if not standardiser.scale.any():
            raise StrategyError(
                must(
                    f"features of stages {list(candidate)}",
                    "different between images",
                    "the same for all",
                    "Are all images equal, or are the backbone's weights broken?",
                )
            )
        head, score = _solve(phase, candidate, x, labels, num_classes, seed)
        scores.append(score)
        if best is None or score.log_loss < best.chosen.log_loss - 1e-6:
            weight, bias = standardiser.fold(*head)
            best = ProbeResult(weight, bias, candidate, score.lambda_, phase.solver, (score,))
    assert best is not None
    return ProbeResult(best.weight, best.bias, best.taps, best.lambda_, best.solver, tuple(scores))


def _solve(
    phase: ProbeSettings, taps: tuple[int, ...], x: np.ndarray, y: np.ndarray, num_classes: int, seed: int
) -> tuple[tuple[np.ndarray, np.ndarray], CandidateScore]:
    if phase.solver == "ridge":
        ridge = fit_ridge(x, y, num_classes, phase.lambdas)
        factor, losses = fit_temperature(ridge.loo, y)
        n, accuracy = len(y), ridge.loo_accuracy(y)
        score = CandidateScore(
            taps,
            ridge.lambda_,
            float(losses.mean()),
            float(losses.std() / n**0.5),
            accuracy,
            float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / n) / n)),
        )
        return (ridge.weight * np.float32(factor), ridge.bias * np.float32(factor)), score
    if phase.solver != "logistic":
        raise StrategyError(must("probe.solver", "logistic or ridge", repr(phase.solver)))
    fit = fit_logistic_cv(x, y, num_classes, lambdas=phase.lambdas, folds=phase.folds, seed=seed)
    point = fit.best
    if point is None:
        return (fit.weight, fit.bias), CandidateScore(taps, fit.lambda_, float("inf"), 0.0, float("nan"), 0.0)
    return (fit.weight, fit.bias), CandidateScore(
        taps, fit.lambda_, point.log_loss, point.log_loss_se, point.accuracy, point.accuracy_se
    )
