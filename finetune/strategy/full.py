"""`full`: everything trains, the stem too, all stages at one learning rate."""

from __future__ import annotations

from typing import final

from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import batches, gradient_phase
from finetune.strategy.tuned import tuned_plan


@final
class Full(Strategy):
    """The head first, then every stage at 1/10 of the source learning rate, without layer-wise decay.

    Differs from `lp-ft` in two ways: the stem trains, and early stages move as fast as late ones. That suits
    images whose very edges and colours are new (other sensors, drawings), and needs more data.
    """

    def plan(self, ctx: Context) -> Plan:
        """Head first, then stages 0 and up."""
        enough = ctx.n_train >= 2000 and batches(ctx.train, ctx.n_train)[0] >= 32
        tune = gradient_phase(
            ctx,
            name="everything",
            train_from=0,
            regularise=ctx.n_train >= 1500,
            norms="train" if enough else "frozen",
        )
        return tuned_plan(ctx, "full", tune, "Head first, then every stage, the stem too.")
