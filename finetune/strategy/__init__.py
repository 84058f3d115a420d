"""Strategies decide and never train: each turns a Context into a Plan. ``auto`` measures first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.registry import Registry

if TYPE_CHECKING:
    from finetune.strategy.base import Strategy

STRATEGIES: Registry[type[Strategy]] = Registry("strategy")
STRATEGIES.add(
    "auto", "finetune.strategy.auto:Auto", "look, probe, then take the cell of the table that fits"
)
STRATEGIES.add("linear", "finetune.strategy.linear:Linear", "linear classifier on the last stage")
STRATEGIES.add(
    "multistage", "finetune.strategy.multistage:Multistage", "linear classifier on the best stages"
)
STRATEGIES.add(
    "norm-bias", "finetune.strategy.norm_bias:NormBias", "head first, then norms and biases of all stages"
)
STRATEGIES.add("lora", "finetune.strategy.lora:Lora", "head first, then low-rank adapters (transformers)")
STRATEGIES.add("partial", "finetune.strategy.partial:Partial", "head first, then the last stage(s)")
STRATEGIES.add("lp-ft", "finetune.strategy.lp_ft:LpFt", "head first, then all but the stem")
STRATEGIES.add("full", "finetune.strategy.full:Full", "head first, then everything, the stem too")
STRATEGIES.add("scratch", "finetune.strategy.scratch:Scratch", "random weights: the honest baseline")
