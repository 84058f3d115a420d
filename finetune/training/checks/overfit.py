"""A handful of images can be learned by heart: what trains, trains, and the labels can be told apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from finetune.regularise import Regularisers
from finetune.strategy.plan import GradientPhase
from finetune.training.checks import Check, Scene, out_of_time, skipped
from finetune.training.job import Job
from finetune.training.loop import train_step
from finetune.training.micro_batch import split
from finetune.training.objectives import Objective
from finetune.training.trial import on_a_copy
from finetune.zoo.heads import Bottleneck

NAME = "overfitting"
IMAGES = 20
STEPS = 100
_LOOK = 5
"""Steps between two looks at the accuracy."""
_HEAD_LR, _BODY_LR = 1e-2, 1e-3
"""AdamW's, at most: whether the plan's own rates are good is not asked here."""


def overfit(scene: Scene) -> Check:
    """Train the phase's stages and a new head on 20 images, without augmentation or regularisers, to 100% of them.

    The head is a new one because a solved head has these images right before anything trains. A network of which
    little trains may not get there, which is a warning. It is a failure where identical images with different labels
    are among them: no network can tell those apart.
    """
    count = min(IMAGES, len(scene.labels))
    labels, pixels = scene.labels[:count], scene.pixels[:count]
    if bool((labels == labels[0]).all()):
        what = "of one class" if scene.job.feed.objective.task.plain else "alike in what is learned"
        return skipped(NAME, f"the {count} images that were drawn are {what}")
    if not scene.affords(2 * _LOOK * count):
        return out_of_time(NAME, scene)
    with on_a_copy(scene.job, _plain(scene)) as trial:
        _renew(trial.backbone.head)
        right, steps, loss = _learn(scene, trial, pixels, labels)
        numbers = sum(p.numel() for g in trial.optimizer.param_groups for p in g["params"])
    if right == count:
        return Check(NAME, "ok", f"all {count} images right after {steps} steps")
    said = f"{right} of {count} images right after {steps} steps"
    conflicts = label_conflicts(scene, count)
    if conflicts:
        shown = "; ".join(conflicts[:3]) + (" ..." if len(conflicts) > 3 else "")
        return Check(NAME, "failure", f"{said}: identical images have different labels ({shown}).",
                     "Keep one label each, and delete the other copies.")  # fmt: skip
    if not math.isfinite(loss):
        return Check(NAME, "warning", f"{said}, then the loss was no number.",
                     "Compute in fp32 (train.precision=fp32), clip gradients (train.clip_grad=1).")  # fmt: skip
    if steps < STEPS and not scene.affords(_LOOK * count):
        return skipped(NAME, f"{said}, when the time for checks was over")
    return Check(NAME, "warning", f"{said}, loss {loss:.2f}, with {numbers:,} numbers that train.",
                 "Train more of the network (train.train_stages, strategy full), or look at the labels.")  # fmt: skip


def _plain(scene: Scene) -> GradientPhase:
    off = {name: field.default for name, field in Regularisers.model_fields.items()}
    return scene.job.phase.model_copy(update={**off, "ema": None, "label_smoothing": 0.0, "accumulate": 1})


@torch.no_grad()
def _renew(head: nn.Module) -> None:
    """Forget what the head knows: it answers 0 for every image, whatever its features are. A hidden layer is drawn
    anew, for nothing gets through two layers of zeros. In place, since the optimizer has these parameters."""
    last = head.classify if isinstance(head, Bottleneck) else head
    if isinstance(head, Bottleneck):
        nn.init.kaiming_normal_(head.reduce.weight, nonlinearity="relu")
        nn.init.zeros_(head.reduce.bias)
    for parameter in last.parameters():
        parameter.zero_()


def _learn(scene: Scene, trial: Job, pixels: Tensor, labels: Tensor) -> tuple[int, int, float]:
    """(images right, steps taken, last loss)."""
    device, backbone = trial.engine.device, trial.backbone
    with trial.engine.autocast():
        inputs, labels = _entering(trial, pixels.to(device)), labels.to(device)
    share = _HEAD_LR / trial.phase.head_lr
    groups = [
        {"params": g["params"], "lr": min(share * g["peak"], _HEAD_LR if g["name"] == "head" else _BODY_LR)}
        for g in trial.optimizer.param_groups
    ]
    trial.criterion = _Plain(trial.feed.objective)
    trial.engine.prepare(torch.optim.AdamW(groups, weight_decay=0.0))
    backbone.train()
    for module in backbone.modules():  # dropout and its kin off, norms as in training
        if getattr(module, "running_mean", None) is None:
            module.training = False
    steps, loss = 0, 0.0
    right = _right(trial, inputs, labels)
    while right < len(labels) and steps < STEPS and scene.affords(_LOOK * len(labels)):
        for _ in range(_LOOK):
            loss = float(train_step(trial, [(inputs, labels)]))
            steps += 1
        if not math.isfinite(loss):
            break
        right = _right(trial, inputs, labels)
    return right, steps, loss


def _entering(trial: Job, pixels: Tensor) -> Tensor:
    """What the frozen part makes of the images, once for all steps."""

    def work() -> Tensor:
        return torch.cat([trial.feed.entering(part) for part in split(pixels, trial.micro.size)])

    return trial.micro.fitted(work, len(pixels))


@torch.no_grad()
def _right(trial: Job, inputs: Tensor, labels: Tensor) -> int:
    with trial.engine.autocast():
        return int(trial.feed.objective.right(trial.micro.logits(inputs).float(), labels).sum())


class _Plain(nn.Module):
    """The objective's plain loss as a criterion."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.objective.loss(outputs, targets)


def label_conflicts(scene: Scene, count: int) -> list[str]:
    """``a.png (cat) = b.png (dog)`` for each image of the drawn ones that another label has too."""
    images = scene.images
    drawn: dict[bytes, int] = {}
    found = []
    for row in range(count):
        index = scene.chosen[row]
        first = drawn.setdefault(scene.pixels[row].numpy().tobytes(), index)
        if images.truth(first) != images.truth(index):
            found.append(
                f"{images.name(first)} ({images.truth(first)}) = {images.name(index)} ({images.truth(index)})"
            )
    return found
