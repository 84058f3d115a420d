"""`auto`: measure, find the cell, take its strategy."""

from __future__ import annotations

from typing import final

from finetune.strategy.base import Strategy
from finetune.strategy.context import Context
from finetune.strategy.decision import Decision, decide, given
from finetune.strategy.plan import Plan


@final
class Auto(Strategy):
    """The only strategy that looks at the features before it plans."""

    def plan(self, ctx: Context) -> Plan:
        """The chosen strategy's plan; ``strategy`` in it is the chosen one's name."""
        return plan_of(ctx, self.decide(ctx).chosen)

    def decide(self, ctx: Context) -> Decision:
        """Measures (once) and decides. Raises StrategyError where nothing can be measured."""
        return decide(ctx.evidence)


def choose(ctx: Context) -> tuple[Plan, Decision]:
    """The plan and the decision behind it for the recipe's strategy, whichever it is.

    Raises ConfigError for an unknown strategy, StrategyError where it cannot be applied.
    """
    from finetune.strategy import STRATEGIES

    strategy = STRATEGIES.get(ctx.recipe.strategy)()
    if isinstance(strategy, Auto):
        decision = strategy.decide(ctx)
        return plan_of(ctx, decision.chosen), decision
    return strategy.plan(ctx), given(ctx, ctx.recipe.strategy)


def plan_of(ctx: Context, name: str) -> Plan:
    """The plan of the strategy of that name. Raises ConfigError where there is none."""
    from finetune.strategy import STRATEGIES

    plan: Plan = STRATEGIES.get(name)().plan(ctx)
    return plan
