"""`scratch`: what the data could do without any pretraining."""

from __future__ import annotations

from typing import final

from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import gradient_phase


@final
class Scratch(Strategy):
    """Random weights, every stage at the source learning rate, twice as long as finetuning."""

    def plan(self, ctx: Context) -> Plan:
        """One gradient phase; batch norms learn their statistics, for there are none to keep."""
        tune = gradient_phase(
            ctx,
            name="from scratch",
            train_from=0,
            lr_factor=1.0,
            epochs_factor=2.0,
            regularise=True,
            from_random=True,
            norms="train",
        )
        return Plan(
            strategy="scratch",
            init="random",
            phases=(tune,),
            why="The baseline: no pretrained weights at all.",
        )
