"""`linear`: the top layer of the pretrained network is a fixed feature extractor."""

from __future__ import annotations

from typing import final

from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.plan import Plan, ProbePhase


@final
class Linear(Strategy):
    """A linear classifier on the last stage, solved on cached features. Nothing of the backbone trains."""

    def plan(self, ctx: Context) -> Plan:
        """One probe phase; validation images help to fit it, for lambda is cross-validated."""
        probe = ctx.recipe.probe
        phase = ProbePhase(
            candidates=((ctx.last,),),
            solver=probe.solver,
            combine=probe.combine,
            folds=probe.folds,
            fit_on=probe.fit_on,
            norms=probe.norms or "source",
        )
        return Plan(
            strategy="linear",
            phases=(phase,),
            why="A linear classifier on the last stage; nothing below it moves.",
        )
