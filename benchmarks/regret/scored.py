"""Rules with their regrets, against both oracles, and the figures that tables are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.regret import rivals
from benchmarks.regret.results import Trial
from benchmarks.regret.summary import Regrets, TrialKey, gap_closed, hindsight, regrets

Best = Mapping[TrialKey, tuple[str, float]]
"""Trial -> the oracle's arm and its accuracy there."""

Bounds = tuple[float | None, ...]
"""A figure that no oracle is needed for, or its lower and its upper bound; None is not known."""


@dataclass(frozen=True)
class Scored:
    """A rule with its regrets."""

    rival: rivals.Rival
    regrets: Regrets
    """Against the oracle of the other seeds, which is too weak: a lower bound."""
    upper: Regrets
    """On the same trials against the oracle in hindsight, which is too strong."""

    @property
    def families(self) -> int:
        """How many it was measured on."""
        return len({self.regrets.families[unit] for unit in self.regrets.units})


def score(found: Sequence[rivals.Rival], trials: Sequence[Trial], best: Best) -> list[Scored]:
    """The rules with their regrets, those without any trial left out."""
    seen = {key: value for key, value in hindsight(trials).items() if key in best}
    scored = [
        Scored(rival, regrets(trials, rival.scores, best), regrets(trials, rival.scores, seen))
        for rival in found
    ]
    return [item for item in scored if len(item.regrets)]


def gap(item: Scored, reference: Scored | None) -> Bounds:
    """Gap closed on the trials that both have, against either oracle."""
    if reference is None:
        return None, None
    pairs = ((item.regrets, reference.regrets), (item.upper, reference.upper))
    return tuple(gap_closed(mine.shared(other), other.shared(mine)) for mine, other in pairs)


def cost(rival: rivals.Rival, trials: Sequence[Trial]) -> float | None:
    """Mean share of the seconds that all arms take."""
    shares = [
        rival.compute[t.key] / total
        for t in trials
        if rival.compute and t.key in rival.compute and (total := rivals.all_seconds(t)) > 0
    ]
    return float(np.mean(shares)) if shares else None


def below_linear(item: Scored, trials: Sequence[Trial]) -> float | None:
    """Points by which the rule is below the linear head at most, over units, seeds averaged."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for trial in trials:
        points = _below(item, trial)
        if points is not None:
            groups.setdefault(trial.unit, []).append(points)
    return max((float(np.mean(values)) for values in groups.values()), default=None)


@dataclass(frozen=True)
class Worst:
    """The single trial in which a rule is furthest below the linear head."""

    points: float
    se: float
    """Of two independent binomials; on the same test images errors are shared, so it is an upper bound."""
    trial: Trial
    below: int
    """Trials more than one point below."""
    trials: int


def worst_trial(item: Scored, trials: Sequence[Trial]) -> Worst | None:
    """None where the linear head was not measured."""
    known = [(points, t) for t in trials if (points := _below(item, t)) is not None]
    if not known:
        return None
    points, trial = max(known, key=lambda pair: pair[0])
    both = (trial.arms["linear"].accuracy, item.rival.scores[trial.key])
    se = 100 * math.sqrt(sum(p * (1 - p) for p in both) / trial.test_n)
    return Worst(points, se, trial, sum(value > 1 + 1e-9 for value, _ in known), len(known))


def _below(item: Scored, trial: Trial) -> float | None:
    if "linear" not in trial.arms or trial.key not in item.rival.scores:
        return None
    return 100 * (trial.arms["linear"].accuracy - item.rival.scores[trial.key])
