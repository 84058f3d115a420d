"""Optimizers over one parameter group per stage and kind of weight decay.

The LR of a stage is ``phase.lr * stage_decay ** distance`` with distance 0 for the last stage, 1 for the one
below it; the head has ``phase.head_lr``. Norms, biases and position embeddings get no weight decay: they are
few, and shrinking a scale or an offset towards 0 regularises nothing (https://arxiv.org/abs/1812.01187, 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from finetune.compiler import without_compiler
from finetune.errors import TrainingError
from finetune.solvers import OPTIMIZERS, is_decoupled
from finetune.strategy.plan import GradientPhase
from finetune.training.muon import kernels_apart
from finetune.training.optimizers import adam_settings

_NO_DECAY_NAMES = (
    "pos_embed",
    "cls_token",
    "reg_token",
    "dist_token",
    "mask_token",
    "relative_position_bias_table",
)


class Staged(Protocol):
    """What grouping needs of a backbone."""

    num_stages: int
    stage_names: tuple[str, ...]

    def stage_parameters(self, stage: int) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of one stage, input to head."""

    def head_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of the head."""


def param_groups(backbone: Staged, phase: GradientPhase) -> list[dict[str, Any]]:
    """Groups for torch.optim, head last, each with ``name``, ``peak`` LR and the ``names`` it claimed.

    Only parameters that require a gradient are taken. Raises TrainingError where none does or where one is
    claimed twice.
    """
    parts = [
        (
            f"stage {i} ({backbone.stage_names[i]})",
            backbone.stage_parameters(i),
            phase.lr * phase.stage_decay ** (backbone.num_stages - 1 - i),
        )
        for i in range(phase.train_from, backbone.num_stages)
    ]
    parts.append(("head", backbone.head_parameters(), phase.head_lr))
    body_decay = 0.0 if phase.l2_sp else phase.weight_decay  # L2-SP takes its place, see penalties.py
    groups: list[dict[str, Any]] = []
    claimed: dict[int, str] = {}
    for name, members, lr in parts:
        trained = [(n, p) for n, p in members if p.requires_grad]
        for n, p in trained:
            if id(p) in claimed:
                raise TrainingError(f"Parameter {n!r} of {name} is already claimed by {claimed[id(p)]}.")
            claimed[id(p)] = name
        for decay in (True, False):
            chosen = [(n, p) for n, p in trained if decays(n, p) is decay]
            if chosen:
                groups.append(
                    {
                        "name": name,
                        "params": [p for _, p in chosen],
                        "names": [n for n, _ in chosen],
                        "lr": lr,
                        "peak": lr,
                        "weight_decay": (phase.weight_decay if name == "head" else body_decay) * decay,
                        "decays": decay,
                    }
                )
    if not groups:
        raise TrainingError(
            f"Phase {phase.name!r} trains no parameter: train_from={phase.train_from} freezes "
            "every stage and the head is frozen too. Use a smaller train_from."
        )
    return kernels_apart(groups, phase) if phase.optimizer == "muon" else groups


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: matrices and kernels only."""
    leaf = name.rsplit(".", 1)[-1]
    return parameter.ndim > 1 and leaf != "bias" and leaf not in _NO_DECAY_NAMES


@without_compiler()
def build_optimizer(groups: list[dict[str, Any]], phase: GradientPhase) -> torch.optim.Optimizer:
    """The phase's optimizer, by its registered name. Raises ConfigError for an unknown one."""
    settings = [{k: v for k, v in group.items() if k not in ("names", "decays")} for group in groups]
    optimizer: torch.optim.Optimizer = OPTIMIZERS.get(phase.optimizer)(settings, phase)
    return optimizer


def sgd(groups: Iterable[dict[str, Any]], phase: GradientPhase) -> torch.optim.Optimizer:
    """SGD with classical or Nesterov momentum, L2 in the gradient or decoupled (timm's SGDW)."""
    settings: dict[str, Any] = {"momentum": phase.momentum, "nesterov": phase.nesterov and phase.momentum > 0}
    if not is_decoupled("sgd", phase.decoupled):
        return torch.optim.SGD(groups, lr=phase.lr, **settings)
    from timm.optim.sgdw import SGDW

    made: torch.optim.Optimizer = SGDW(groups, lr=phase.lr, **settings)
    return made


def adamw(groups: Iterable[dict[str, Any]], phase: GradientPhase) -> torch.optim.Optimizer:
    """AdamW, https://arxiv.org/abs/1711.05101."""
    return torch.optim.AdamW(groups, **adam_settings(phase))


def set_lr(optimizer: torch.optim.Optimizer, factor: float, progress: float = 0.0) -> None:
    """Give every group its peak LR times the schedule's factor, and the share of the schedule that is done."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
        if "progress" in group:
            group["progress"] = progress


def describe_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plain values for the run folder: which parameters, which LR, which weight decay."""
    return [
        {
            "name": g["name"],
            "lr": g["peak"],
            "weight_decay": g["weight_decay"],
            "parameters": sum(p.numel() for p in g["params"]),
            "tensors": list(g["names"]),
        }
        for g in groups
    ]


def summary_lines(described: list[dict[str, Any]]) -> list[str]:
    """One line a stage for the reader: how much trains at which LR."""
    lines: dict[str, tuple[int, float, float]] = {}
    for group in described:
        count, lr, decay = lines.get(group["name"], (0, group["lr"], 0.0))
        lines[group["name"]] = (count + group["parameters"], lr, max(decay, group["weight_decay"]))
    return [
        f"{name}: {count:,} parameters, lr {lr:.3g}, weight decay {decay:.3g} (norms and biases 0)"
        for name, (count, lr, decay) in lines.items()
    ]
