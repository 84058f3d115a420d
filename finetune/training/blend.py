"""The safety net: on the line from the weights before a phase to those after it, where validation says.

Between a linear head on frozen features and the same network finetuned from there, the straight line keeps its
accuracy or gains some (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903). With 0 among the points
a phase that did harm is undone, and one that did a little harm is undone by half.

Nine validation images cannot choose among five points, and the one that suits them best is often the wrong end. So
the points are averaged, each weighted by the likelihood of the validation labels under it: with few images that is
somewhere between, with many it is the best point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finetune import ranks
from finetune.task import SINGLE_LABEL, TASKS, Task
from finetune.training.sharded import whole

if TYPE_CHECKING:
    from finetune.training.job import Job


_UNLIKELY = 20


@dataclass(frozen=True)
class Point:
    """One point of the line and what it does on the validation split."""

    alpha: float
    """0: the weights before the phase; 1: after it."""
    log_loss: float
    """The task's loss (objectives.py); of classes nats at the point's own best temperature."""
    accuracy: float
    """Or the task's own score."""

    def to_dict(self, task: Task = SINGLE_LABEL) -> dict[str, float]:
        """Plain values for JSON."""
        loss = task.loss_name.replace("-", "_").replace(" ", "_")
        return {"alpha": self.alpha, loss: self.log_loss, task.score: self.accuracy}


def interpolate(start: dict[str, Tensor], end: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """``(1 - alpha) * start + alpha * end``; counters, which have no middle, are those of the nearer end."""
    return {
        name: torch.lerp(start[name], tensor, alpha)
        if tensor.is_floating_point()
        else (tensor if alpha >= 0.5 else start[name])
        for name, tensor in end.items()
    }


def likely_alpha(alphas: Sequence[float], surprises: Sequence[float]) -> float:
    """The mean of the alphas of some points, each weighted by its likelihood exp(-surprise), to three digits.

    surprises: the negative log-likelihood, in nats, of the validation targets under each point. Points less likely
    than the best by a factor of ``_UNLIKELY`` count for nothing, so that a phase that ruined the network is undone
    to the last digit; nor do those without a figure. Without any it is the least alpha.

    >>> likely_alpha([0.0, 0.5, 1.0], [10, 10, 180])
    0.25
    """
    known = np.nan_to_num(np.asarray(surprises, dtype=np.float64), nan=np.inf, posinf=np.inf, neginf=np.inf)
    if not np.isfinite(known).any():
        return min(alphas)
    weights = np.exp(known.min() - known)
    weights[weights * _UNLIKELY < 1] = 0
    return round(float(np.average(alphas, weights=weights)), 3)


def blend(job: Job, start: dict[str, Tensor], alphas: Sequence[float]) -> tuple[float, list[dict[str, Any]]]:
    """Put the likely point of the line into the model; its alpha, and a row for each point that was measured.

    ``start`` holds tensors of the model as they were before the phase, on the CPU; the model holds them as
    they are after it. Without validation images, or with a single point, nothing is measured.
    """
    from finetune.training.model_state import load_tensors

    live = job.backbone.state_dict()
    end = {name: whole(live[name]).to("cpu", copy=True) for name in start}
    points = []
    for alpha in sorted(set(alphas)) if len(job.feed.val_labels) and len(set(alphas)) > 1 else ():
        load_tensors(job.backbone, interpolate(start, end, alpha))
        points.append(_measure(job, alpha))
    images, objective = len(job.feed.val_labels), job.feed.objective
    surprises = [objective.surprise(point.log_loss, images) for point in points]
    alpha = likely_alpha([point.alpha for point in points], surprises) if points else max(alphas)
    load_tensors(job.backbone, interpolate(start, end, alpha))
    return alpha, [point.to_dict(objective.task) for point in points]


@torch.no_grad()
def _measure(job: Job, alpha: float) -> Point:
    job.backbone.eval()
    parts = []
    for inputs, _ in job.feed.validation():
        with job.engine.autocast():
            parts.append(job.micro.logits(inputs).float().cpu())
    mine = torch.cat(parts).numpy() if parts else np.empty((0, job.backbone.num_classes), np.float32)
    outputs = torch.as_tensor(ranks.gather_rows(mine))
    return Point(alpha, *job.feed.objective.judge(outputs, job.feed.val_labels))


def blended_line(alpha: float, rows: list[dict[str, Any]]) -> str:
    """One line about the safety net."""
    if not rows:
        return (
            f"Safety net: {alpha:.0%} of the way from the head alone to the tuned network, as chosen before."
        )
    score = next(task.score for task in TASKS.values() if task.score in rows[0])
    first, last = rows[0][score], rows[-1][score]
    named = "" if score == "accuracy" else f"{score.upper()} "
    digits = ".3f" if score == "r2" else ".1%"
    return (
        f"Safety net: {alpha:.0%} of the way from the head alone (validation {named}{first:{digits}}) to the "
        f"tuned network ({last:{digits}})."
    )
