"""`partial`: finetune a few layers."""

from __future__ import annotations

from typing import final

from finetune.errors import StrategyError, must
from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import gradient_phase
from finetune.strategy.tuned import tuned_plan


@final
class Partial(Strategy):
    """LP-FT of the last stage(s): the head is solved first, then both train; everything below is frozen."""

    def plan(self, ctx: Context) -> Plan:
        """``train.train_stages`` counts from the head; default: the last quarter of the stages, at least one.

        That is one stage of a ResNet and three blocks of a ViT. Raises StrategyError where fewer exist.
        """
        stages = ctx.train.train_stages or max(1, ctx.num_stages // 4)
        if stages > ctx.num_stages:
            raise StrategyError(
                must("train.train_stages", f"at most {ctx.num_stages} for {ctx.card.name}", stages)
            )
        noun = "stage" if stages == 1 else f"{stages} stages"
        tune = gradient_phase(ctx, name=f"last {noun}", train_from=ctx.num_stages - stages)
        return tuned_plan(ctx, "partial", tune, f"Head first, then the last {noun} with it.")
