"""The arms: what competes. Each is a plan for a context, and those that train have the same small grid of rates.

`auto` is no arm but the one who chooses; it is measured as a user would get it, at its own learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from finetune.errors import ConfigError, did_you_mean, must
from finetune.strategy import STRATEGIES
from finetune.strategy.auto import with_best_stages
from finetune.strategy.context import Context
from finetune.strategy.plan import GradientPhase, Plan

GRID: dict[str, float] = {"1": 1.0, "1/3": 1 / 3, "3": 3.0}
"""Multiples of an arm's own learning rates, as the CSV names them."""

NO_LR = "-"
"""In the place of a multiple where nothing is trained by gradient steps, and for auto."""

AUTO = "auto"

RACE = "auto, race "
"""What the name of auto with a time for a race begins with; the time follows."""

Kind = Literal["arm", "published", "no net"]


@dataclass(frozen=True)
class Arm:
    """One competitor."""

    name: str
    make: Callable[[Context], Plan]
    trains: bool
    """By gradient steps, so that it has learning rates."""
    kind: Kind = "arm"
    """``arm``: may be chosen, by auto and by the oracle. ``published``: a rival's schedule. ``no net``: an arm
    without its safety net, for the ablation."""

    @property
    def rates(self) -> tuple[str, ...]:
        """Multiples that it is measured at."""
        return tuple(GRID) if self.trains else (NO_LR,)


def _strategy(name: str) -> Callable[[Context], Plan]:
    def make(ctx: Context) -> Plan:
        plan: Plan = STRATEGIES.get(name)().plan(ctx)
        return plan

    return make


def plain_full(ctx: Context) -> Plan:
    """Everything at 1/10 of the source rate from a random head: finetuning as most tutorials have it."""
    from finetune.strategy.schedule import HEAD_FACTOR, gradient_phase

    full = next(p for p in _strategy("full")(ctx).phases if isinstance(p, GradientPhase))
    tune = gradient_phase(
        ctx,
        name="everything, no head first",
        train_from=0,
        regularise=full.label_smoothing > 0,
        norms=full.batch_norm,
        head_factor=HEAD_FACTOR,
    )
    tune = tune.model_copy(update={"keep": full.keep})
    return Plan(strategy="plain-full", phases=(tune,), why="Everything at once, the head from random.")


def without_net(plan: Plan) -> Plan:
    """The same plan, keeping the tuned weights whatever validation says."""
    return _with(plan, lambda phase: {"blend": ()})


def scaled(plan: Plan, rate: str) -> Plan:
    """All learning rates times a multiple of GRID; a plan without any is returned as it is."""
    factor = GRID.get(rate, 1.0)
    return _with(plan, lambda phase: {"lr": phase.lr * factor, "head_lr": phase.head_lr * factor})


def trains_again(plan: Plan) -> bool:
    """Whether the plan itself ends with a training on training and validation images together."""
    return any(isinstance(p, GradientPhase) and p.fit_on == "train+val" for p in plan.phases)


def refitted(plan: Plan) -> Plan:
    """The same plan on training and validation images together; nothing is left to choose on."""
    copied = _with(plan, lambda phase: {"fit_on": "train+val", "keep": "last", "blend": ()})
    phases = tuple(
        p if isinstance(p, GradientPhase) else p.model_copy(update={"fit_on": "train+val"})
        for p in copied.phases
    )
    return copied.model_copy(update={"phases": phases})


def _with(plan: Plan, change: Callable[[GradientPhase], dict[str, object]]) -> Plan:
    phases = tuple(p.model_copy(update=change(p)) if isinstance(p, GradientPhase) else p for p in plan.phases)
    return plan.model_copy(update={"phases": phases})


def _published(name: str) -> Callable[[Context], Plan]:
    def make(ctx: Context) -> Plan:
        from benchmarks.regret import published

        rules: dict[str, Callable[[Context], Plan]] = {
            "fastai": published.fastai,
            "bit-hyperrule": published.bit,
        }
        return rules[name](ctx)

    return make


def _best(name: str) -> Callable[[Context], Plan]:
    return lambda ctx: _strategy(name)(with_best_stages(ctx))


def _bare(name: str) -> Callable[[Context], Plan]:
    return lambda ctx: without_net(_strategy(name)(ctx))


NET = ", no net"
"""What the name of an arm without its safety net ends with."""

BEST = ", best stages"
"""What the name of an arm ends with whose first head takes the stages that separate best, as auto's does."""

_HEADS = ("linear", "multistage")
_TUNED = ("norm-bias", "partial", "lp-ft", "full")

ARMS: dict[str, Arm] = {
    **{name: Arm(name, _strategy(name), trains=False) for name in _HEADS},
    **{name: Arm(name, _strategy(name), trains=True) for name in _TUNED},
    **{name + BEST: Arm(name + BEST, _best(name), trains=True) for name in ("partial", "full")},
    "plain-full": Arm("plain-full", plain_full, trains=True),
    "scratch": Arm("scratch", _strategy("scratch"), trains=True),
    **{
        name: Arm(name, _published(name), trains=True, kind="published")
        for name in ("fastai", "bit-hyperrule")
    },
    **{name + NET: Arm(name + NET, _bare(name), trains=True, kind="no net") for name in _TUNED},
}
"""In the order in which they are measured, the cheap ones first."""


def choose_arms(names: Iterable[str] = ()) -> list[Arm]:
    """The named arms, or all; raises ConfigError for an unknown one.

    Any other registered strategy may be named too: it becomes an arm that trains.
    """
    wanted = list(names)
    known = [*ARMS, *(n for n in STRATEGIES.names() if n not in ARMS and n != AUTO)]
    for name in wanted:
        if name not in known:
            raise ConfigError(
                must("an arm", f"one of {', '.join(known)}", repr(name)) + did_you_mean(name, known)
            )
    return [ARMS.get(name) or Arm(name, _strategy(name), trains=True) for name in wanted or ARMS]
