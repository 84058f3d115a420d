"""One backward pass: gradients reach every stage that trains, and no parameter that is frozen."""

from __future__ import annotations

import time

import torch

from finetune.training.checks import Check, Scene, skipped
from finetune.training.job import Job
from finetune.training.loop import backward, train_step
from finetune.training.trial import on_a_copy

NAME = "gradients"
_STEPS = 2
"""A stage whose gradients are exactly 0 may only wait for another's first step, as behind a scale of 0 does."""


def gradients(scene: Scene) -> Check:
    """Of each stage at least one parameter needs a gradient that is neither missing nor 0; all must be finite."""
    with on_a_copy(scene.job) as trial:
        batch = _batch(scene, trial)
        began = time.perf_counter()
        silent, leaks, broken, stages = _backward(trial, batch)
        scene.rate = len(batch[1]) / max(1e-9, time.perf_counter() - began)
        if silent and not broken:
            for _ in range(_STEPS):
                trial.engine.clear()
                train_step(trial, [batch])
            trial.engine.clear()
            silent = [name for name in _backward(trial, batch)[0] if name in silent]
        alike = _answers_alike(trial, batch[0])
    if leaks:
        said = f"{len(leaks)} frozen parameters get gradients ({leaks[0]} ...)."
        remedy = "Freeze them (requires_grad_(False)) or train them (a smaller train_from in the plan)."
        return Check(NAME, "failure", said, remedy)
    if broken and scene.job.engine.precision.dtype == "fp16":
        return skipped(NAME, "not finite at the first loss scale of fp16, which falls by itself")
    if broken:
        return Check(NAME, "failure", f"not finite in {', '.join(broken)}.",
                     "Compute in fp32 (train.precision=fp32), look at the weights and the preprocessing.")  # fmt: skip
    if silent and alike:
        return skipped(
            NAME, "the network answers alike for all images, so there is nothing to learn from them"
        )
    if silent:
        return Check(NAME, "failure", f"none reaches {', '.join(silent)}, which should train.",
                     "Something detaches the graph there; freeze what should not train "
                     "(train.train_stages, train_from in the plan).")  # fmt: skip
    return Check(NAME, "ok", f"reach all {stages} groups that train and nothing that is frozen")


def _batch(scene: Scene, trial: Job) -> tuple[torch.Tensor, torch.Tensor]:
    count = min(len(scene.labels), max(2, trial.phase.batch_size), 20)
    device = trial.engine.device
    return scene.pixels[:count].to(device), scene.labels[:count].to(device)


def _backward(
    trial: Job, batch: tuple[torch.Tensor, torch.Tensor]
) -> tuple[list[str], list[str], list[str], int]:
    """(stages without a gradient, frozen parameters with one, stages with one that is not finite, all stages)."""
    trial.backbone.train()
    trial.micro.fitted(lambda: backward(trial, [batch], len(batch[1])), len(batch[1]))
    reached: dict[str, bool] = {}
    broken: list[str] = []
    claimed = set()
    for group in trial.optimizer.param_groups:
        name = group["name"]
        for parameter in group["params"]:
            claimed.add(id(parameter))
            gradient = parameter.grad
            alive = gradient is not None and bool((gradient != 0).any())
            reached[name] = reached.get(name, False) or alive
            if gradient is not None and name not in broken and not bool(torch.isfinite(gradient).all()):
                broken.append(name)
    leaks = [n for n, p in trial.backbone.named_parameters() if id(p) not in claimed and p.grad is not None]
    return [name for name, alive in reached.items() if not alive], leaks, broken, len(reached)


@torch.no_grad()
def _answers_alike(trial: Job, pixels: torch.Tensor) -> bool:
    with trial.engine.autocast():
        logits = trial.micro.logits(pixels).float()
    return bool((logits - logits[0]).abs().max() < 1e-6)
