"""`lp-ft`: finetune a larger number of layers, all but the stem."""

from __future__ import annotations

from typing import final

from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import batches, gradient_phase
from finetune.strategy.tuned import tuned_plan

EARLY_STAGE_SHARE = 0.25
"""Learning rate of the earliest trained stage over that of the last."""


@final
class LpFt(Strategy):
    """Linear probing, then finetuning (arXiv 2202.10054) of all but the stem, slower towards the input.

    The head that was solved first keeps the early gradients small, so the features are not torn up while
    the head is still random. The stem (edges and colours) serves every task and stays.
    """

    def plan(self, ctx: Context) -> Plan:
        """Head first, then stages 1 and up."""
        enough = ctx.n_train >= 2000 and batches(ctx.train, ctx.n_train)[0] >= 32
        tune = gradient_phase(
            ctx, name="all but the stem", train_from=min(1, ctx.last), decay_over_depth=EARLY_STAGE_SHARE,
            regularise=ctx.n_train >= 1500, norms="train" if enough else "frozen",
        )  # fmt: skip
        return tuned_plan(ctx, "lp-ft", tune, "Head first, then all stages but the stem.")
