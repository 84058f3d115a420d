"""Losses of gradient training: modules from (B, K) logits and targets to the mean over the images.

Targets are (B,) int64 classes or (B, K) float shares of the classes (mixup, CutMix). The mean is over the images
even where they have weights: dividing by the sum of a batch's weights, as torch's weighted cross-entropy does,
would make the step depend on which images share a batch, and accumulated batches differ from one large batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.errors import ConfigError, did_you_mean, must
from finetune.strategy.plan import GradientPhase
from finetune.training import LOSSES


def build_loss(phase: GradientPhase, labels: Tensor, classes: Sequence[str]) -> nn.Module:
    """The phase's loss, by its registered name, with class weights from the training labels, (N,) int64.

    Raises ConfigError for an unknown loss and for weights of a class that the data set has not.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    made: nn.Module = LOSSES.get(phase.loss)(phase, class_weights(phase.class_weights, counts, classes))
    return made


def class_weights(wanted: str | Mapping[str, float], counts: Tensor, classes: Sequence[str]) -> Tensor | None:
    """(K,) float32 weights of the classes, or None for none, from (K,) counts of training images.

    ``balanced`` is scikit-learn's ``n / (K n_k)`` over the classes that have images; ``sqrt`` is its square
    root, scaled so that the mean over the images is 1. A class without images has weight 1. Raises ConfigError
    where a mapping names a class that is not in ``classes``.

    >>> class_weights("balanced", torch.tensor([30, 10]), ["a", "b"]).tolist()
    [0.6666666865348816, 2.0]
    """
    if wanted == "none":
        return None
    if not isinstance(wanted, str):
        return named_weights(wanted, classes, "classes")
    present = counts > 0
    weights = torch.ones(len(classes), dtype=torch.float64)
    weights[present] = counts.sum() / (present.sum() * counts[present].double())
    if wanted == "sqrt":
        weights = weights.sqrt()
        weights[present] *= counts.sum() / (weights * counts).sum()
    return weights.float()


def named_weights(wanted: Mapping[str, float], names: Sequence[str], kind: str) -> Tensor:
    """(K,) float32, 1 for a name that the mapping leaves out.

    ``kind`` of names, for the ConfigError where the mapping has one that is not in ``names``.
    """
    unknown = [name for name in wanted if name not in names]
    if unknown:
        hints = "".join(did_you_mean(name, names) for name in unknown)
        raise ConfigError(
            must("train.class_weights", f"a mapping of {kind} in the data", ", ".join(unknown)) + hints
        )
    return torch.tensor([float(wanted.get(name, 1.0)) for name in names])


def shares(targets: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """(B,) classes or (B, K) shares -> (B, K) float32 shares, ``smoothing`` of them spread over all classes.

    >>> shares(torch.tensor([1]), 4, 0.2).tolist()
    [[0.05000000074505806, 0.8500000238418579, 0.05000000074505806, 0.05000000074505806]]
    """
    soft = F.one_hot(targets, classes).float() if targets.ndim == 1 else targets.float()
    return soft * (1 - smoothing) + smoothing / classes if smoothing else soft


def dominant(targets: Tensor) -> Tensor:
    """(B,) the class of the largest share; classes stay as they are."""
    return targets if targets.ndim == 1 else targets.argmax(1)


class CrossEntropy(nn.Module):
    """``-sum_k w_k t_k log p_k`` of each image, with smoothed targets t (arXiv 1512.00567, section 7)."""

    weights: Tensor

    def __init__(self, weights: Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        each = F.cross_entropy(
            logits, targets, self.weights, reduction="none", label_smoothing=self.smoothing
        )
        return each.mean()


class Focal(nn.Module):
    """``-sum_k w_k t_k (1 - p_k)^gamma log p_k`` of each image, p the softmax of the logits.

    Lin et al. 2017, https://arxiv.org/abs/1708.02002, for one class of many; torchvision's is that of
    independent yes-or-no classes. With gamma 0 it is cross-entropy.
    """

    weights: Tensor | None

    def __init__(self, gamma: float, weights: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        # 1 - p; kept off 0, where the power has no finite slope for gamma < 1.
        wrong = (-torch.expm1(log_p)).clamp_min(1e-8)
        terms = shares(targets, logits.shape[1], self.smoothing) * wrong.pow(self.gamma) * log_p
        return -(terms if self.weights is None else terms * self.weights).sum(1).mean()


class BinaryCrossEntropy(nn.Module):
    """``-sum_k w_k t_k log s_k + (1 - t_k) log(1 - s_k)`` of each image, s the sigmoid of the logits.

    timm's loss, summed over the classes so that the learning rate means what it does with cross-entropy; the
    weights are those of the yes (``pos_weight``). For one class of many: arXiv 2110.00476.
    """

    def __init__(self, weights: Tensor | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        from timm.loss.binary_cross_entropy import BinaryCrossEntropy as Timm

        self.smoothing = smoothing
        self.loss = Timm(smoothing=0.0, sum_classes=True, pos_weight=weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = self.loss(logits, shares(targets, logits.shape[1], self.smoothing))
        return value


def number_loss(phase: GradientPhase) -> nn.Module:
    """The phase's loss on standardised numbers, (B, 1) and (B, 1): mse, l1 or huber."""
    made: nn.Module = LOSSES.get(phase.loss)(phase, None)
    return made


def mse(phase: GradientPhase, weights: Tensor | None) -> nn.Module:
    """Squared error."""
    return nn.MSELoss()


def l1(phase: GradientPhase, weights: Tensor | None) -> nn.Module:
    """Absolute error."""
    return nn.L1Loss()


def huber(phase: GradientPhase, weights: Tensor | None) -> nn.Module:
    """Squared up to the phase's delta, absolute beyond (Huber 1964); with delta 1 torch's smooth L1."""
    return nn.HuberLoss(delta=phase.huber_delta)


def cross_entropy(phase: GradientPhase, weights: Tensor | None) -> nn.Module:
    """torch's own where images count alike."""
    if weights is None:
        return nn.CrossEntropyLoss(label_smoothing=phase.label_smoothing)
    return CrossEntropy(weights, phase.label_smoothing)


def focal(phase: GradientPhase, weights: Tensor | None) -> nn.Module:
    """Focal loss with the phase's gamma."""
    return Focal(phase.focal_gamma, weights, phase.label_smoothing)


def bce(phase: GradientPhase, weights: Tensor | None) -> nn.Module:
    """Binary cross-entropy over all classes."""
    return BinaryCrossEntropy(weights, phase.label_smoothing)
