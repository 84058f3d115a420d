"""Regret, and how sure it is.

The regret of a choice is the oracle's accuracy minus the choice's, in points. The oracle is the arm that was best
on the *other* seeds: an oracle that sees the test it is scored on profits from luck, and every rival would look
worse than it is. Seeds are averaged first; a data set counts once, however many sizes it was measured at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.regret.results import Trial, Unit

TrialKey = tuple[str, str, str, str]
Scores = Mapping[TrialKey, float]
"""Trial -> accuracy that a rule reached there."""

DRAWS = 10_000
FEWEST = 4
"""Families below which an interval over them would be pretence."""


def oracle(trials: Sequence[Trial], *, same_seed: bool = False) -> dict[TrialKey, tuple[str, float]]:
    """Trial -> (arm, its accuracy there): the arm of best mean accuracy on the unit's other seeds.

    Trials without another seed are left out. ``same_seed`` lets the oracle see the test that it is scored on, which
    makes every regret too large: for one seed only, and to be said. Ties go to the arm that is listed first.
    """
    units: dict[Unit, list[Trial]] = defaultdict(list)
    for trial in trials:
        units[trial.unit].append(trial)
    found = {}
    for members in units.values():
        for trial in members:
            seen = [trial] if same_seed else [other for other in members if other.seed != trial.seed]
            if seen:
                arms = list(trial.arms)
                means = [np.mean([other.arms[name].accuracy for other in seen]) for name in arms]
                best = arms[int(np.argmax(means))]
                found[trial.key] = (best, trial.arms[best].accuracy)
    return found


@dataclass(frozen=True)
class Regrets:
    """Of one rule, in points, a value a unit."""

    units: Mapping[Unit, float]
    families: Mapping[Unit, str]

    @property
    def per_data(self) -> dict[tuple[str, str], float]:
        """(backbone, data set) -> mean over its sizes."""
        groups: dict[tuple[str, str], list[float]] = defaultdict(list)
        for (backbone, data, _), value in self.units.items():
            groups[backbone, data].append(value)
        return {key: float(np.mean(values)) for key, values in groups.items()}

    @property
    def mean(self) -> float:
        """Over data sets, each counted once."""
        return float(np.mean(list(self.per_data.values())))

    @property
    def p90(self) -> float:
        """90th percentile over units."""
        return float(np.percentile(list(self.units.values()), 90))

    @property
    def worst(self) -> float:
        """Largest of a unit."""
        return max(self.units.values())

    @property
    def within_one(self) -> float:
        """Share of units with a regret of at most one point."""
        return float(np.mean([value <= 1 + 1e-9 for value in self.units.values()]))

    def __len__(self) -> int:
        return len(self.units)

    def restricted(self, units: Sequence[Unit]) -> Regrets:
        """On some of the units."""
        kept = {unit: self.units[unit] for unit in units if unit in self.units}
        return Regrets(kept, self.families)


def regrets(trials: Sequence[Trial], scores: Scores, best: Mapping[TrialKey, tuple[str, float]]) -> Regrets:
    """Of the trials that both the rule and the oracle have; seeds averaged."""
    groups: dict[Unit, list[float]] = defaultdict(list)
    families = {}
    for trial in trials:
        if trial.key in scores and trial.key in best:
            groups[trial.unit].append(100 * (best[trial.key][1] - scores[trial.key]))
            families[trial.unit] = trial.family
    return Regrets({unit: float(np.mean(values)) for unit, values in groups.items()}, families)


def gap_closed(mine: Regrets, best_single: Regrets) -> float | None:
    """Share of the way from the single best arm to the oracle; None where the two do not differ."""
    return None if best_single.mean <= 1e-9 else 1 - mine.mean / best_single.mean


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies in 95 of 100 draws of the data sets."""

    mean: float
    low: float
    high: float
    se: float


def paired(mine: Regrets, other: Regrets, seed: int = 0) -> Interval | None:
    """The other's mean regret minus mine on the units both have, bootstrapped over families.

    Positive: mine is better. None with fewer than FEWEST families.
    """
    shared = [unit for unit in mine.units if unit in other.units]
    a, b = mine.restricted(shared).per_data, other.restricted(shared).per_data
    family = {(unit[0], unit[1]): mine.families[unit] for unit in shared}
    clusters: dict[str, list[float]] = defaultdict(list)
    for key in a:
        clusters[family[key]].append(b[key] - a[key])
    return bootstrap(list(clusters.values()), seed)


def alone(found: Regrets, seed: int = 0) -> Interval | None:
    """The mean regret itself with its interval."""
    family = {(unit[0], unit[1]): found.families[unit] for unit in found.units}
    clusters: dict[str, list[float]] = defaultdict(list)
    for key, value in found.per_data.items():
        clusters[family[key]].append(value)
    return bootstrap(list(clusters.values()), seed)


def bootstrap(clusters: Sequence[Sequence[float]], seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Mean over all values, clusters drawn with replacement, percentile interval.

    Relatives are one cluster and are drawn together: six targets made from one data set are no six witnesses.
    """
    if len(clusters) < FEWEST:
        return None
    sums = np.array([sum(values) for values in clusters])
    counts = np.array([len(values) for values in clusters])
    rng = np.random.default_rng(seed)
    times = rng.multinomial(
        len(clusters), np.full(len(clusters), 1 / len(clusters)), size=draws
    )  # (draws, C)
    means = (times @ sums) / (times @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high), float(means.std()))
