"""Carry out a ProbePhase: choose the stages and the kind of head, give one head that sits on the raw taps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from finetune.errors import StrategyError, must
from finetune.features.choice import AVERAGE, FEW, median_per_class, tied
from finetune.features.combine import average_heads, average_log_probabilities
from finetune.features.finite import require_finite
from finetune.features.heads import HEADS, fit_head
from finetune.features.logistic import check_shape
from finetune.features.probe_result import CandidateScore, ProbeResult
from finetune.features.scaling import Standardiser


class ProbeSettings(Protocol):
    """What is read of a ProbePhase (strategy/plan.py, a room that this one must not import)."""

    @property
    def candidates(self) -> tuple[tuple[int, ...], ...]: ...
    @property
    def solver(self) -> str: ...
    @property
    def combine(self) -> str: ...
    @property
    def lambdas(self) -> tuple[float, ...]: ...
    @property
    def folds(self) -> int: ...


@dataclass(frozen=True)
class _Solved:
    """One candidate: the head folded back on the raw taps, and what it said of images it had not seen."""

    score: CandidateScore
    weight: np.ndarray
    bias: np.ndarray
    held_out: np.ndarray
    losses: np.ndarray
    """(N,), NaN where never held out."""


def fit_probe(
    phase: ProbeSettings, features: Sequence[np.ndarray], labels: np.ndarray, num_classes: int, seed: int = 0
) -> ProbeResult:
    """Solve the heads that the phase allows and keep the best, or the mean of those that are tied.

    features: the pooled taps of every stage, (N, C_i) float32 each; labels: (N,) int. Standardisation is fitted on
    these images and folded into the head.

    ``solver`` auto: logistic regression from a median of 5 images a class on; with fewer, for each set of stages the
    simplest head within one standard error of the least held-out log-loss (choice.py). Among the sets the least
    log-loss is taken, ties to the earlier one. ``combine``: average takes the mean of all heads within one
    standard error of the best instead, auto does so below a median of 30 images a class, pick never does.

    Sets of stages whose features are the same for all images are passed over. Raises StrategyError.
    """
    _check(phase, features, labels, num_classes)
    median = median_per_class(labels)
    kinds, rule = _kinds(phase.solver, labels, median)
    averaging = phase.combine == "average" or (phase.combine == "auto" and median < AVERAGE)
    table: list[_Solved] = []
    winners: list[_Solved] = []
    for candidate, standardiser, x in standardised(phase, features):
        heads = [
            _solve(kind, phase, candidate, standardiser, x, labels, num_classes, seed, averaging)
            for kind in kinds
        ]
        table += heads
        winners.append(heads[tied([head.losses for head in heads])[0]])
    cv = tuple(head.score for head in table)
    if averaging:
        even = [table[i] for i in tied([head.losses for head in table])]
        if len(even) > 1:
            return _mean(even, cv, [tap.shape[1] for tap in features], labels)
    best = winners[0]
    for head in winners[1:]:
        if head.score.log_loss < best.score.log_loss - 1e-6:
            best = head
    return ProbeResult(best.weight, best.bias, best.score.taps, best.score, rule, cv)


def standardised(
    phase: ProbeSettings, features: Sequence[np.ndarray]
) -> Iterator[tuple[tuple[int, ...], Standardiser, np.ndarray]]:
    """Each of the phase's sets of stages with its (N, D) standardised features, those that carry nothing passed over.

    Raises StrategyError where none carries anything.
    """
    found = False
    for candidate in dict.fromkeys(phase.candidates):
        blocks = [features[i] for i in candidate]
        standardiser = Standardiser.fit(blocks)
        if standardiser.scale.any():
            found = True
            yield candidate, standardiser, standardiser.transform(blocks)
    if not found:
        raise StrategyError(
            must(
                f"features of stages {sorted({i for c in phase.candidates for i in c})}",
                "different between images",
                "the same for all",
                "Are all images equal, or are the backbone's weights broken?",
            )
        )


def check_candidates(phase: ProbeSettings, stages: int) -> None:
    """Raises StrategyError for sets of stages that the network has not, and for an unknown ``combine``."""
    if not phase.candidates:
        raise StrategyError(must("probe candidates", "at least one set of stages", "none"))
    for candidate in phase.candidates:
        if not candidate or any(not 0 <= i < stages for i in candidate):
            raise StrategyError(must("a probe candidate", f"stage numbers in 0..{stages - 1}", candidate))
    if phase.combine not in ("pick", "average", "auto"):
        raise StrategyError(must("probe.combine", "pick, average or auto", repr(phase.combine)))


def _check(
    phase: ProbeSettings, features: Sequence[np.ndarray], labels: np.ndarray, num_classes: int
) -> None:
    check_candidates(phase, len(features))
    for tap in features:
        check_shape(tap, labels, num_classes)
    require_finite(features)
    seen = len(np.unique(labels))
    if seen < 2:
        raise StrategyError(
            must(
                "the training split",
                "images of at least 2 classes",
                f"{len(labels)} of one class",
                "Add images of another class.",
            )
        )


def _kinds(solver: str, labels: np.ndarray, median: float) -> tuple[tuple[str, ...], str]:
    """The heads to be tried, simple to flexible, and the rule in words."""
    if solver != "auto":
        return (solver,), "probe.solver asks for it"
    if np.bincount(labels).max() < 2:
        return ("centroid",), "with one image a class none can be held out: the simplest"
    few = f"median of {median:g} images a class"
    if median >= FEW:
        return ("logistic",), f"{few} to fit it on: {FEW:g} are enough for this kind"
    return HEADS, f"{few} to fit it on, under {FEW:g}: the simplest within one standard error of the best"


def _solve(
    kind: str, phase: ProbeSettings, taps: tuple[int, ...], standardiser: Standardiser, x: np.ndarray,
    y: np.ndarray, num_classes: int, seed: int, keep: bool,
) -> _Solved:  # fmt: skip
    fit = fit_head(kind, x, y, num_classes, lambdas=phase.lambdas, folds=phase.folds, seed=seed)
    score = CandidateScore.of(taps, kind, fit.lambda_, fit.held_out, y)
    losses = -fit.held_out[np.arange(len(y)), y].astype(np.float64)
    weight, bias = standardiser.fold(fit.weight, fit.bias)
    return _Solved(score, weight, bias, fit.held_out if keep else fit.held_out[:0], losses)


def _mean(
    heads: Sequence[_Solved], cv: tuple[CandidateScore, ...], widths: Sequence[int], y: np.ndarray
) -> ProbeResult:
    """The mean of the tied heads. Its held-out loss is never above the mean of theirs: log-loss is convex."""
    taps, weight, bias = average_heads([(h.score.taps, h.weight, h.bias) for h in heads], widths)
    held_out = average_log_probabilities([h.held_out for h in heads])
    score = CandidateScore.of(taps, "average", None, held_out, y)
    members = tuple(h.score for h in heads)
    rule = f"all within one standard error of the best, median of {median_per_class(y):g} images a class"
    return ProbeResult(weight, bias, taps, score, rule, cv, members)
