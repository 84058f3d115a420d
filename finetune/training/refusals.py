"""What phases ask for that cannot be had together, or not with these data: all of it at once, before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from finetune.errors import ConfigError, must
from finetune.strategy.plan import GradientPhase, Plan, join_problems
from finetune.task import REGRESSION, SINGLE_LABEL, Task
from finetune.training.losses import class_weights


def refuse_impossible(plan: Plan, classes: Sequence[str], task: Task = SINGLE_LABEL) -> None:
    """Raises ConfigError with every problem of the plan's heads, losses and regularisers, each named once."""
    found = []
    for phase in plan.phases:
        if isinstance(phase, GradientPhase):
            found += [*_unsuited(phase, task), *_problems(phase, plan, classes)]
        elif phase.solver not in ("auto", *task.solvers):
            fit = f"auto or {' or '.join(task.solvers)} where the task is {task.name}"
            found.append(must("probe.solver", fit, repr(phase.solver)))
    if found:
        raise ConfigError(join_problems(list(dict.fromkeys(found)), "the plan"))


def _unsuited(phase: GradientPhase, task: Task) -> Iterable[str]:
    """Keys that mean nothing for the task."""
    where = f"where the task is {task.name}"
    if phase.loss not in task.losses:
        yield must("train.loss", f"{' or '.join(task.losses)} {where}", repr(phase.loss))
    if task.plain:
        return
    if phase.sampling != "natural":
        yield must(
            "train.sampling", f"natural {where}", repr(phase.sampling), "Only classes can be balanced."
        )
    if phase.monitor == "accuracy":
        yield must("train.monitor", f"loss or score {where}", "'accuracy'")
    if task == REGRESSION and phase.class_weights != "none":
        yield must("train.class_weights", f"none {where}", repr(phase.class_weights))
    if task == REGRESSION and phase.label_smoothing:
        yield must("train.label_smoothing", f"0 {where}", phase.label_smoothing)


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
