"""Rules that choose, scored from the rows: nothing is trained here.

Every rule sees of a trial what it would have seen before the test: counts, evidence, validation figures. Two are marked
as looking back, the oracle and the best single arm in hindsight; they are what the others are measured against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.regret.arms import ARMS
from benchmarks.regret.results import Outcome, Trial
from benchmarks.regret.summary import Scores, TrialKey
from finetune.strategy.table import amount_of

Chooser = Callable[[Trial], str | None]
"""Trial -> an arm, or None where the rule has nothing to go by."""


@dataclass(frozen=True)
class Rival:
    """A rule and the accuracy it reached in each trial."""

    name: str
    how: str
    scores: Scores
    compute: Mapping[TrialKey, float] | None = None
    """Seconds, learning rates included, where the rule trains more or less than one arm."""


def of_choice(name: str, how: str, trials: Sequence[Trial], choose: Chooser, among: str = "arms") -> Rival:
    """A rival from a rule: scored by the chosen arm with its rate chosen on validation.

    among: ``arms``, ``others``, or ``any`` of both for a rule that may name an arm which the oracle lacks.
    """
    scores, compute = {}, {}
    for trial in trials:
        pool: Mapping[str, Outcome] = (
            {**trial.others, **trial.arms} if among == "any" else getattr(trial, among)
        )
        arm = choose(trial)
        if arm is not None and arm in pool:
            scores[trial.key] = pool[arm].accuracy
            compute[trial.key] = pool[arm].seconds
    return Rival(name, how, scores, compute)


def constant(arm: str) -> Chooser:
    """The same for all data."""
    return lambda trial: arm


def always(trials: Sequence[Trial], arms: Sequence[str]) -> list[Rival]:
    """One rival an arm."""
    return [of_choice(f"always {arm}", "the same for all data", trials, constant(arm)) for arm in arms]


def partly(trials: Sequence[Trial]) -> list[Rival]:
    """One rival for each arm that was measured in some trials only, and is no choice of the oracle or of any rule."""
    seen = dict.fromkeys(name for trial in trials for name in trial.others)
    names = [name for name in seen if name not in ARMS or ARMS[name].kind == "arm"]
    how = "the same for all data, where it was measured"
    return [of_choice(f"always {name}", how, trials, constant(name), among="others") for name in names]


def published(trials: Sequence[Trial]) -> list[Rival]:
    """fastai and BiT-HyperRule where they were measured, their rates chosen on validation like every arm's."""
    names = [name for name, arm in ARMS.items() if arm.kind == "published"]
    how = "the published schedule"
    found = [of_choice(name, how, trials, constant(name), among="others") for name in names]
    return [rival for rival in found if rival.scores]


def textbook_by_counts(trials: Sequence[Trial]) -> Rival:
    """The table with its left column only: nobody looked at the images."""
    by_amount = {"very little": "linear", "in between": "partial", "quite a lot": "lp-ft"}

    def choose(trial: Trial) -> str | None:
        return by_amount[amount_of(trial.train_n, trial.train_n / trial.classes)]

    how = "very little: linear; in between: partial; quite a lot: lp-ft"
    return of_choice("textbook, counts alone", how, trials, choose, among="any")


def random_arm(trials: Sequence[Trial]) -> Rival:
    """The expectation over a blind choice; no dice are thrown."""
    scores = {t.key: float(np.mean([o.accuracy for o in t.arms.values()])) for t in trials}
    compute = {t.key: float(np.mean([o.seconds for o in t.arms.values()])) for t in trials}
    return Rival("random", "expectation over the arms", scores, compute)


def best_single(trials: Sequence[Trial]) -> Rival:
    """In hindsight: the arm of best mean accuracy, each data set counted once."""
    arm = best_arm(trials)
    return of_choice(
        f"best single ({arm})", "looks back: the best arm over all these rows", trials, lambda t: arm
    )


def best_arm(trials: Sequence[Trial]) -> str:
    """The arm of best mean accuracy over data sets; ties go to the one listed first."""
    arms = list(trials[0].arms)
    return arms[int(np.argmax([_mean_by_data(trials, arm) for arm in arms]))]


def _mean_by_data(trials: Sequence[Trial], arm: str) -> float:
    groups: dict[tuple[str, str], list[float]] = {}
    for trial in trials:
        groups.setdefault((trial.backbone, trial.data), []).append(trial.arms[arm].accuracy)
    return float(np.mean([np.mean(values) for values in groups.values()]))


def validating(trials: Sequence[Trial]) -> Rival:
    """Train every arm at every rate, keep the one that validates best; ties go to the cheaper."""

    def choose(trial: Trial) -> str | None:
        return validated(trial, list(trial.arms))

    rival = of_choice("validate every arm", "trains them all, no limit", trials, choose)
    return Rival(rival.name, rival.how, rival.scores, {t.key: all_seconds(t) for t in trials})


def validating_in_time(trials: Sequence[Trial]) -> Rival:
    """The same, the cheapest arms first, for as long as auto took: its decision and its arm at every rate."""
    scores, compute = {}, {}
    for trial in trials:
        budget = auto_seconds(trial)
        if budget is None:
            continue
        order = sorted(trial.arms, key=lambda name: trial.arms[name].seconds)
        tried, spent = [order[0]], trial.arms[order[0]].seconds
        for name in order[1:]:
            if spent + trial.arms[name].seconds > budget:
                break
            tried.append(name)
            spent += trial.arms[name].seconds
        arm = validated(trial, tried)
        if arm is not None:
            scores[trial.key], compute[trial.key] = trial.arms[arm].accuracy, spent
    return Rival(
        "validate, auto's time", "the cheapest arms first, until auto's seconds are spent", scores, compute
    )


def validated(trial: Trial, names: Sequence[str]) -> str | None:
    """The arm of best validation accuracy; None where nothing was held out.

    Ties go to the cheaper one, not to the lower log-loss: that tells calibrated arms from sure ones, not right ones.
    """
    known = [name for name in names if trial.arms[name].val_accuracy is not None]
    if not known:
        return None
    return max(known, key=lambda name: (trial.arms[name].val_accuracy or 0.0, -trial.arms[name].seconds))


def auto_choice(trials: Sequence[Trial]) -> Rival:
    """The decision alone, in the same currency as every rule: the chosen arm, its rate chosen on validation."""
    rival = of_choice("auto, its choice", "the decision of the rows", trials, lambda trial: trial.chosen)
    times = {t.key: s for t in trials if (s := auto_seconds(t)) is not None}
    return Rival(rival.name, rival.how, rival.scores, times)


def auto_as_run(trials: Sequence[Trial]) -> Rival:
    """What a user got: one training, at the learning rate that auto set itself."""
    scores = {t.key: t.auto.accuracy for t in trials if t.auto is not None}
    compute = {t.key: t.auto.seconds for t in trials if t.auto is not None}
    return Rival("auto, as run", "one training at its own learning rate", scores, compute)


def raced(trials: Sequence[Trial]) -> list[Rival]:
    """Auto with a time for a race, one rival a time."""
    found = []
    for name in dict.fromkeys(name for trial in trials for name in trial.raced):
        those = [trial for trial in trials if name in trial.raced]
        scores = {t.key: t.raced[name].accuracy for t in those}
        found.append(Rival(name, "as run", scores, {t.key: t.raced[name].seconds for t in those}))
    return found


def auto_seconds(trial: Trial) -> float | None:
    """Deciding, and training the chosen arm at every rate."""
    if trial.chosen is None:
        return None
    return (trial.decide_seconds or 0.0) + trial.arms[trial.chosen].seconds


def all_seconds(trial: Trial) -> float:
    """Training every arm at every rate: what the oracle costs."""
    return sum(outcome.seconds for outcome in trial.arms.values())
