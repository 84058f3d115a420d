"""`auto`: measure, find the cell, take its strategy."""

from __future__ import annotations

from dataclasses import replace
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
    """The plan of the strategy of that name, as auto carries it out: the head that is solved before finetuning takes
    the stages that separate best, unless the recipe says which. Raises ConfigError where there is none."""
    from finetune.strategy import STRATEGIES

    plan: Plan = STRATEGIES.get(name)().plan(with_best_stages(ctx))
    return plan


def with_best_stages(ctx: Context) -> Context:
    """The context with ``probe.stages=best`` where the recipe leaves it open.

    Tuning from the last stage alone was behind heads on several stages on most data (docs/regret.md), and the safety
    net can only fall back to the head that it began with.
    """
    if ctx.recipe.probe.stages is not None:
        return ctx
    probe = ctx.recipe.probe.model_copy(update={"stages": "best"})
    return replace(ctx, recipe=ctx.recipe.model_copy(update={"probe": probe}))
