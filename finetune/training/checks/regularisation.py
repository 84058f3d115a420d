"""Weight decay is wired: cranked up, it raises the loss and shrinks what it should, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.compiler import without_compiler
from finetune.training.checks import Check, Scene, skipped
from finetune.training.optim import decays
from finetune.training.trial import on_a_copy

NAME = "regularisation"
STRONG = 1.0
"""Weight decay of the check: thousands of times a usual one."""
_RATE = 1e-4


def regularisation(scene: Scene) -> Check:
    """The phase's own groups and optimizer with a weight decay of 1 and no gradient: one step.

    The loss that they stand for, ``loss + decay / 2 * |w|^2``, must exceed the loss.
    """
    phase = scene.job.phase
    # L2-SP stands in for weight decay in the body, and is 0 before the first step.
    strong = {"weight_decay": STRONG, "l1": STRONG if phase.l1 else 0.0, "l2_sp": 0.0}
    with on_a_copy(scene.job, phase.model_copy(update=strong)) as trial:
        groups = trial.optimizer.param_groups
        for group in groups:
            group["lr"] = _RATE  # whether the plan's own rates are large enough is not asked here
        wanted = {id(p) for n, p in trial.backbone.named_parameters() if p.requires_grad and decays(n, p)}
        decayed = [p for group in groups if group["weight_decay"] > 0 for p in group["params"]]
        spared = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
        if not wanted:
            return skipped(NAME, "nothing that trains is subject to weight decay")
        with torch.no_grad(), trial.engine.autocast():
            trial.backbone.eval()
            logits = trial.micro.logits(scene.pixels.to(trial.engine.device)).float()
            loss = float(trial.feed.objective.loss(logits, scene.labels.to(logits.device)))
        total = loss + STRONG / 2 * sum(_norm(p) for p in decayed)
        total += trial.penalty.value()
        missed = len(wanted - {id(p) for p in decayed})
        before = sum(_norm(p) for p in decayed)
        kept = [p.detach().clone() for p in spared]
        for p in [*decayed, *spared]:
            p.grad = torch.zeros_like(p)
        try:
            with without_compiler():
                trial.optimizer.step()
        except (TypeError, RuntimeError) as error:
            why = f"the optimizer {trial.phase.optimizer} steps on its own terms only"
            return skipped(NAME, f"{why} ({type(error).__name__})")
        after = sum(_norm(p) for p in decayed)
        moved = sum(not torch.equal(p.detach(), k) for p, k in zip(spared, kept, strict=True))
    said = f"weight decay {STRONG:g} takes the loss from {loss:.2f} to {total:.3g}"
    if missed or not total > loss or not after < before:
        said += (
            f" and |w|^2 from {before:.4g} to {after:.4g}; {missed} of {len(wanted)} matrices are left out."
        )
        remedy = f"train.weight_decay does not work with train.optimizer={scene.job.phase.optimizer}; choose another."
        return Check(NAME, "failure", said, remedy)
    if moved:
        said += f", but one step moves {moved} norms or biases too, which it should spare."
        return Check(NAME, "warning", said, "Choose another train.optimizer.")
    return Check(NAME, "ok", f"{said} and shrinks {len(decayed)} tensors")


def _norm(parameter: Tensor) -> float:
    """``|w|^2``, exact enough to see a step of 1e-4; MPS has no float64."""
    return float(parameter.detach().cpu().double().square().sum())
