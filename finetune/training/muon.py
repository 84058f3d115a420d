"""Muon: momentum whose matrix updates are made orthogonal, so that no direction of a layer learns late.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/). ``torch.optim.Muon`` takes no convolutions and
timm's computes in bfloat16, which a CPU without such units emulates. Here the Newton-Schulz iteration runs on
the Gram matrix: the same polynomial, and 2.4 times faster on a 512 x 4608 kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from finetune.strategy.plan import GradientPhase

KERNEL_SHARE = 0.4
"""Peak LR of the hidden kernels over that of the rest, as in our own pretraining (.08 and .2)."""

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with its singular values pulled to about 1 (0.7 to 1.2), by five Newton-Schulz steps.

    Every step is ``X <- (a I + b A + c A^2) X`` with ``A = X X^T``; the polynomials commute, so their product
    is formed on the small side and applied once.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    gram = wide @ wide.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(_STEPS):
        polynomial = torch.addmm(torch.add(a * identity, gram, alpha=b), gram, gram, alpha=c)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    result: Tensor = product @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


class Muon(torch.optim.Optimizer):
    """Muon for groups with ``orthogonal=True``, SGD with (Nesterov) momentum for the others.

    A kernel (O, I, H, W) is taken as a matrix (O, I*H*W), and a tall one moves by sqrt(O / (I*H*W)) more.
    Weight decay is decoupled (multiplied with the LR) in orthogonal groups, and added to the gradient in the
    others, as torch.optim.SGD does.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.9, nesterov: bool = True
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": 0.0, "orthogonal": False
        }  # fmt: skip
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient; the loss that ``closure`` computes anew, if one is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
        if decay and not group["orthogonal"]:
            gradient = gradient.add(parameter, alpha=decay)
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(momentum).add_(gradient)
        update = gradient.add(buffer, alpha=momentum) if group.get("nesterov", True) else buffer
        if group["orthogonal"]:
            parameter.mul_(1 - lr * decay)
            matrix = update.reshape(len(update), -1)
            update = orthogonal(matrix).reshape(update.shape)
            lr *= max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.add_(update, alpha=-lr)


def is_hidden_matrix(name: str, parameter: nn.Parameter, head: str) -> bool:
    """Whether Muon's step suits a parameter: a kernel between hidden layers.

    Not the first kernel (its inputs are pixels), not a depthwise one (its rows share no inputs), not the
    classifier ``head``.
    """
    kernel = parameter.ndim == 4 and parameter.shape[1] not in (1, 3)
    return kernel or (parameter.ndim == 2 and not name.startswith(head + "."))


def muon(groups: Iterable[dict[str, Any]], phase: GradientPhase) -> torch.optim.Optimizer:
    """Muon for the groups that ``kernels_apart`` marked, SGD for the others."""
    return Muon(groups, lr=phase.lr, momentum=phase.momentum, nesterov=phase.nesterov)


def kernels_apart(groups: list[dict[str, Any]], phase: GradientPhase) -> list[dict[str, Any]]:
    """The groups of a finetuning phase with the hidden kernels of each in a group of their own.

    Their peak is ``KERNEL_SHARE`` of the stage's, and their decoupled weight decay such that a step shrinks
    them as much as SGD's L2 would.
    """
    apart = []
    for group in groups:
        pairs = list(zip(group["names"], group["params"], strict=True))
        # Position tables are matrices too, and stand among the names that do not decay.
        hidden = [group["decays"] and is_hidden_matrix(name, parameter, "head") for name, parameter in pairs]
        for kernels in (True, False):
            chosen = [pair for pair, is_kernel in zip(pairs, hidden, strict=True) if is_kernel is kernels]
            if not chosen:
                continue
            made = {**group, "names": [n for n, _ in chosen], "params": [p for _, p in chosen]}
            if kernels:
                lr = group["peak"] * KERNEL_SHARE
                decay = group["weight_decay"] / (KERNEL_SHARE * (1 - phase.momentum))
                made |= {"orthogonal": True, "lr": lr, "peak": lr, "weight_decay": decay}
            apart.append(made)
    return apart
