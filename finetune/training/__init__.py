"""Does what the plan says and never asks which strategy wrote it."""

from __future__ import annotations

from typing import Any

from finetune.registry import Registry
from finetune.solvers import OPTIMIZERS, SCHEDULES

__all__ = ["LOSSES", "OPTIMIZERS", "SCHEDULES"]

LOSSES: Registry[Any] = Registry("loss")
"""Functions ``(phase, class_weights) -> torch.nn.Module`` from (B, K) logits and targets to a mean."""
LOSSES.add("cross-entropy", "finetune.training.losses:cross_entropy", "log-loss of the softmax")
LOSSES.add("focal", "finetune.training.losses:focal", "cross-entropy that looks away from easy images")
LOSSES.add("bce", "finetune.training.losses:bce", "binary cross-entropy, summed over the classes")
LOSSES.add("mse", "finetune.training.losses:mse", "squared error of a number, in standard deviations")
LOSSES.add("l1", "finetune.training.losses:l1", "absolute error of a number")
LOSSES.add(
    "huber", "finetune.training.losses:huber", "squared for small errors of a number, absolute for large ones"
)
