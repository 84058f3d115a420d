"""Losses where an image has any number of labels: (B, K) logits and (B, K) shares of yes to the mean over the images.

They are summed over the labels, like ``bce`` of losses.py, so that learning rates mean what they do with classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.strategy.plan import GradientPhase
from finetune.training.losses import named_weights


def label_loss(phase: GradientPhase, targets: Tensor, classes: Sequence[str]) -> nn.Module:
    """``bce`` or ``focal`` by the phase, with the weights of a yes from (N, K) training targets. Raises ConfigError."""
    weights = yes_weights(phase.class_weights, targets, classes)
    gamma = phase.focal_gamma if phase.loss == "focal" else None
    return LabelLoss(weights, phase.label_smoothing, gamma)


def yes_weights(wanted: str | Mapping[str, float], targets: Tensor, classes: Sequence[str]) -> Tensor | None:
    """(K,) float32 weights of a yes (torch's ``pos_weight``), or None for none.

    ``balanced``: images without the label over images with it; ``sqrt``: the root of that; a label that all or no
    images have has weight 1. Raises ConfigError where a mapping names a label that is not in ``classes``.

    >>> yes_weights("balanced", torch.tensor([[1.0], [0.0], [0.0], [0.0]]), ["a"]).tolist()
    [3.0]
    """
    if wanted == "none":
        return None
    if not isinstance(wanted, str):
        return named_weights(wanted, classes, "labels")
    yes = targets.double().sum(0)
    no = len(targets) - yes
    weights = torch.where((yes > 0) & (no > 0), no / yes.clamp_min(1), 1.0)
    return (weights.sqrt() if wanted == "sqrt" else weights).float()


class LabelLoss(nn.Module):
    """Binary cross-entropy with logits; with ``gamma`` torchvision's sigmoid focal loss (arXiv 1708.02002).

    Smoothing s makes targets ``t (1 - s) + s / 2``. Weights count where the answer should be yes.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None, smoothing: float = 0.0, gamma: float | None = None) -> None:
        super().__init__()
        self.smoothing, self.gamma = smoothing, gamma
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        wanted = targets * (1 - self.smoothing) + self.smoothing / 2 if self.smoothing else targets
        if self.gamma is None:
            each = F.binary_cross_entropy_with_logits(
                logits, wanted, pos_weight=self.weights, reduction="none"
            )
            return each.sum(1).mean()
        from torchvision.ops import sigmoid_focal_loss

        focal: Tensor = sigmoid_focal_loss(logits, wanted, alpha=-1, gamma=self.gamma, reduction="none")
        if self.weights is not None:
            focal = focal * (1 + (self.weights - 1) * wanted)
        return focal.sum(1).mean()
