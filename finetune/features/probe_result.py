"""What a probe phase finds: the head that it takes, and the held-out figures of every head that it tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune.task import SINGLE_LABEL, Task


@dataclass(frozen=True)
class CandidateScore:
    """Held-out figures of one head on one set of stages, at its best lambda."""

    taps: tuple[int, ...]
    solver: str
    lambda_: float | None
    """L2 strength of ridge and logistic, shrinkage of lda, None for the others."""
    log_loss: float
    """Nats; infinite where nothing could be held out, or where the stages carry nothing."""
    log_loss_se: float
    accuracy: float
    """Share in [0, 1]; NaN where nothing could be held out."""
    accuracy_se: float
    task: Task = SINGLE_LABEL
    """Of another task than single-label, ``log_loss`` is its held-out loss and ``accuracy`` its score."""

    @classmethod
    def of(
        cls, taps: tuple[int, ...], solver: str, lambda_: float | None, held_out: np.ndarray, y: np.ndarray
    ) -> CandidateScore:
        """From held-out log-probabilities (N, K); rows of NaN were never held out."""
        seen = np.flatnonzero(~np.isnan(held_out).any(axis=1))
        n = len(seen)
        if n == 0:
            return cls(taps, solver, lambda_, float("inf"), 0.0, float("nan"), 0.0)
        losses = -held_out[seen, y[seen]].astype(np.float64)
        accuracy = float((held_out[seen].argmax(axis=1) == y[seen]).mean())
        return cls(
            taps,
            solver,
            lambda_,
            float(losses.mean()),
            float(losses.std() / n**0.5),
            accuracy,
            float(np.sqrt(max(accuracy * (1 - accuracy), 0.25 / n) / n)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; null where nothing could be held out."""
        loss, score = self.task.loss_name.replace("-", "_").replace(" ", "_"), self.task.score
        figures = {
            loss: self.log_loss,
            f"{loss}_se": self.log_loss_se,
            score: self.accuracy,
            f"{score}_se": self.accuracy_se,
        }
        return {
            "taps": list(self.taps),
            "solver": self.solver,
            "lambda": self.lambda_,
            **{key: value if np.isfinite(value) else None for key, value in figures.items()},
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
    chosen: CandidateScore
    """The held-out figures of the head that was taken."""
    rule: str
    """Why this head, in words."""
    cv: tuple[CandidateScore, ...] = field(default=())
    """Every head that was tried, by the phase's candidates, simpler heads first."""
    members: tuple[CandidateScore, ...] = field(default=())
    """The heads whose mean this is; empty where one was taken."""

    @property
    def solver(self) -> str:
        """The kind of head, or ``average``."""
        return self.chosen.solver

    @property
    def lambda_(self) -> float | None:
        """The chosen head's strength; None where it has none."""
        return self.chosen.lambda_

    def logits(self, taps: Sequence[np.ndarray]) -> np.ndarray:
        """(N, K) from the pooled taps of every stage, (N, C_i) each."""
        joined = np.concatenate([taps[i] for i in self.taps], axis=1)
        result: np.ndarray = joined @ self.weight.T + self.bias
        return result

    def story(self) -> str:
        """One line for the reader: what was taken, why, and what else was tried."""
        taken = f"mean of {_listed(self.members)}" if self.members else _listed([self.chosen])
        tried = [score for score in self.cv if np.isfinite(score.log_loss)]
        if len(tried) < 2:
            return f"Head: {taken} ({self.rule})."
        shown = sorted(tried, key=lambda score: score.log_loss)
        rest = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
        table = ", ".join(f"{_label(score)} {score.log_loss:.2f}" for score in shown[:6])
        return f"Head: {taken} ({self.rule}). Held-out {self.chosen.task.loss_name}: {table}{rest}."

    def to_dict(self) -> dict[str, Any]:
        """What training.json keeps."""
        return {
            "taps": list(self.taps),
            "lambda": self.lambda_,
            "solver": self.solver,
            "rule": self.rule,
            "held_out": self.chosen.to_dict(),
            "members": [score.to_dict() for score in self.members],
            "candidates": [score.to_dict() for score in self.cv],
        }


def _label(score: CandidateScore) -> str:
    return f"{score.solver} {'+'.join(map(str, score.taps))}"


def _listed(scores: Sequence[CandidateScore]) -> str:
    """Heads by kind: ``lda on stage 4, logistic on stages 4 and 3+4``."""
    sets: dict[str, list[str]] = {}
    for score in scores:
        sets.setdefault(score.solver, []).append("+".join(map(str, score.taps)))
    parts = []
    for solver, taps in sets.items():
        noun = "stage" if taps[0].isdigit() and len(taps) == 1 else "stages"
        joined = taps[0] if len(taps) == 1 else f"{', '.join(taps[:-1])} and {taps[-1]}"
        parts.append(f"{solver} on {noun} {joined}")
    return ", ".join(parts)
