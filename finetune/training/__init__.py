"""Does what the plan says and never asks which strategy wrote it."""

from __future__ import annotations

from typing import Any

from finetune.registry import Registry

OPTIMIZERS: Registry[Any] = Registry("optimizer")
"""Functions ``(groups, phase) -> torch.optim.Optimizer``."""
OPTIMIZERS.add("sgd", "finetune.training.optim:sgd", "stochastic gradient descent with Nesterov momentum")
OPTIMIZERS.add("adamw", "finetune.training.optim:adamw", "Adam with decoupled weight decay")

LOSSES: Registry[Any] = Registry("loss")
"""Functions ``(phase, class_weights) -> torch.nn.Module`` from (B, K) logits and targets to a mean."""
LOSSES.add("cross-entropy", "finetune.training.losses:cross_entropy", "log-loss of the softmax")
LOSSES.add("focal", "finetune.training.losses:focal", "cross-entropy that looks away from easy images")
LOSSES.add("bce", "finetune.training.losses:bce", "binary cross-entropy, summed over the classes")

SCHEDULES: Registry[Any] = Registry("schedule")
"""Functions ``(steps, warmup) -> (step -> factor on the peak learning rate)``."""
SCHEDULES.add("cosine", "finetune.training.schedule:cosine", "linear warm-up, then half a cosine down to 0")
SCHEDULES.add("constant", "finetune.training.schedule:constant", "linear warm-up, then the peak")
