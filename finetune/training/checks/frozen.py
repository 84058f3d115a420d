"""Frozen means frozen: after a few training steps weights and running statistics that should rest have their bits."""

from __future__ import annotations

import itertools
import time

import torch
from torch import Tensor

from finetune.training.checks import Check, Scene, out_of_time, skipped
from finetune.training.job import Job
from finetune.training.loop import train_step
from finetune.training.trial import on_a_copy, steps_of

NAME = "frozen parts"
_STEPS = 2


def frozen(scene: Scene) -> Check:
    """Train a few micro-batches on a copy, at the phase's first rate, and compare every tensor."""
    job = scene.job
    if not scene.affords(_STEPS * job.phase.batch_size):
        return out_of_time(NAME, scene)
    with on_a_copy(job) as trial:
        before = {name: tensor.detach().clone() for name, tensor in trial.backbone.state_dict().items()}
        resting, stages = _resting(trial), _trained(trial)
        trial.backbone.train()
        trial.schedule_lr()
        for group in itertools.islice(steps_of(trial), _STEPS):
            began = time.perf_counter()
            train_step(trial, group[:1])
            scene.rate = len(group[0][1]) / max(1e-9, time.perf_counter() - began)  # the first one warms up
        after = trial.backbone.state_dict()
        changed = {name for name, tensor in before.items() if not _same(tensor, after[name])}
    moved = sorted(resting & changed)
    if moved:
        statistics = [name for name in moved if "running_" in name or "num_batches" in name]
        what, remedy = f"{len(moved)} tensors that should be frozen", "Keep them out of the optimizer."
        if statistics:
            what = f"{len(statistics)} running statistics of frozen norms"
            remedy = (
                "Frozen norms must stay in eval mode while the network trains (Backbone.train keeps them so)."
            )
        return Check(
            NAME, "failure", f"{what} changed in {_STEPS} steps ({(statistics or moved)[0]} ...).", remedy
        )
    still = [name for name, tensors in stages.items() if not tensors & changed]
    if still and job.engine.precision.dtype == "fp16":
        return skipped(
            NAME, f"{len(resting)} tensors kept their bits; the first steps in fp16 may be left out"
        )
    if still:
        return Check(NAME, "warning", f"{', '.join(still)} did not change in {_STEPS} steps, and should train.",
                     "Raise the learning rate (train.lr, train.stage_decay).")  # fmt: skip
    return Check(NAME, "ok", f"{len(resting)} tensors kept their bits, {len(stages)} groups moved")


def _trained(trial: Job) -> dict[str, set[str]]:
    """The names of the tensors that each group's optimizer moves."""
    names = {id(p): n for n, p in trial.backbone.named_parameters()}
    found: dict[str, set[str]] = {}
    for group in trial.optimizer.param_groups:
        found.setdefault(group["name"], set()).update(names[id(p)] for p in group["params"])
    return found


def _resting(trial: Job) -> set[str]:
    """Parameters that no group claims, and running statistics of norms that are frozen."""
    backbone, phase = trial.backbone, trial.phase
    claimed = set().union(*_trained(trial).values())
    names = {name for name, _ in backbone.named_parameters() if name not in claimed}
    all_frozen = phase.batch_norm == "frozen" or phase.batch_size == 1
    for name, module in backbone.model.named_modules():
        if getattr(module, "running_mean", None) is None:
            continue
        if all_frozen or backbone.stage_of(name) < phase.train_from:
            names |= {f"model.{name}.{leaf}" for leaf, _ in module.named_buffers(recurse=False)}
    return names & backbone.state_dict().keys()


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, numbers that are none included."""
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
