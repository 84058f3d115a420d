"""A run up to the first step of its first gradient phase: the range test and the preflight, without a run folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from finetune import advice
from finetune.errors import Interrupted, StrategyError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.plan import GradientPhase

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.training.job import Job
    from finetune.training.lr_find import Found
    from finetune.training.plan_file import PlanLike
    from finetune.training.preflight import Report

T = TypeVar("T")


def find_lr(
    recipe: Recipe,
    data: DataBundle | None = None,
    plan: PlanLike | None = None,
    listener: Listener | None = None,
) -> Found:
    """The range test of the first phase that the recipe's strategy (or the given plan) trains by gradient steps.

    Phases before it, such as solving the head, are carried out. Nothing is written but cached features. Raises
    StrategyError where the plan trains nothing by gradient steps, else FinetuneError.
    """
    from finetune.training.lr_find import find_lr as test

    return _rehearse(recipe, data, plan, listener, "a learning rate", lambda job, images: test(job))


def preflight(
    recipe: Recipe,
    data: DataBundle | None = None,
    plan: PlanLike | None = None,
    listener: Listener | None = None,
) -> Report:
    """The preflight of that phase; what failed is in the report, nothing is raised for it. Raises as find_lr."""
    from finetune.training.preflight import preflight as check

    return _rehearse(recipe, data, plan, listener, "steps to check", check)


def _rehearse(
    recipe: Recipe,
    data: DataBundle | None,
    given: PlanLike | None,
    listener: Listener | None,
    what: str,
    act: Callable[[Job, ImageSet], T],
) -> T:
    from finetune.pipeline import starting_backbone
    from finetune.training.execute import execute

    listener = listener or Listener()
    setup = advice.set_up(recipe, data, listener, given)
    plan = setup.given[0] if setup.given else advice.decide(recipe, setup, listener).plan
    kinds = [isinstance(phase, GradientPhase) for phase in plan.phases]
    if not any(kinds):
        raise StrategyError(
            f"Strategy {plan.strategy} solves its head and trains nothing by gradient steps, so there is no {what}. "
            "Choose one that trains: --strategy partial, lp-ft or full."
        )
    shown = plan.model_copy(update={"phases": plan.phases[: kinds.index(True) + 1]})
    backbone = starting_backbone(plan, recipe, setup.bundle, setup.backbone)
    found: list[T] = []
    with tempfile.TemporaryDirectory(prefix="finetune-rehearsal-") as folder:
        try:
            execute(
                shown, backbone, setup.bundle, recipe, Path(folder), listener,
                rehearse=lambda job, images: found.append(act(job, images)),
            )  # fmt: skip
        except Interrupted:
            raise Interrupted("Stopped. Nothing was trained or written.") from None
    return found[0]
