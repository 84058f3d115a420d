"""`partial`: finetune a few layers."""

from __future__ import annotations

from typing import final

from finetune.errors import StrategyError, must
from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import gradient_phase, head_phase


@final
class Partial(Strategy):
    """LP-FT of the last stage(s): the head is solved first, then both train; everything below is frozen."""

    def plan(self, ctx: Context) -> Plan:
        """``train.train_stages`` counts from the head; default 1. Raises StrategyError where fewer exist."""
        stages = ctx.train.train_stages or 1
        if stages > ctx.num_stages:
            raise StrategyError(
                must("train.train_stages", f"at most {ctx.num_stages} for {ctx.card.name}", stages)
            )
        tune = gradient_phase(ctx, name=f"last {stages} stage(s)", train_from=ctx.num_stages - stages)
        noun = "stage" if stages == 1 else f"{stages} stages"
        return Plan(
            strategy="partial",
            phases=(head_phase(ctx), tune),
            why=f"Head first, then the last {noun} with it.",
        )
