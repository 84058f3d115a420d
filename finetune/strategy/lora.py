"""`lora`: low-rank adapters beside the linear layers of a transformer."""

from __future__ import annotations

from typing import final

from finetune.solvers import kind
from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import gradient_phase
from finetune.strategy.tuned import tuned_plan

LR = 1e-3
"""Adam's usual rate for adapters: they start at zero and have no source learning rate to take a tenth of."""


@final
class Lora(Strategy):
    """LoRA (arXiv 2106.09685) of all stages but the stem. Merged at the end: the network costs no more to run.

    For vision transformers. Needs the package peft (``pip install 'finetune[lora]'``).
    """

    def plan(self, ctx: Context) -> Plan:
        """Head first, then the adapters, with AdamW and without weight decay."""
        asked = ctx.train
        tune = gradient_phase(ctx, name="adapters", train_from=min(1, ctx.last))
        changes: dict[str, object] = {"trains": "lora", "lora_rank": asked.lora_rank}
        if asked.optimizer is None:
            changes["optimizer"] = "adamw"
        if ctx.asked_lr is None:
            lr = LR * min(1.0, 100 / kind(asked.optimizer or "adamw").below_sgd)
            changes |= {"lr": lr, "head_lr": asked.head_lr or lr}
        if asked.weight_decay is None:
            changes["weight_decay"] = 0.0
        return tuned_plan(
            ctx,
            "lora",
            tune.model_copy(update=changes),
            "Head first, then low-rank adapters beside the linear layers.",
        )
