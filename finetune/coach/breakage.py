"""Trainings that go wrong from the start: no numbers, uphill, too large steps, wrong first weights."""

from __future__ import annotations

import itertools
import math
from statistics import median

from finetune.coach.curve import Curve
from finetune.coach.finding import Finding
from finetune.coach.statistics import binomial_error, blocks, scatter

PARTS = 5
"""Parts of a curve whose medians must each be above the last: by chance that is one order in 120."""
GROWTH = 1.05
"""... by this factor at least, which the scatter of batches does not make five times in a row."""
UPHILL = 3.0
"""Uphill ends this many times above the start: five small rises alone are a drift."""
BELOW_CHANCE = 0.6
"""Uphill the network soon prefers wrong classes: it is right less often than this share of guessing ..."""
BELOW_SIGMAS = 3.0
"""... by this many standard errors, so that a few small batches do not count."""
FAR_ABOVE = 3.0
"""Where a row or two are all there is: loss above the start and above guessing by this factor."""
RISE = 1.5
"""Loss above the start by this factor: first batches at a good rate stay within it ..."""
RISE_STUCK = 1.25
"""... or by this one, where the end is no lower than the start ..."""
SIGMAS = 5.0
"""... and the rise is this many times the scatter of the second half's rows: one row among a hundred."""
STUCK = 0.97
"""An end loss above this share of the start's is no progress."""
POOR = 0.3
"""A curve that rose and at its end still has this share of the way to go was harmed by the rise."""
SURE_ROWS = 10
"""While training goes on nothing is said about the learning rate before so many rows ..."""
SURE_SHARE = 0.1
"""... and this share of the steps: a warm-up may bring a short rise."""
REBOUND = 1.25
"""The end above the best part of the curve by this factor, and by the next figure, is a rise for good."""
REBOUND_WAY = 0.15
"""Share of the whole way that a rise must have lost."""
BACK_SIGMAS = 2.5
"""A rise from the best eighth of the rows to the last must be so many standard errors of an eighth ..."""
BACK_SIGMAS_LIVE = 6.0
"""... and so many while training goes on, where it is looked for again and again."""
FORGOT = 0.05
"""Training accuracy that was there in an early epoch and is gone ..."""
FORGOT_ERRORS = 4.0
"""... by this many standard errors, for it is the best of many epochs."""
FIRST_FACTOR = 1.6
"""First loss over ln K: heads with small random weights stay below 1.2 (logits of a standard deviation of 1 give
about ln K + 0.5)."""
FLAT_SHARE = 0.2
"""Share of the learning rate x steps for which the loss may rest at the start before it falls; slow starts and
warm-ups of healthy curves are over by half of that."""
FLAT_FALL = 0.05
"""Resting: not yet this share of the fall."""
MASTERED = 0.95
"""Training accuracy at the end with which a slow start cost nothing; some tasks begin slowly from any weights."""
FLAT_OF_HALF = 0.35
"""... and this share of the time to half of the fall: an even fall takes a tenth, an exponential one a thirteenth."""
FLAT_WAY = 0.3
"""The later fall that proves that the network could learn, as a share of the way."""


def tenth(lr: float, lr_scale: float = 1.0) -> float:
    """The rate to begin with after ``lr`` diverged: a tenth of the last one that was tried, to one digit.

    >>> tenth(100.0), tenth(100.0, lr_scale=0.125), tenth(0.03)
    (10.0, 1.0, 0.003)
    """
    return float(f"{lr * lr_scale / 10:.1g}")


def diverged(curve: Curve) -> Finding | None:
    """A loss that is no number."""
    point, facts = curve.broken, curve.facts
    if point is None and facts.rollbacks:
        scale = 0.5**facts.rollbacks
        return Finding(
            "diverged", "warning",
            f"Training diverged {facts.rollbacks} times, went back each time and ended with {scale:g} of its "
            "learning rate.",
            "Begin with that rate.", "train.lr", None if facts.lr is None else facts.lr * scale,
            {"rollbacks": facts.rollbacks, "lr": facts.lr},
        )  # fmt: skip
    if point is None:
        return None
    lr, scale = facts.lr or point.lr / point.lr_scale or None, point.lr_scale
    at = f" with {scale:g} of its learning rate" if scale < 1 else ""
    return Finding(
        "diverged", "error",
        f"Training diverged{at} at epoch {point.epoch}, step {point.step}: {curve.reason}.",
        "Lower the learning rate." if facts.clipped else
        "Lower the learning rate (clipping gradients with train.clip_grad=1 helps too).",
        "train.lr", None if lr is None else tenth(lr, scale),
        {"epoch": point.epoch, "step": point.step, "lr": lr, "lr_scale": scale},
    )  # fmt: skip


def wrong_direction(curve: Curve) -> Finding | None:
    """The loss climbs from the first step on: what one step does, the next does more of."""
    facts = curve.facts
    if facts.fitted_head and not curve.first:
        return None
    first = curve.first.loss if curve.first else None
    start = max(curve.start, first or 0.0)
    parts = blocks(curve.losses, PARTS)
    climbs = len(parts) == PARTS and len(curve.losses) >= 2 * PARTS and parts[0] > start and all(
        b > GROWTH * a for a, b in itertools.pairwise(parts)
    )  # fmt: skip
    climbs = climbs and parts[-1] > UPHILL * start
    share = _early_accuracy(curve)
    below = share is not None and (not curve.losses or curve.losses[-1] > start)
    rising = curve.broken is not None or (bool(parts) and parts[-1] > RISE * start)
    if not (climbs or (below and rising)):
        return None
    evidence = {
        "first_loss": start,
        "last_loss": curve.losses[-1] if curve.losses else None,
        "early_accuracy": share,
    }
    said = f"to {curve.end:.3g}" if curve.losses else "until it was no number"
    worse = (
        "" if share is None else f", and the network was right less often than guessing ({100 * share:.1f}%)"
    )
    return Finding(
        "wrong direction", "error",
        f"The loss rises steadily from the first step, from {start:.3g} {said}{worse}: "
        "the weights move in the wrong direction.",
        "Look for a wrong sign in the loss or in the update; where a tenth of the learning rate cures it, "
        "it was the learning rate.",
        evidence=evidence,
    )  # fmt: skip


def _early_accuracy(curve: Curve) -> float | None:
    """Training accuracy of the first rows that is certainly below that of guessing; None if none is.

    Far uphill all logits are large and the accuracy returns to that of guessing, so each beginning is tried.
    """
    facts = curve.facts
    points = [*curve.steps, *([curve.broken] if curve.broken else [])]
    if not facts.classes or not facts.batch or facts.fitted_head:
        return None
    chance, right, images, before = 1 / facts.classes, 0.0, 0.0, 0
    for point in points[:20]:
        if point.accuracy is None:
            continue
        n = facts.batch * max(1, min(point.step - before, -(-(facts.train_n or 10**9) // facts.batch)))
        before = point.step
        right, images = right + n * point.accuracy, images + n
        share = right / images
        error = math.sqrt(chance * (1 - chance) / images)
        if share < BELOW_CHANCE * chance and share < chance - BELOW_SIGMAS * error:
            return share
    return None


def lr_too_high(curve: Curve) -> Finding | None:
    """The loss rises above its start, and does not come back; or it comes down and rises for good."""
    facts = curve.facts
    if facts.finished and 0 < len(curve.losses) < 3:
        return _far_above(curve)
    if len(curve.losses) < 3 or (
        not facts.finished and (len(curve.losses) < SURE_ROWS or curve.done < SURE_SHARE)
    ):
        return None
    start, end = curve.start, curve.end
    worst = max(curve.losses)
    where = curve.trace[curve.losses.index(worst)][0]
    parts = blocks(curve.losses, 8)
    rose = worst > RISE * max(start, curve.first.loss or 0.0 if curve.first else 0.0)
    # A first loss far above guessing is the first weights' doing, and what it comes down to is no rise.
    wrong_start = curve.first is not None and (curve.first.loss or 0.0) > FIRST_FACTOR * start
    stuck = end > STUCK * start and not wrong_start
    left = 1 - curve.fallen if facts.finished else 0.0
    parts = blocks(curve.losses, 8)
    best = min(parts)
    gained = parts[-1] - best
    error = scatter(curve.losses) / math.sqrt(len(curve.losses) / len(parts))
    certain = gained > (BACK_SIGMAS if facts.finished else BACK_SIGMAS_LIVE) * error
    back = len(parts) == 8 and certain and parts[-1] > REBOUND * best and gained > REBOUND_WAY * curve.way
    forgot = facts.finished and stuck and _forgot(curve)
    settled = scatter(curve.losses[len(curve.losses) // 2 :])
    rose = rose or (stuck and worst > RISE_STUCK * start and worst - start > SIGMAS * settled)
    if not ((rose and (stuck or left > POOR)) or back or forgot):
        return None
    if rose and stuck:
        said = (
            f"The loss rose from {start:.3g} to {worst:.3g} (step {where}) and ended no lower than it began "
            f"({end:.3g})"
        )
    elif back:
        said = f"The loss fell to {best:.3g} and rose again to {parts[-1]:.3g}"
    elif rose:
        said = (
            f"The loss rose from {start:.3g} to {worst:.3g} (step {where}) and was still {end:.3g} at the end"
        )
    else:
        said = (
            f"The loss ended at its start ({start:.3g}) and training accuracy was better in an earlier epoch"
        )
    return Finding(
        "lr too high", "error", f"{said}: the learning rate is too high.", "Lower it.", "train.lr",
        None if facts.lr is None else facts.lr / 10,
        {"first_loss": start, "highest_loss": worst, "highest_step": where, "last_loss": end, "lr": facts.lr},
    )  # fmt: skip


def _far_above(curve: Curve) -> Finding | None:
    """The same of a row or two, which tell of nothing but a loss far above guessing."""
    facts, end = curve.facts, curve.losses[-1]
    before = max(curve.start, facts.guessing or 0.0)
    if end <= FAR_ABOVE * before:
        return None
    return Finding(
        "lr too high", "error",
        f"The loss rose from {curve.start:.3g} to {end:.3g}: the learning rate is too high.", "Lower it.", "train.lr",
        None if facts.lr is None else facts.lr / 10,
        {"first_loss": curve.start, "highest_loss": end, "last_loss": end, "lr": facts.lr},
    )  # fmt: skip


def _forgot(curve: Curve) -> bool:
    """Whether training accuracy was better before, beyond chance."""
    known = [p.accuracy for p in curve.epochs if p.accuracy is not None]
    if len(known) < 3 or not curve.facts.train_n:
        return False
    error = binomial_error(max(known), curve.facts.train_n)
    return max(known) - known[-1] > max(FORGOT, FORGOT_ERRORS * error)


def bad_initialisation(curve: Curve) -> Finding | None:
    """The first loss far above that of guessing, or a flat start and then a fall."""
    facts, guess = curve.facts, curve.facts.guessing
    if facts.fitted_head or guess is None or len(curve.losses) < 3:
        return None
    first = curve.first.loss if curve.first else None
    remedy = "Begin from pretrained weights, with a head of small random weights or one that is fitted first."
    if first is not None and first > FIRST_FACTOR * guess and curve.end < first:
        return Finding(
            "bad initialisation", "warning",
            f"The first loss was {first:.3g}; guessing among {facts.classes} classes gives {guess:.3g}: "
            "the first weights are too large, and the first epochs undo them.",
            remedy, "strategy", "lp-ft", {"first_loss": first, "guessing": guess},
        )  # fmt: skip
    rest = curve.fall_time(FLAT_FALL)
    if curve.accuracy is not None and curve.accuracy >= MASTERED:
        return None
    if (
        curve.fallen > FLAT_WAY
        and rest > max(FLAT_SHARE, FLAT_OF_HALF * curve.fall_time(0.5))
        and median(curve.losses[:3]) > STUCK * guess
    ):
        step = next(
            s for s, _, loss in curve.trace if loss <= curve.top - FLAT_FALL * (curve.top - curve.end)
        )
        return Finding(
            "bad initialisation", "warning",
            f"The loss rested at {curve.start:.3g} until step {step} and only then fell, to {curve.end:.3g}: "
            "the first weights pass almost no gradient.",
            remedy, "strategy", "lp-ft", {"flat_steps": step, "guessing": guess, "last_loss": curve.end},
        )  # fmt: skip
    return None
