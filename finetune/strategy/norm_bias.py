"""`norm-bias`: only the scales and shifts of norms and the biases learn; every kernel stays."""

from __future__ import annotations

from typing import final

from finetune.solvers import kind
from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan
from finetune.strategy.schedule import gradient_phase
from finetune.strategy.tuned import tuned_plan

SGD_LR, ADAM_LR = 1e-2, 1e-3


@final
class NormBias(Strategy):
    """Few numbers in every stage: enough to shift what a network attends to, too few to learn by heart.

    For very different data and very few images. Biases alone: BitFit (arXiv 2106.10199); norms alone already
    train random networks (arXiv 2003.00152).
    """

    def plan(self, ctx: Context) -> Plan:
        """Head first, then the vectors of all stages, without weight decay."""
        tune = gradient_phase(ctx, name="norms and biases", train_from=0)
        changes: dict[str, object] = {"trains": "norms-biases"}
        if ctx.asked_lr is None:
            below = kind(tune.optimizer).below_sgd
            lr = SGD_LR if below == 1 else ADAM_LR * 100 / below
            changes |= {"lr": lr, "head_lr": ctx.train.head_lr or lr}
        if ctx.train.weight_decay is None:
            changes["weight_decay"] = 0.0
        return tuned_plan(
            ctx,
            "norm-bias",
            tune.model_copy(update=changes),
            "Head first, then the norms and biases of all stages.",
        )
