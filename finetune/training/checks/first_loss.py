"""Before the first step the loss is that of guessing, or less where the head was solved already.

Guessing costs ln K nats of K classes, ln 2 a label, and of a standardised number its variance, 1. A fresh head may
begin as far from it as the objective's ``spread``: random weights on features of size 1 give logits that spread by
about 1.4, which costs up to 1 nat of classes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from finetune.training.checks import Check, Scene, Status, skipped
from finetune.training.trial import on_a_copy

NAME = "first loss"


@torch.no_grad()
def first_loss(scene: Scene) -> Check:
    """The plain loss on images as they are, in the mode that training computes in."""
    job, classes = scene.job, len(scene.images.classes)
    outputs = job.backbone.num_classes
    if outputs != classes:
        said = f"the head has {outputs} outputs for {classes} classes."
        return Check(NAME, "failure", said, "Give the head one output a class.")
    device = job.engine.device
    with on_a_copy(job) as trial:
        trial.backbone.train(scene.fresh)  # a solved head was solved on the network in eval mode
        with trial.engine.autocast():
            logits = trial.micro.logits(scene.pixels.to(device)).float().cpu()
    objective = job.feed.objective
    losses = objective.each_loss(logits, scene.labels)
    loss, chance, tolerance = float(losses.mean()), objective.chance, objective.spread
    if not math.isfinite(loss):
        return Check(NAME, "failure", f"the loss is {loss}; that of guessing is {objective.guessing}.",
                     "Look at the weights and the preprocessing; compute in fp32 (train.precision=fp32).")  # fmt: skip
    if len(losses) < 2 or bool((logits - logits[0]).abs().max() < 1e-6):
        return skipped(NAME, f"{loss:.2f}, but the network answers alike for all {len(losses)} images")
    doubt = 2 * float(losses.std()) / math.sqrt(len(losses))
    said = f"{loss:.2f} on {len(losses)} images, {objective.guessing}"
    if scene.fresh:
        if abs(loss - chance) <= tolerance + doubt:
            return Check(NAME, "ok", f"{said} (fresh head: within {tolerance:g})")
        spread = float(logits.std(1).mean() if logits.shape[1] > 1 else logits.std())
        said += f": a fresh head begins within {tolerance:g} of that; its logits spread by {spread:.1f}."
        remedy = "Solve the head first (strategy lp-ft, partial or full), or look at the preprocessing."
        return Check(NAME, "warning", said, remedy)
    if not isinstance(job.backbone.head, nn.Linear):  # its hidden layer may be new, its loss that of guessing
        chance += tolerance
    if loss - doubt <= chance:
        return Check(NAME, "ok", f"{said} (solved head: below)")
    status: Status = "failure" if loss - 2 * doubt > 2 * chance else "warning"
    return Check(NAME, status, f"{said}: a head that was solved on these images does better than guessing.",
                 "The order of the classes or the preprocessing differs between solving and training.")  # fmt: skip
