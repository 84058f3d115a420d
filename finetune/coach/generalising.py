"""Training against validation: gaps, noise that is learned by heart, validation sets that cannot tell."""

from __future__ import annotations

import itertools
from statistics import median

from finetune.coach.curve import Curve, Point
from finetune.coach.finding import Finding
from finetune.coach.statistics import binomial_error, centred
from finetune.interval import wilson

ERRORS = 2.5
"""Standard errors that a difference of accuracies must exceed: one false alarm in 160, one-sided."""
GAP = 0.08
"""Training accuracy above the validation accuracy by this much is a gap worth a word."""
VAL_RISE = 1.3
"""Validation loss over its least by this factor ..."""
VAL_RISE_NATS = 0.1
"""... and by this much, while the training loss goes on falling."""
DROP = 0.04
"""Validation accuracy below its best epochs by this much: learning by heart harms only where labels are wrong."""
DROP_EARLY = 0.7
"""The best validation epoch lies before this share of them."""
LATE = 0.08
"""Training accuracy gained after it."""
LEVEL = 0.06
"""Where the validation loss is least, or on the way there, the accuracies agree within this: what is common is learned
first. Few images part them before that."""
UNLEARNED = 0.9
"""Training accuracy there, below which the rest is learned image by image."""
HEART_RISE = 1.1
"""Rise of the validation loss by this factor after it ..."""
HEART_HINT = 1.02
"""... or by this one, where the accuracies went together until then and validation gained less than half of what
training gained since."""
TOGETHER = 0.07
"""Median difference of the accuracies on the way there; with few images and right labels it is 0.09 and more."""
EVEN = 0.03
"""Training accuracy above the validation accuracy by no more than this is no gap yet; from such an epoch on ..."""
ALONE = 0.12
"""... training gained this much more ..."""
ALONE_SHARE = 0.2
"""... and validation at most this share of that: what is learned from there on serves the training images alone."""
AGAINST = 0.04
"""Share of the training images of which the network was sure that they are of another class, where the validation loss
was least: few images and right labels leave less of them by then; a network that is too small has as many, but does
not learn them by heart."""
AGAINST_ALONE = 0.11
"""So many are wrong labels whatever comes after: networks that are too small were sure of 0.095 at most."""
FELL = 0.1
"""Training accuracy below that of an earlier epoch by this much: a rate that is too high undid what was learned, and
what the network is sure of then says nothing of the labels. Wrong labels alone make it waver by 0.07."""
BY_HEART = 0.5
"""Training accuracy below which little was learned, by heart or otherwise."""
ABOVE = 0.08
"""Validation accuracy above training accuracy by this much, where training images are no harder."""
AHEAD = 0.06
"""Validation accuracy above training accuracy by this much, in the middle of training ..."""
AHEAD_EPOCHS = 0.2
"""... in this share of the epochs and in three at least; quick first epochs make one or two."""
WIDE = 0.11
"""A 95% interval of the validation accuracy wider than this cannot rank epochs or recipes."""
STRONGER = {None: "standard", "none": "standard", "light": "standard", "standard": "strong"}


def _pairs(curve: Curve) -> list[Point]:
    """Epochs with training and validation figures."""
    return [
        p
        for p in curve.epochs
        if p.val_loss is not None and p.val_accuracy is not None and p.accuracy is not None
    ]


def overfitting(curve: Curve) -> Finding | None:
    """A gap that grows: validation loss rises while training loss falls, or the accuracies part."""
    points, facts = _pairs(curve), curve.facts
    if len(points) < 4 or not facts.val_n:
        return None
    losses = centred([p.val_loss or 0.0 for p in points])
    best = min(range(len(losses)), key=losses.__getitem__)
    val = median(p.val_accuracy or 0.0 for p in points[-3:])
    train = median(p.accuracy or 0.0 for p in points[-3:])
    error = binomial_error(val, facts.val_n)
    gap = train - val
    after = losses[-1] - losses[best]
    fell = (points[best].loss or 0.0) > (points[-1].loss or 0.0)
    rises = (
        fell
        and losses[-1] > VAL_RISE * losses[best]
        and after > VAL_RISE_NATS
        and gap > max(GAP / 2, ERRORS * error)
    )
    apart = gap > max(GAP, ERRORS * error)
    if not (rises or apart):
        return None
    seen = f"Training accuracy is {100 * train:.0f}%, validation accuracy {100 * val:.0f}%"
    if rises:
        least = f"{losses[best]:.3g} (epoch {points[best].epoch})"
        seen += f", and the validation loss rose from {least} to {losses[-1]:.3g}"
    stronger = STRONGER.get(facts.augment)
    return Finding(
        "overfitting", "warning", f"{seen}: overfitting.",
        "Augment more, train fewer stages or add images." if stronger else "Train fewer stages, or add images.",
        "train.augment" if stronger else "strategy", stronger or "linear",
        {"train_accuracy": train, "val_accuracy": val, "gap": gap, "val_error": error,
         "best_epoch": points[best].epoch, "least_val_loss": losses[best], "last_val_loss": losses[-1]},
    )  # fmt: skip


def label_noise(curve: Curve) -> Finding | None:
    """Clean patterns first, wrong labels by heart later: validation peaks early and falls as training goes on; or
    training accuracy stays below validation accuracy."""
    points, facts = _pairs(curve), curve.facts
    if len(points) < 5 or not facts.val_n:
        return None
    accuracies = centred([p.val_accuracy or 0.0 for p in points])
    peak = max(range(len(accuracies)), key=accuracies.__getitem__)
    best, last = accuracies[peak], median(accuracies[-3:])
    error = binomial_error(best, facts.val_n)
    train_then, train = points[peak].accuracy or 0.0, points[-1].accuracy or 0.0
    drops = (
        best - last > max(DROP, ERRORS * error)
        and peak + 1 <= DROP_EARLY * len(points)
        and train - train_then > LATE
    )
    losses = centred([p.val_loss or 0.0 for p in points])
    least = min(range(len(losses)), key=losses.__getitem__)
    around = points[max(0, least - 1) : least + 2]
    train_least = median(p.accuracy or 0.0 for p in around)
    val_least = median(p.val_accuracy or 0.0 for p in around)
    gained = train - train_least
    learned_on = train_least < UNLEARNED and gained > LATE and _had_room(val_least, gained)
    agreed = _gap_before(points, least)
    rise = losses[-1] / max(losses[least], 1e-9)
    steady = not _fell(points, facts.train_n)
    by_heart = (
        steady
        and learned_on
        and (
            (
                min(train_least - val_least, agreed) < LEVEL
                and last < val_least + error / 2
                and rise > HEART_RISE
            )
            or (agreed < TOGETHER and last - val_least < gained / 2 and rise > HEART_HINT)
        )
    )
    against = None if facts.distorted else points[least].contradicted
    by_then = (gained > LATE or train - last > GAP) and not _least_before(curve, points[least])
    most = AGAINST if by_then else AGAINST_ALONE
    contradicted = steady and against is not None and against > most and train_least > BY_HEART
    below = not facts.distorted and last - train > max(ABOVE, ERRORS * error) and train < UNLEARNED
    ahead = [] if facts.distorted else _ahead(points, facts.val_n)
    parted = None if facts.distorted or not steady else _parted(points, accuracies, facts.val_n)
    if not (drops or by_heart or contradicted or below or ahead or parted):
        return None
    if drops:
        seen = (f"Validation accuracy was best at epoch {points[peak].epoch} ({100 * best:.0f}%, training "
                f"{100 * train_then:.0f}%) and fell to {100 * last:.0f}% while training accuracy rose to "
                f"{100 * train:.0f}%")  # fmt: skip
    elif by_heart:
        seen = (f"{_least_at(curve, points[least])} training and validation accuracy were at "
                f"{100 * train_least:.0f}% and {100 * val_least:.0f}%; since then training accuracy rose to "
                f"{100 * train:.0f}% and validation accuracy did not ({100 * last:.0f}%)")  # fmt: skip
    elif contradicted:
        seen = (f"{_least_at(curve, points[least])} the network was sure of another class of "
                f"{100 * (against or 0):.0f}% of the training images; it ended at {100 * train:.0f}% of them right, "
                f"and {100 * last:.0f}% of the validation images")  # fmt: skip
    elif ahead:
        point = ahead[len(ahead) // 2]
        there, then = 100 * (point.val_accuracy or 0), 100 * (point.accuracy or 0)
        seen = (f"Validation accuracy was above training accuracy for {len(ahead)} epochs "
                f"({there:.0f}% against {then:.0f}% at epoch {point.epoch})")  # fmt: skip
    elif parted:
        seen = (f"At epoch {parted.epoch} training and validation accuracy were level "
                f"({100 * (parted.val_accuracy or 0):.0f}%); since then training accuracy rose to {100 * train:.0f}% "
                f"and validation accuracy hardly moved ({100 * last:.0f}%)")  # fmt: skip
    else:
        seen = f"Training accuracy ended at {100 * train:.0f}%, below the validation accuracy of {100 * last:.0f}%"
    stop = points[peak] if drops else points[least] if by_heart or contradicted else parted
    stopping = "" if stop is None or ahead else f"stop at epoch {stop.epoch} and "
    return Finding(
        "label noise", "warning", f"{seen}: some training labels are probably wrong.",
        f"Look at the training images that are called wrong; {stopping}smooth the labels meanwhile.",
        "train.label_smoothing", 0.1,
        {"best_epoch": points[peak].epoch, "least_epoch": points[least].epoch, "best_val_accuracy": best,
         "last_val_accuracy": last,
         "train_accuracy_then": train_then, "train_accuracy": train, "val_error": error, "contradicted": against},
    )  # fmt: skip


def _fell(points: list[Point], n: int | None) -> bool:
    """Whether training accuracy was once well below that of an earlier epoch, beyond chance."""
    accuracies = [p.accuracy or 0.0 for p in points]
    best = list(itertools.accumulate(accuracies, max))
    return any(
        most - now > max(FELL, ERRORS * binomial_error(now, n or 0))
        for most, now in zip(best, accuracies, strict=True)
    )


def _least_before(curve: Curve, point: Point) -> bool:
    """Whether the validation loss was lower before training than at the epoch of its least: of which training images
    the network was sure there is not known."""
    before = [p.val_loss for p in curve.scored if p.epoch == 0 and p.val_loss is not None]
    return bool(before) and before[0] < (point.val_loss or 0.0)


def _least_at(curve: Curve, point: Point) -> str:
    """Begins a sentence about the epoch of the least validation loss."""
    since = " since training began" if _least_before(curve, point) else ""
    return f"Where the validation loss was least{since} (epoch {point.epoch})"


def _had_room(val: float, gained: float) -> bool:
    """Whether validation accuracy could stay behind a training accuracy that gained so much: where little was left to
    gain it cannot."""
    return 1 - val > gained / 2


def _parted(points: list[Point], val: list[float], n: int) -> Point | None:
    """The first epoch at which both accuracies were level and after which training alone went on; None where there
    is none, or where the validation images are too few to see validation stand still."""
    most, end = max(val), points[-1].accuracy or 0.0
    if end < BY_HEART:
        return None
    for (now, then), there in zip(itertools.pairwise(points), val, strict=False):
        train = ((now.accuracy or 0.0) + (then.accuracy or 0.0)) / 2
        alone = end - train
        level = train < UNLEARNED and there >= train - EVEN
        still = most - there <= ALONE_SHARE * alone
        told_apart = ERRORS * binomial_error(there, n) < ALONE < alone
        if level and still and told_apart and _had_room(there, alone):
            return now
    return None


def _ahead(points: list[Point], n: int) -> list[Point]:
    """Epochs whose validation accuracy is above the training accuracy at their end, beyond chance; none where they
    are few."""
    found = [
        now
        for now, then in itertools.pairwise(points)
        if (now.val_accuracy or 0.0) - ((now.accuracy or 0.0) + (then.accuracy or 0.0)) / 2
        > max(AHEAD, ERRORS * binomial_error(now.val_accuracy or 0.0, n))
    ]
    return found if len(found) >= max(3, AHEAD_EPOCHS * len(points)) else []


def _gap_before(points: list[Point], end: int) -> float:
    """Median of training minus validation accuracy over the epochs before ``end``; 1 where there is none.

    The training accuracy is a mean over its epoch: at the epoch's end it is about half way to the next one's.
    """
    gaps = [
        ((now.accuracy or 0.0) + (then.accuracy or 0.0)) / 2 - (now.val_accuracy or 0.0)
        for now, then in itertools.pairwise(points[: end + 1])
    ]
    return median(gaps) if gaps else 1.0


def validation_too_small(curve: Curve) -> Finding | None:
    """An interval wider than the differences it is read for."""
    n, points = curve.facts.val_n, curve.scored
    half = [p.val_accuracy or 0.0 for p in points[len(points) // 2 :]]
    if not n or len(half) < 2:  # of a single epoch there is nothing to tell apart
        return None
    best = max(points, key=lambda p: p.val_accuracy or 0.0)
    low, high = wilson(min(n, round((best.val_accuracy or 0.0) * n)), n)
    spread = max(half) - min(half)
    if high - low < WIDE or spread > high - low:
        return None
    interval = f"a 95% interval of {100 * low:.0f} to {100 * high:.0f}%"
    if min(half) == 1.0:
        seen = (f"All {n} validation images are called right in the later epochs: so few give {interval} and cannot "
                "tell which epoch or recipe is better")  # fmt: skip
    else:
        when = f"epoch {best.epoch}" if best.epoch else "before training"
        differ = f"differ by {100 * spread:.0f} points" if spread else "are level"
        seen = (f"{n} validation images cannot tell epochs apart: the highest validation accuracy "
                f"({100 * (best.val_accuracy or 0.0):.0f}%, {when}) has {interval}, and the later epochs "
                f"{differ}")  # fmt: skip
    keeps = curve.facts.keep == "last"
    last = (
        "; the last epoch is kept, as is best then" if keeps else ", or keep the last epoch (train.keep=last)"
    )
    return Finding(
        "validation too small", "note", f"{seen}.", f"Hold out more images{last}.", "data.val_fraction",
        round(min(0.45, max(0.3, 2 * (curve.facts.val_fraction or 0.15))), 2),
        {"val_n": n, "interval": [low, high], "spread": spread, "best_epoch": best.epoch},
    )  # fmt: skip
