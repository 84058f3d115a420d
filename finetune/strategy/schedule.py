"""Defaults of the gradient phases: how long, how fast, how regularised. Recipe keys override every one."""

from __future__ import annotations

import math
from typing import Literal

from finetune.augment import where
from finetune.data.policies import policy_name
from finetune.errors import ConfigError, must
from finetune.recipe import TrainRecipe
from finetune.regularise import Regularisers
from finetune.solvers import (
    RISES_BY_ITSELF,
    default_weight_decay,
    missing_package,
    optimizer_problems,
    translated_lr,
)
from finetune.strategy.context import Context
from finetune.strategy.plan import GradientPhase, ProbePhase

HEAD_FACTOR = 10.0
"""A head from random weights learns this much faster than the body would; one that was solved first goes with it."""

MIN_STEPS = 300
"""Fewer optimizer steps than this do not move a network at 1/10 of its source learning rate."""


def gradient_phase(
    ctx: Context, *, name: str, train_from: int, lr_factor: float = 0.1, epochs_factor: float = 1.0,
    decay_over_depth: float = 1.0, regularise: bool = False, norms: Literal["frozen", "train"] = "frozen",
    head_factor: float = 1.0, from_random: bool = False,
) -> GradientPhase:  # fmt: skip
    """A gradient phase with this project's defaults and the recipe's overrides.

    ``lr_factor``: share of the card's source LR (1/10 when finetuning), scaled as ``finetuning_lr`` has it, or as
    ``scaled_lr`` where training begins ``from_random`` weights. ``decay_over_depth``: LR of the first
    stage over that of the last; the per-stage factor follows from the number of stages, so that a transformer
    of twelve blocks and a ResNet of four stages are treated alike.
    """
    asked, card = ctx.train, ctx.card
    optimizer = chosen_optimizer(asked, card.source_optimizer)
    batch, accumulate = batches(asked, ctx.n_train)
    rule = scaled_lr if from_random else finetuning_lr
    scaled = rule(card.source_lr, card.source_batch, asked.images_per_step, card.source_optimizer)
    lr = ctx.asked_lr or scaled * lr_factor
    if ctx.asked_lr is None:
        lr = translated_lr(lr, card.source_optimizer, optimizer) * ctx.task.lr_factor
    decay = asked.stage_decay
    if decay is None:
        depth = max(1, ctx.last - train_from)
        decay = decay_over_depth ** (1.0 / depth)
    epochs = asked.epochs or round(
        epochs_factor * default_epochs(ctx.n_train, batch * accumulate, asked.epochs_factor)
    )
    epochs = max(epochs, asked.snapshots or 1)
    averaged = asked.swa is not None or asked.snapshots is not None
    steps = epochs * math.ceil(ctx.n_train / (batch * accumulate))
    weight_decay = asked.weight_decay
    if weight_decay is None:
        weight_decay = default_weight_decay(optimizer, asked.decoupled)
    smoothing = asked.label_smoothing
    augment = policy_name(asked.augment or default_augment(ctx.n_train))
    shared = {key: getattr(asked, key) for key in Regularisers.model_fields}
    if "loss" not in asked.model_fields_set:
        shared["loss"] = ctx.task.losses[0]
    return GradientPhase(
        name=name,
        train_from=train_from,
        epochs=epochs,
        optimizer=optimizer,
        lr=lr,
        head_lr=asked.head_lr or lr * head_factor,
        find_lr=asked.lr == "auto",
        stage_decay=round(decay, 4),
        momentum=asked.momentum,
        nesterov=asked.nesterov,
        betas=asked.betas,
        eps=asked.eps,
        weight_decay=weight_decay,
        decoupled=asked.decoupled,
        switch=asked.switch,
        schedule=asked.schedule,
        schedule_args=asked.schedule_args,
        warmup=warmup_share(asked),
        patience=asked.patience,
        monitor=asked.monitor,
        smoothing=asked.smoothing,
        stop_at=asked.stop_at,
        time=asked.time,
        batch_size=batch,
        accumulate=accumulate,
        micro_batch="auto" if asked.batch_size == "auto" else None,
        clip_grad=asked.clip_grad,
        label_smoothing=(0.1 if regularise and ctx.task.plain else 0.0) if smoothing is None else smoothing,
        ema=asked.ema if "ema" in asked.model_fields_set or averaged or asked.shard else default_ema(steps),
        swa=asked.swa,
        swa_lr=asked.swa_lr,
        snapshots=asked.snapshots,
        keep="last" if averaged else "best",
        augment=augment,
        crop=asked.crop,
        augment_on=where(asked.augment_on, augment, ctx.device),
        batch_norm=asked.batch_norm or ("frozen" if card.freeze_norms and not from_random else norms),
        **shared,
    )


def head_phase(ctx: Context) -> ProbePhase:
    """The head first, solved on the frozen last stage (the LP of LP-FT, arXiv 2202.10054)."""
    return ProbePhase(
        name="head first",
        candidates=_under_the_first_head(ctx),
        solver=ctx.recipe.probe.solver,
        combine=ctx.recipe.probe.combine,
        folds=ctx.recipe.probe.folds,
        norms=ctx.recipe.probe.norms or "source",
    )


def _under_the_first_head(ctx: Context) -> tuple[tuple[int, ...], ...]:
    """Sets of stages to choose from; each has the last one, without which it would not train at all."""
    if ctx.recipe.probe.stages != "best":
        return ((ctx.last,),)
    from finetune.strategy.multistage import candidate_stages  # which imports torch

    return candidate_stages(ctx.num_stages)


def default_epochs(n: int, batch: int, factor: float = 1.0) -> int:
    """``clip(20 sqrt(5000 / n), 5, 100)`` times the factor, and in any case MIN_STEPS steps.

    >>> [default_epochs(n, 64) for n in (5000, 1250, 500_000)], default_epochs(20, 16), default_epochs(5000, 64, 0.25)
    ([20, 40, 5], 150, 5)
    """
    base = min(100.0, max(5.0, 20.0 * math.sqrt(5000 / n)))
    enough = MIN_STEPS / math.ceil(n / batch)
    return max(1, round(max(base * factor, min(enough, 150.0))))


def scaled_lr(source_lr: float, source_batch: int, batch: int, optimizer: str) -> float:
    """The source LR at another batch size: linear for SGD (arXiv 1706.02677), square root for Adam's kin.

    >>> scaled_lr(0.1, 256, 64, "sgd"), scaled_lr(1e-3, 4096, 64, "adamw")
    (0.025, 0.000125)
    """
    ratio = batch / source_batch
    return source_lr * (ratio if optimizer == "sgd" else math.sqrt(ratio))


def finetuning_lr(source_lr: float, source_batch: int, batch: int, optimizer: str) -> float:
    """What a tenth is taken of when finetuning: as ``scaled_lr``, but SGD's is not made smaller for smaller batches.

    Linear scaling keeps the noise of long trainings the same. A finetuning is short: it has to arrive, and at a tenth
    of a rate that was divided by eight already it does not (docs/regret.md).

    >>> finetuning_lr(0.1, 256, 64, "sgd"), finetuning_lr(0.1, 256, 512, "sgd"), finetuning_lr(1e-3, 4096, 64, "adamw")
    (0.1, 0.2, 0.000125)
    """
    return scaled_lr(
        source_lr, source_batch, max(batch, source_batch) if optimizer == "sgd" else batch, optimizer
    )


def batches(asked: TrainRecipe, n: int) -> tuple[int, int]:
    """Images a batch, and batches a step: the recipe's, or for few images (``n``) batches of a quarter of them (a
    power of two, at least 16) where the recipe leaves their size open.

    The learning rate is not scaled down with it: tiny data need the steps. With batch_size auto a batch is the
    whole step, and the executor cuts it where memory asks for that.

    >>> from finetune.recipe import TrainRecipe as T
    >>> batches(T(), 1000), batches(T(), 100), batches(T(batch_size=64), 100), batches(T(batch_size="auto"), 1000)
    ((64, 1), (16, 1), (64, 1), (64, 1))
    >>> batches(T(batch_size=32, effective_batch=128), 100), batches(T(batch_size="auto", effective_batch=256), 100)
    ((32, 4), (256, 1))
    """
    size = asked.batch_size
    whole = asked.images_per_step if size == "auto" else size
    accumulate = 1 if size == "auto" else asked.images_per_step // size
    given = "effective_batch" in asked.model_fields_set or "batch_size" in asked.model_fields_set
    if given and (size != "auto" or asked.effective_batch is not None):
        return whole, accumulate
    return min(whole, 1 << max(4, int(math.log2(max(1, n // 4))))), accumulate


def default_augment(n: int) -> str:
    """Augmentation grows with the amount of data."""
    return "light" if n < 500 else "standard"


def default_ema(steps: int) -> float | None:
    """An average over about the last twentieth of the run; none where that is a handful of steps.

    >>> default_ema(1000), default_ema(150)
    (0.98, None)
    """
    return round(1 - 1 / (0.05 * min(steps, 40_000)), 5) if steps >= 200 else None


def chosen_optimizer(asked: TrainRecipe, source: str) -> str:
    """The recipe's optimizer, or the source's where it names none.

    Raises ConfigError where other keys do not suit it, with all of them, or where its package is missing.
    """
    optimizer = asked.optimizer or source
    problems = [
        must(f"train.{key}", constraint, got)
        for key, constraint, got in optimizer_problems(optimizer, asked.betas, asked.eps, asked.decoupled)
    ]
    problems += filter(None, [missing_package(optimizer)])
    if problems:
        raise ConfigError(" ".join(problems))
    return optimizer


def warmup_share(asked: TrainRecipe) -> float:
    """The recipe's; where it is silent a tenth, or nothing where the schedule begins low by itself."""
    if asked.warmup is not None:
        return asked.warmup
    return 0.0 if asked.schedule in RISES_BY_ITSELF else 0.1
