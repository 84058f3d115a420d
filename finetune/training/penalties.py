"""Penalties on the weights beside weight decay: L1, and L2 to the weights that training began from (L2-SP).

``l1 * sum |w| + l2_sp / 2 * sum (w - w0)^2``, over matrices and kernels only, as weight decay. Their slope is
added to the gradient once a step, before clipping, which is what adding the penalty to the loss would do. L2-SP:
Li et al. 2018, https://arxiv.org/abs/1802.01483; the head, which has no w0, keeps plain weight decay there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import TrainingError
from finetune.strategy.plan import GradientPhase
from finetune.training.optim import decays


class Penalty:
    """The penalties of one phase, on the parameters that its groups train.

    ``reference`` holds the pretrained weights of the body by the names of the groups. Raises TrainingError
    where L2-SP finds none of the trained weights in it.
    """

    def __init__(
        self, groups: list[dict[str, Any]], phase: GradientPhase, reference: Mapping[str, Tensor]
    ) -> None:
        self.l1, self.l2_sp = phase.l1, phase.l2_sp
        named = [
            (name, parameter)
            for group in groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
            if decays(name, parameter)
        ]
        self._weights: list[nn.Parameter] = [p for _, p in named] if phase.l1 else []
        self._held: list[tuple[nn.Parameter, Tensor]] = [
            (p, reference[name].to(p.device, p.dtype))
            for name, p in named
            if phase.l2_sp and name in reference
        ]
        if phase.l2_sp and not self._held:
            raise TrainingError(
                f"train.l2_sp must have pretrained weights that phase {phase.name!r} trains. Got none instead. "
                "Train more of the body (strategy partial, lp-ft or full), or use train.weight_decay."
            )

    @torch.no_grad()
    def value(self) -> float:
        """What the penalties add to the loss."""
        total = sum((float(w.abs().sum()) for w in self._weights), 0.0) * self.l1
        return total + self.l2_sp / 2 * sum(
            (float((w - start).square().sum()) for w, start in self._held), 0.0
        )

    @torch.no_grad()
    def add_gradients(self, scale: float = 1.0) -> None:
        """Add ``scale`` times the slope to each parameter's gradient; nothing where nothing is penalised."""
        for weight in self._weights:
            _add(weight, torch.sign(weight), self.l1 * scale)
        for weight, start in self._held:
            _add(weight, weight - start, self.l2_sp * scale)

    def __bool__(self) -> bool:
        return bool(self._weights or self._held)


def _add(weight: nn.Parameter, slope: Tensor, factor: float) -> None:
    if weight.grad is None:
        weight.grad = slope.mul_(factor)
    else:
        weight.grad.add_(slope.to(weight.grad.dtype), alpha=factor)
