"""Regret, and how sure it is.

The regret of a choice is the oracle's accuracy minus the choice's, in points. The oracle is the arm that was best
on the *other* seeds: an oracle that sees the test it is scored on profits from luck, and every rival would look
worse than it is. With few seeds it often misses the best arm, and rivals look better than they are; so there is
the other oracle too, in hindsight over all seeds. Seeds are averaged first; a data set counts once, however many
sizes it was measured at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.regret.results import Trial, Unit

TrialKey = tuple[str, str, str, str]
Scores = Mapping[TrialKey, float]
"""Trial -> accuracy that a rule reached there."""

DRAWS = 10_000
FEWEST = 4
"""Families below which an interval over them would be pretence."""
LEAST_GAP = 0.1
"""Points between the single best arm and the oracle below which a share of them would be a division by noise."""
_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t, 97.5%, of 1, 2, ... degrees of freedom; from 30 on the last one, which is a little too wide."""


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


def hindsight(trials: Sequence[Trial]) -> dict[TrialKey, tuple[str, float]]:
    """Trial -> (arm, its accuracy there): the arm of best mean accuracy over all of the unit's seeds.

    It sees the tests it is scored on, so regrets against it are too large, as those against ``oracle`` are too
    small: what seeds chose from others is seldom the best arm.
    """
    units: dict[Unit, list[Trial]] = defaultdict(list)
    for trial in trials:
        units[trial.unit].append(trial)
    found: dict[TrialKey, tuple[str, float]] = {}
    for members in units.values():
        arms = list(members[0].arms)
        best = arms[int(np.argmax([np.mean([t.arms[name].accuracy for t in members]) for name in arms]))]
        found |= {trial.key: (best, trial.arms[best].accuracy) for trial in members}
    return found


@dataclass(frozen=True)
class Regrets:
    """Of one rule, in points."""

    trials: Mapping[TrialKey, float]
    families: Mapping[Unit, str]

    @cached_property
    def units(self) -> dict[Unit, float]:
        """Unit -> mean over its seeds."""
        groups: dict[Unit, list[float]] = defaultdict(list)
        for (backbone, data, size, _), value in self.trials.items():
            groups[backbone, data, size].append(value)
        return {unit: float(np.mean(values)) for unit, values in groups.items()}

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

    def shared(self, other: Regrets) -> Regrets:
        """On the trials that another rule has too: the same units, and of them the same seeds."""
        return self.only(other.trials)

    def only(self, keys: Container[TrialKey]) -> Regrets:
        """On some of the trials."""
        return Regrets({key: v for key, v in self.trials.items() if key in keys}, self.families)


def regrets(trials: Sequence[Trial], scores: Scores, best: Mapping[TrialKey, tuple[str, float]]) -> Regrets:
    """Of the trials that both the rule and the oracle have."""
    known = [trial for trial in trials if trial.key in scores and trial.key in best]
    return Regrets(
        {trial.key: 100 * (best[trial.key][1] - scores[trial.key]) for trial in known},
        {trial.unit: trial.family for trial in known},
    )


def gap_closed(mine: Regrets, best_single: Regrets) -> float | None:
    """Share of the way from the single best arm to the oracle; None where the two hardly differ."""
    return None if best_single.mean < LEAST_GAP else 1 - mine.mean / best_single.mean


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies in 95 of 100 draws of the data sets."""

    mean: float
    low: float
    high: float
    se: float
    t_low: float
    t_high: float
    df: int
    """Families less one."""


def paired(mine: Regrets, other: Regrets, seed: int = 0) -> Interval | None:
    """The other's mean regret minus mine on the trials both have, with its interval over families.

    Positive: mine is better. None with fewer than FEWEST families. The oracle cancels: it is the same for both.
    """
    a, b = mine.shared(other), other.shared(mine)
    family = {(unit[0], unit[1]): mine.families[unit] for unit in a.units}
    clusters: dict[str, list[float]] = defaultdict(list)
    for key in a.per_data:
        clusters[family[key]].append(b.per_data[key] - a.per_data[key])
    return bootstrap(list(clusters.values()), seed)


def alone(found: Regrets, seed: int = 0) -> Interval | None:
    """The mean regret itself with its interval."""
    family = {(unit[0], unit[1]): found.families[unit] for unit in found.units}
    clusters: dict[str, list[float]] = defaultdict(list)
    for key, value in found.per_data.items():
        clusters[family[key]].append(value)
    return bootstrap(list(clusters.values()), seed)


def bootstrap(clusters: Sequence[Sequence[float]], seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """Mean over all values, clusters drawn with replacement, percentile interval; and Student's t over clusters.

    Relatives are one cluster and are drawn together: six targets made from one data set are no six witnesses.
    Percentiles of so few clusters are too narrow, which the t-interval beside them is not.
    """
    if len(clusters) < FEWEST:
        return None
    n = len(clusters)
    sums = np.array([sum(values) for values in clusters])
    counts = np.array([len(values) for values in clusters])
    rng = np.random.default_rng(seed)
    times = rng.multinomial(n, np.full(n, 1 / n), size=draws)  # (draws, C)
    means = (times @ sums) / (times @ counts)
    low, high = np.percentile(means, [2.5, 97.5])
    mean = sums.sum() / counts.sum()
    # The clustered standard error; with one data set a family it is the ordinary one of a mean.
    spread = float(np.sqrt(n / (n - 1) * ((sums - mean * counts) ** 2).sum()) / counts.sum())
    half = _T975[min(n - 1, len(_T975)) - 1] * spread
    return Interval(
        float(mean),
        float(low),
        float(high),
        float(means.std()),
        float(mean - half),
        float(mean + half),
        n - 1,
    )
