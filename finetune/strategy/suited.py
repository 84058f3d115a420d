"""Whether a network can be trained the way a plan says, asked before anything is measured or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.strategy.plan import GradientPhase, Plan
from finetune.zoo.adapters import require, why_not

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.zoo.backbone import Backbone


def require_suited(plan: Plan, backbone: Backbone) -> None:
    """Raises TrainingError where the plan trains adapters and the network has no place for them."""
    for phase in plan.phases:
        if isinstance(phase, GradientPhase) and phase.trains == "lora":
            require(backbone, phase.train_from)


def unsuited(recipe: Recipe, backbone: Backbone) -> dict[str, str]:
    """Strategies that this network or recipe cannot have, each with the reason in a few words."""
    reason = why_not(backbone, min(1, backbone.num_stages - 1))
    if reason is None and recipe.train.l2_sp:
        reason = "not with train.l2_sp"
    return {} if reason is None else {"lora": reason}
