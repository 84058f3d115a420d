"""What every strategy that finetunes has in common: head first, tune, safety net, and a refit for few images."""

from __future__ import annotations

from typing import Any

from finetune.strategy.context import Context
from finetune.strategy.first_head import first_head
from finetune.strategy.plan import GradientPhase, Phase, Plan, ProbePhase

BLEND = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the safety net looks between the head alone and the tuned network."""

FEW_TO_VALIDATE = 500
"""With fewer validation images the last epoch is kept: the best of many epochs on few images is the luckiest."""

REFIT_BELOW = 1500
"""With fewer images in all, those held out for validation are worth a second training on all of them."""


def tuned_plan(ctx: Context, strategy: str, tune: GradientPhase, why: str) -> Plan:
    """LP-FT (arXiv 2202.10054) with this project's ending.

    The head is solved (one with a hidden layer trained), then ``tune`` runs; the safety net keeps a point between the
    two that validation finds likely. Where images are few all of it is done once more on training and validation
    images together, and the point that was chosen before is taken: nothing is left to choose it on.
    """
    head = first_head(ctx)
    few = ctx.n_val < FEW_TO_VALIDATE
    tune = tune.model_copy(
        update={
            "keep": ctx.train.keep or ("last" if few else tune.keep),
            "blend": BLEND if ctx.train.safety_net and ctx.n_val and not tune.snapshots else (),
        }
    )
    phases: tuple[Phase, ...] = (head, tune)
    if refits(ctx) and isinstance(head, ProbePhase):
        both = {"fit_on": "train+val"}
        again: dict[str, Any] = {
            "name": f"{tune.name}, refit",
            "keep": "last",
            "blend": "earlier" if tune.blend else (),
        }
        if tune.patience is not None or tune.stop_at is not None:
            again |= {"patience": "earlier", "stop_at": None}
        if tune.time is not None:  # what an image takes is the same in both
            share = ctx.n_train / (2 * ctx.n_train + ctx.n_val)
            again |= {"time": tune.time * (1 - share)}
            phases = (head, tune.model_copy(update={"time": tune.time * share}))
        phases += (
            head.model_copy(update={**both, "name": "head first, refit", "restart": True}),
            tune.model_copy(update={**both, **again}),
        )
    return Plan(strategy=strategy, phases=phases, why=why)


def refits(ctx: Context) -> bool:
    """Whether the recipe, or for want of a word the number of images, asks for the second training."""
    if ctx.n_val == 0:
        return False
    asked = ctx.train.refit
    return ctx.n_train + ctx.n_val < REFIT_BELOW if asked == "auto" else asked
