"""What phases ask for that cannot be had together, or not with these data: all of it at once, before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from finetune.errors import ConfigError, must
from finetune.strategy.plan import GradientPhase, Plan, join_problems
from finetune.training.losses import class_weights


def refuse_impossible(plan: Plan, classes: Sequence[str]) -> None:
    """Raises ConfigError with every problem of the plan's losses and regularisers, each named once."""
    found = [
        problem
        for phase in plan.phases
        if isinstance(phase, GradientPhase)
        for problem in _problems(phase, plan, classes)
    ]
    if found:
        raise ConfigError(join_problems(list(dict.fromkeys(found)), "the plan"))


def _problems(phase: GradientPhase, plan: Plan, classes: Sequence[str]) -> Iterable[str]:
    try:
        class_weights(phase.class_weights, torch.ones(len(classes), dtype=torch.int64), classes)
    except ConfigError as error:
        yield str(error)
    if phase.sampling == "balanced" and phase.class_weights in ("balanced", "sqrt"):
        yield must(
            "train.class_weights", "none where train.sampling is balanced", repr(phase.class_weights),
            "Either makes small classes count as much as large ones; both together do it twice.",
        )  # fmt: skip
    if phase.l2_sp and plan.init == "random":
        yield must(
            "train.l2_sp", "0 where training starts from random weights", phase.l2_sp,
            "It holds weights near the pretrained ones. Use train.weight_decay.",
        )  # fmt: skip
    if phase.l2_sp and phase.trains == "lora":
        yield must(
            "train.l2_sp", "0 where only adapters train", phase.l2_sp,
            "The pretrained weights do not move; train.weight_decay keeps the adapters small.",
        )  # fmt: skip
