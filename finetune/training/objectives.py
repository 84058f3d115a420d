"""What a task is to the training: its targets, losses and scores. The loop asks for them and never which it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.features.outputs import image_f1, label_losses, standardisation
from finetune.features.temperature import fit_temperature
from finetune.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from finetune.training.label_losses import label_loss
from finetune.training.losses import build_loss, dominant, number_loss
from finetune.zoo.heads import Bottleneck

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet
    from finetune.strategy.plan import GradientPhase
    from finetune.zoo.backbone import Backbone


class Objective(ABC):
    """One task on one set of training images. Outputs of the network are (B, K), targets (B,) or (B, K)."""

    task: Task
    guessing: str
    """The loss of answers that do not look at the image, in words."""
    chance: float
    """The same as a figure."""
    spread: float
    """How far from it the loss may lie where the head has random weights, whose outputs spread by about 1.4."""

    @property
    def score(self) -> str:
        """What the score of an image is called: 1 is perfect, higher is better."""
        return self.task.score

    def targets(self, images: ImageSet) -> Tensor:
        """What is learned about some images."""
        return torch.as_tensor(images.targets)

    @abstractmethod
    def criterion(self, phase: GradientPhase, targets: Tensor, classes: Sequence[str]) -> nn.Module:
        """The phase's loss: a module from outputs and targets to the mean over the images. Raises ConfigError."""

    @abstractmethod
    def each_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) plain loss of each image, not weighted or smoothed: what is measured on validation images."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of that."""
        return self.each_loss(outputs, targets).mean()

    @abstractmethod
    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) score of each image."""

    def contradicted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) whether the network is surer of another answer than of all others together, the right one too. NaN where
        that cannot be said."""
        return torch.full((len(outputs),), math.nan, device=outputs.device)

    @abstractmethod
    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(B,) whether an answer is as good as right: what a network that learned images by heart gives."""

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Loss and score by which whole networks are compared (blend.py), on the CPU."""
        return float(self.loss(outputs, targets)), float(self.scores(outputs, targets).mean())

    def surprise(self, loss: float, images: int) -> float:
        """Negative log-likelihood, in nats, of the targets of so many images of which ``judge`` gave this mean loss;
        constants are left out."""
        return images * loss

    def enter(self, backbone: Backbone) -> None:  # noqa: B027 - a head mostly trains as it is
        """A solved head, before it is trained on."""

    def leave(self, backbone: Backbone) -> None:  # noqa: B027
        """The inverse: the head as it answers outside of the training."""


@final
class Classes(Objective):
    """One class of several: cross-entropy in nats, accuracy."""

    task = SINGLE_LABEL
    spread = 1.0

    def __init__(self, classes: int = 2) -> None:
        self.chance = math.log(max(2, classes))
        self.guessing = f"ln {classes} = {self.chance:.2f}"

    def criterion(self, phase: GradientPhase, targets: Tensor, classes: Sequence[str]) -> nn.Module:
        return build_loss(phase, targets, classes)

    def each_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.argmax(1) == dominant(targets)

    def contradicted(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim > 1:  # mixed images have no one label
            return super().contradicted(outputs, targets)
        share, answer = outputs.float().softmax(1).max(1)
        return (share > 0.5) & (answer != targets)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.scores(outputs, targets)

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """At the temperature that suits the network best: training makes networks sure of themselves, and how sure
        they are must not decide which one is right more often."""
        logits, labels = outputs.numpy().astype(np.float64), targets.numpy()
        _, losses = fit_temperature(logits, labels)
        return float(losses.mean()), float((logits.argmax(1) == labels).mean())


@final
class Labels(Objective):
    """Any number of labels: binary cross-entropy summed over the labels, in nats; F1 of an image's labels."""

    task = MULTI_LABEL

    def __init__(self, labels: int) -> None:
        self.chance, self.spread = labels * math.log(2), 0.5 * labels
        self.guessing = f"{labels} ln 2 = {self.chance:.2f}"

    def criterion(self, phase: GradientPhase, targets: Tensor, classes: Sequence[str]) -> nn.Module:
        return label_loss(phase, targets, classes)

    def each_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        yes, truth = outputs > 0, targets > 0.5
        both, sizes = (yes & truth).sum(1), yes.sum(1) + truth.sum(1)
        return torch.where(sizes > 0, 2 * both / sizes.clamp_min(1), 1.0)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs > 0) == (targets > 0.5)).all(1)

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
        logits, truth = outputs.numpy().astype(np.float64), targets.numpy()
        return float(label_losses(logits, truth).mean()), float(image_f1(logits > 0, truth).mean())


@final
class Numbers(Objective):
    """A number: squared error, and the share of the variance that is explained.

    Inside the training the number is standardised by its training images: a head that was solved is brought to that
    scale on entering and back on leaving, so that rates and losses mean the same whatever the unit is.
    """

    task = REGRESSION
    chance, spread, guessing = 1.0, 3.0, "the variance 1"

    def __init__(self, images: ImageSet) -> None:
        self.mean, self.deviation = standardisation(images.targets)

    def targets(self, images: ImageSet) -> Tensor:
        return torch.as_tensor(((images.targets - self.mean) / self.deviation).astype(np.float32))

    def criterion(self, phase: GradientPhase, targets: Tensor, classes: Sequence[str]) -> nn.Module:
        return number_loss(phase)

    def each_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(1)

    def surprise(self, loss: float, images: int) -> float:
        return images / 2 * math.log(max(loss, 1e-12))  # of a normal distribution as wide as the errors

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 1 - self.each_loss(outputs, targets)

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets).abs() < 0.25).all(1)

    def enter(self, backbone: Backbone) -> None:
        _rescale(backbone, 1 / self.deviation, -self.mean / self.deviation)

    def leave(self, backbone: Backbone) -> None:
        _rescale(backbone, self.deviation, self.mean)


def objective_of(images: ImageSet) -> Objective:
    """The objective of training on these images."""
    made: dict[str, type[Classes] | type[Labels]] = {"single-label": Classes, "multi-label": Labels}
    kind = made.get(images.task.name)
    return Numbers(images) if kind is None else kind(len(images.classes))


@torch.no_grad()
def _rescale(backbone: Backbone, factor: np.ndarray, shift: np.ndarray) -> None:
    """Outputs y become ``factor * y + shift``, both (K,), in double precision."""
    last = backbone.head.classify if isinstance(backbone.head, Bottleneck) else backbone.head
    for tensor, offset in ((last.weight, None), (last.bias, shift)):
        scale = factor[:, None] if offset is None else factor
        wide = tensor.detach().cpu().numpy().astype(np.float64) * scale + (0 if offset is None else offset)
        tensor.copy_(torch.as_tensor(wide).to(tensor.dtype))
