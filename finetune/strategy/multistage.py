"""`multistage`: where the source is far, earlier stages may say more than the last."""

from __future__ import annotations

from typing import final

from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.measure import pick_stages
from finetune.strategy.plan import Plan, ProbePhase


@final
class Multistage(Strategy):
    """A linear classifier on the stages of least cross-validated log-loss; the last alone is a candidate."""

    def plan(self, ctx: Context) -> Plan:
        """One probe phase over the last stage, the last two, and all picked ones."""
        probe = ctx.recipe.probe
        phase = ProbePhase(
            name="multi-stage probe", candidates=candidate_stages(ctx.num_stages), solver=probe.solver,
            combine=probe.combine, folds=probe.folds, fit_on=probe.fit_on,
            norms=probe.norms or "source",
        )  # fmt: skip
        return Plan(
            strategy="multistage",
            phases=(phase,),
            why="A linear classifier on the stages that separate the classes best.",
        )


def candidate_stages(num_stages: int) -> tuple[tuple[int, ...], ...]:
    """Sets of stages worth trying: the last alone first, then it with the one before and with all picked ones.

    Earlier stages without the last were tried too and left out: with 25 images a class and fewer they looked best out
    of fold by luck and were behind on the test by up to 14 points (docs/regret.md).

    >>> candidate_stages(5)
    ((4,), (3, 4), (1, 2, 3, 4))
    >>> candidate_stages(1)
    ((0,),)
    """
    picked = pick_stages(num_stages)
    return tuple(dict.fromkeys((picked[-1:], picked[-2:], picked)))
