"""Rivals that are schedules: fastai's ``fine_tune`` and BiT-HyperRule, from their publications, as plans.

Both keep one rule for all data. They are carried out by the same executor, on the same images, network, input size
and validation rule as our own strategies, so that only the rule differs. What a plan cannot say is listed with each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.strategy.context import Context
from finetune.strategy.plan import GradientPhase, Plan
from finetune.strategy.schedule import default_epochs

FASTAI_LR, FASTAI_LR_MULT, FASTAI_WD = 2e-3, 100.0, 0.01
BIT_LR, BIT_BATCH, BIT_MICRO = 0.003, 512, 64


def fastai(ctx: Context) -> Plan:
    """``Learner.fine_tune(epochs)`` of fastai 2: a frozen epoch, then all layers at discriminative rates.

    The head trains for one epoch at 2e-3 with the body frozen (one cycle, 99% of it rising); then everything
    trains at half of that in the head, and geometrically less towards the input, 1/100 of it in the first layers
    (one cycle, 30% rising). Adam with decoupled weight decay 0.01, batches of 64 (Howard and Gugger 2020,
    arXiv 2002.04688). ``epochs`` is the caller's in fastai; here it is what our own arms get.

    Not expressible: the cycle of Adam's beta (0.95-0.85-0.95); a cosine rise from 1/25 (1/5 in the second part)
    of the peak, here linear from almost 0; norms of the frozen body go on learning in fastai, here they rest;
    its head of two layers with dropout, here the linear head that every arm has. fastai's three layer groups
    are our stages, the same geometric spacing over more steps. Its recommended augmentation is our ``standard``.
    """
    batch = min(64, max(1, ctx.n_train))
    common = {
        "optimizer": "adamw",
        "weight_decay": FASTAI_WD,
        "clip_grad": None,
        "ema": None,
        "label_smoothing": 0.0,
        "batch_size": batch,
        "augment": "standard",
    }
    head = GradientPhase(
        name="frozen",
        train_from=ctx.num_stages,
        epochs=1,
        lr=FASTAI_LR,
        head_lr=FASTAI_LR,
        warmup=0.98,
        **common,
    )
    factor = FASTAI_LR_MULT ** (1 / ctx.num_stages)
    rest = GradientPhase(
        name="unfrozen",
        train_from=0,
        epochs=ctx.train.epochs or default_epochs(ctx.n_train, batch, ctx.train.epochs_factor),
        lr=FASTAI_LR / 2 / factor,
        head_lr=FASTAI_LR / 2,
        stage_decay=1 / factor,
        warmup=0.3,
        batch_norm="frozen" if ctx.card.freeze_norms else "train",
        keep="last",
        **common,
    )
    return Plan(strategy="fastai", phases=(head, rest), why="fastai's fine_tune.")


@dataclass(frozen=True)
class HyperRule:
    """What BiT-HyperRule says of a data set, by the number of images and their size alone."""

    warmup: int
    """Steps of linear warm-up."""
    decays: tuple[int, int, int]
    """Steps at which the learning rate falls to a tenth."""
    steps: int
    mixup: float
    """The alpha of MixUp; 0 is none."""
    resize: int
    """Short side before the crop, pixels."""
    crop: int
    lr: float = BIT_LR
    batch: int = BIT_BATCH


def hyper_rule(images: int, side: int) -> HyperRule:
    """Kolesnikov et al. 2020, arXiv 1912.11370, section 3.3 and the published code: few images train for 500
    steps, from 20,000 on for 10,000 and from 500,000 on for 20,000, MixUp from 20,000 on.

    >>> hyper_rule(5000, 64).steps, hyper_rule(5000, 64).crop, hyper_rule(50_000, 300).mixup
    (500, 128, 0.1)
    """
    sizes = (160, 128) if side < 96 else (448, 384)
    if images < 20_000:
        return HyperRule(100, (200, 300, 400), 500, 0.0, *sizes)
    if images < 500_000:
        return HyperRule(500, (3000, 6000, 9000), 10_000, 0.1, *sizes)
    return HyperRule(500, (6000, 12_000, 18_000), 20_000, 0.1, *sizes)


def bit(ctx: Context) -> Plan:
    """BiT-HyperRule: SGD at 0.003 with batches of 512, everything trains, steps by the number of images.

    Each stretch between two decays is a phase of constant learning rate; a batch is eight micro-batches of 64.

    Not expressible: a fresh momentum in each phase, where the original's goes on; MixUp, which the rule asks for
    from 20,000 images on; the head starts at random, not at 0; the batch cannot be larger than the data, so with
    fewer than 512 images a step sees each image once. Not taken over: the rule's input size, because every
    arm is measured at the backbone's own; its networks have group norm, ours mostly batch norm, which learns here.
    """
    rule = hyper_rule(ctx.n_train, 224)
    micro = min(BIT_MICRO, max(1, ctx.n_train))
    accumulate = rule.batch // BIT_MICRO
    an_epoch = math.ceil(ctx.n_train / (micro * accumulate))
    ends = (*rule.decays, rule.steps)
    phases = []
    for number, (start, end) in enumerate(zip((0, *rule.decays), ends, strict=True)):
        epochs = max(1, round((end - start) / an_epoch))
        lr = rule.lr / 10**number
        phases.append(
            GradientPhase(
                name=f"steps {start} to {end}",
                train_from=0,
                epochs=epochs,
                lr=lr,
                head_lr=lr,
                schedule="constant",
                warmup=rule.warmup / end if number == 0 else 0.0,
                momentum=0.9,
                weight_decay=0.0,
                clip_grad=None,
                ema=None,
                label_smoothing=0.0,
                batch_size=micro,
                accumulate=accumulate,
                augment="light",
                batch_norm="frozen" if ctx.card.freeze_norms else "train",
                keep="last",
            )
        )
    return Plan(strategy="bit-hyperrule", phases=tuple(phases), why="BiT-HyperRule.")
