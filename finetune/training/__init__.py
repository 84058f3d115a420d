"""Does what the plan says and never asks which strategy wrote it."""

from __future__ import annotations

from typing import Any

from finetune.registry import Registry

OPTIMIZERS: Registry[Any] = Registry("optimizer")
"""Functions ``(groups, phase) -> torch.optim.Optimizer``."""
OPTIMIZERS.add("sgd", "finetune.training.optim:sgd", "stochastic gradient descent with Nesterov momentum")
OPTIMIZERS.add("adamw", "finetune.training.optim:adamw", "Adam with decoupled weight decay")

SCHEDULES: Registry[Any] = Registry("schedule")
"""Functions ``(steps, warmup) -> (step -> factor on the peak learning rate)``."""
SCHEDULES.add("cosine", "finetune.training.schedule:cosine", "linear warm-up, then half a cosine down to 0")
SCHEDULES.add("constant", "finetune.training.schedule:constant", "linear warm-up, then the peak")
