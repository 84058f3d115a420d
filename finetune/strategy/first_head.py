"""The head that comes before tuning: solved where it is linear, trained alone where it has a hidden layer."""

from __future__ import annotations

from finetune.strategy.context import Context
from finetune.strategy.plan import GradientPhase, ProbePhase
from finetune.strategy.schedule import HEAD_FACTOR, gradient_phase, head_phase


def first_head(ctx: Context) -> ProbePhase | GradientPhase:
    """The LP of LP-FT (arXiv 2202.10054), for the kind of head that the recipe asks for.

    A bottleneck has no closed form: it trains by gradient steps on the frozen network's features, computed once,
    so without augmentation and mixing. What was chosen for it by validation images cannot be refitted without
    them, so plans that begin with it have no refit.
    """
    if ctx.train.head != "bottleneck":
        return head_phase(ctx)
    phase = gradient_phase(ctx, name="head first", train_from=ctx.num_stages, head_factor=HEAD_FACTOR)
    once = {
        "augment": "none",
        "mixup": 0.0,
        "cutmix": 0.0,
        "input_noise": 0.0,
        "l2_sp": 0.0,
        "drop_path": 0.0,
    }
    return phase.model_copy(update=once)
