"""Trainings that get nowhere, stand still or end too soon."""

from __future__ import annotations

from statistics import median

from finetune.coach.curve import Curve
from finetune.coach.finding import Finding
from finetune.coach.statistics import binomial_error, blocks, centred, mann_kendall, theil_sen

BARELY = 0.35
"""A loss that fell by less than this share of the way barely moved."""
EVENLY = 0.25
"""Half of the fall before this share of the learning rate x steps means that the rest was slow for another reason."""
MOVED = 0.05
"""A smaller fall has no shape: it is within the first batch's sampling error."""
FEW_STEPS = 100
"""Fewer steps than this are too few at any usual rate: a curve that falls in them needs more of them."""
LIVELY = 1e-3
"""Steps that move the weights by more than this share are no small ones: a loss that stays where it is has another
reason ..."""
TIMID = 5e-4
"""... and with steps that move them by less than this one, however it fell, they are the reason."""
ABOUT = 1.1
"""An end above the start by more than this is another trouble."""
LEARNED = 0.9
"""Training accuracy from which nothing needs to be said about speed or size."""
NOT_LEARNED = 0.88
"""Training accuracy below which an end without a gap is underfitting."""
NO_GAP = 0.08
"""Training accuracy above the validation accuracy by less than this is no gap ..."""
NO_GAP_ERRORS = 2.0
"""... or by less than this many standard errors ..."""
NO_GAP_SHARE = 1 / 2
"""... or by less than this share of what training itself gets wrong: then most of the error is no gap."""
STILL = 0.5
"""Share of the epochs at the end that must stand still for a plateau."""
STILL_FALL = 0.12
"""A fall over those epochs of less than this share of their level is standing still ..."""
TREND = -2.0
"""... and so is one that is not beyond chance by Mann and Kendall's test (standard errors) ..."""
STILL_NOISY = 0.5
"""... and is less than this share."""
MASTERED = 0.95
"""A plateau at this training accuracy costs nothing."""
HIGH_LR = 0.5
"""A learning rate above this share of its peak has not been lowered."""
OPEN = 0.08
"""Share of the way that a plateau leaves open."""
FALLING = 0.03
"""A fall of the last fifth of the steps by this share of the level: not at its end."""


def lr_too_low(curve: Curve) -> Finding | None:
    """The loss falls, evenly or by steps that hardly move the weights, and hardly at all, with a long way to go."""
    accuracy, update = curve.accuracy, curve.update
    if accuracy is None or len(curve.losses) < 3 or accuracy >= LEARNED or curve.fallen >= BARELY:
        return None
    if curve.fallen > MOVED and curve.planned_steps < FEW_STEPS:
        return None
    if update is not None and update > LIVELY:
        return None
    evenly = (
        curve.fallen <= MOVED or curve.fall_time(0.5) >= EVENLY or (update is not None and update < TIMID)
    )
    if curve.end > ABOUT * curve.start or not evenly:
        return None
    if (
        max(centred(curve.losses)) - curve.end >= BARELY * curve.way
    ):  # it went up and came down again: it moves
        return None
    lr = curve.facts.lr
    seen = "evenly" if update is None else f"by steps that move the weights by {100 * update:.2g}%"
    return Finding(
        "lr too low", "warning",
        f"The loss fell only from {curve.start:.3g} to {curve.end:.3g} in {curve.planned_epochs} epochs, {seen}, with "
        f"training accuracy at {100 * accuracy:.0f}%: the learning rate is too low.",
        "Raise it.", "train.lr", None if lr is None else lr * 10,
        {"first_loss": curve.start, "last_loss": curve.end, "fallen": curve.fallen, "lr": lr, "update": update},
    )  # fmt: skip


def plateau(curve: Curve) -> Finding | None:
    """Nothing moves any more while the learning rate is still high."""
    tail = curve.epochs[-max(3, round(STILL * len(curve.epochs))) :]
    if len(curve.epochs) < 6 or curve.fallen < 0.2:
        return None
    losses = [p.loss for p in tail if p.loss is not None]
    level, peak = median(losses), max(p.lr for p in curve.epochs)
    moved = -theil_sen(losses) * (len(losses) - 1)
    above = level - curve.facts.floor
    still = STILL_FALL if mann_kendall(losses) < TREND else STILL_NOISY
    if tail[-1].lr < HIGH_LR * peak or moved > still * above or above < OPEN * curve.way:
        return None
    if curve.accuracy is not None and curve.accuracy >= MASTERED:
        return None
    first, last = tail[0].epoch, tail[-1].epoch
    facts = curve.facts
    constant = facts.schedule in (None, "constant")
    return Finding(
        "plateau", "warning",
        f"From epoch {first} to {last} the training loss stood at {level:.3g} while the learning rate stayed at "
        f"{tail[-1].lr:.2g}: steps of this size get no lower.",
        "Let the learning rate fall." if constant else "Lower the learning rate.",
        "train.schedule" if constant else "train.lr",
        "cosine" if constant else None if facts.lr is None else facts.lr / 3,
        {"epochs": [first, last], "level": level, "moved": moved, "lr": tail[-1].lr},
    )  # fmt: skip


def underfitting(curve: Curve) -> Finding | None:
    """Training images themselves are not learned, and validation is no worse."""
    accuracy = curve.accuracy
    if accuracy is None or not curve.epochs or accuracy >= NOT_LEARNED:
        return None
    if curve.fallen < MOVED and (curve.update is None or curve.update < LIVELY):
        return None
    scores = [p.val_accuracy for p in curve.scored[-3:] if p.val_accuracy is not None]
    gap = None
    if scores and curve.facts.val_n:
        val = median(scores)
        gap = accuracy - val
        error = binomial_error(val, curve.facts.val_n)
        if gap > max(NO_GAP, NO_GAP_ERRORS * error, NO_GAP_SHARE * (1 - accuracy)):
            return None
    fifths = blocks(curve.losses, 5)
    falling = (
        len(fifths) == 5 and fifths[-2] - fifths[-1] > FALLING * fifths[-2]
    ) or curve.planned_epochs <= 5
    epochs = curve.planned_epochs or len(curve.epochs)
    seen = "" if gap is None else f" and validation is level with it ({100 * (accuracy - gap):.0f}%)"
    state = "and the loss was still falling at the end" if falling else "and the loss stopped falling"
    return Finding(
        "underfitting", "warning",
        f"Training accuracy ended at {100 * accuracy:.0f}%{seen}, {state}: underfitting.",
        "Train longer." if falling else "Train more stages, or take a larger backbone.",
        "train.epochs" if falling else "strategy", 2 * epochs if falling else "full",
        {"accuracy": accuracy, "gap": gap, "last_loss": curve.end, "still_falling": falling},
    )  # fmt: skip
