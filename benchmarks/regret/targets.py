"""The targets that were set beforehand: met, or missed by how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.regret.results import Trial
from benchmarks.regret.scored import Bounds, Scored, below_linear, cost, gap, worst_trial
from benchmarks.regret.summary import FEWEST, Regrets


@dataclass(frozen=True)
class Target:
    """A figure of a rule that was promised beforehand."""

    says: str
    bound: float
    form: str
    of: Callable[[Scored, Scored | None, Sequence[Trial]], Bounds]
    least: bool = False
    """The bound is the least, not the most."""

    def cell(self, values: Bounds, families: int = FEWEST) -> str:
        """The figures, and whether they keep the promise; no verdict on a handful of families."""
        known = [value is not None for value in values]
        if not any(known):
            return "not known"
        shown = " .. ".join("not known" if v is None else f"{v:{self.form}}" for v in values)
        if families < FEWEST:
            return f"{shown}, too few to say"
        kept = [v is not None and (v >= self.bound if self.least else v <= self.bound) for v in values]
        if not any(kept):
            return f"{shown}, **missed**" + ("" if all(known) else " at the bound that is known")
        if all(kept):
            return f"{shown}, met"
        return f"{shown}, met at the {'lower' if kept[0] else 'upper'} bound only"


def _both(figure: Callable[[Regrets], float]) -> Callable[[Scored, Scored | None, Sequence[Trial]], Bounds]:
    return lambda s, r, t: (figure(s.regrets), figure(s.upper))


def _targets(mean: float, p90: float, share: float) -> list[Target]:
    return [
        Target(f"mean regret <= {mean:g}", mean, ".2f", _both(lambda found: found.mean)),
        Target(f"90th percentile <= {p90:g}", p90, ".1f", _both(lambda found: found.p90)),
        Target(f"gap closed >= {share:.0%}", share, ".0%", lambda s, r, t: gap(s, r), least=True),
        Target("never more than 1 point below linear", 1.0, ".1f", lambda s, r, t: (below_linear(s, t),)),
    ]


DECIDING = [*_targets(0.7, 2, 0.5), Target("worst <= 5", 5.0, ".1f", _both(lambda found: found.worst))]
"""Of a decision without a race."""
RACING = [*_targets(0.3, 1, 0.75), Target("cost <= 20%", 0.2, ".0%", lambda s, r, t: (cost(s.rival, t),))]
"""Of one with a race; cost as a share of training every arm."""

NOTE = (
    "Two figures: against the oracle of the other seeds, a lower bound of regret, and against the best arm in "
    "hindsight, an upper one. Never below linear is after averaging seeds; of the single trial +- is a standard error, "
    "from two independent binomials (on the same images it is less: an upper bound).\n"
)
"""What the tables of targets show."""


def targets_table(
    items: Sequence[Scored], reference: Scored | None, trials: Sequence[Trial], targets: Sequence[Target]
) -> str:
    """Each target against each rule, and below them the worst single trial, for which none was set."""
    if not items:
        return ""
    names = " | ".join(item.rival.name for item in items)
    lines = [f"| target | {names} |", "|---" * (1 + len(items)) + "|"]
    for target in targets:
        cells = [target.cell(target.of(item, reference, trials), item.families) for item in items]
        lines.append(f"| {target.says} | " + " | ".join(cells) + " |")
    worst = [_worst(item, trials) for item in items]
    lines.append("| no target: worst single trial below linear | " + " | ".join(worst) + " |")
    return "\n".join(lines) + "\n"


def _worst(item: Scored, trials: Sequence[Trial]) -> str:
    found = worst_trial(item, trials)
    if found is None:
        return "not known"
    where = f"{found.trial.data} at {found.trial.size}, seed {found.trial.seed}"
    return f"{found.points:.1f} +- {found.se:.1f} ({where}); more than 1 below in {found.below} of {found.trials}"


def decision_time(trials: Sequence[Trial]) -> str:
    """How long deciding took at most."""
    slowest = max((t.decide_seconds for t in trials if t.decide_seconds is not None), default=None)
    if slowest is None:
        return ""
    return (
        f"The decision, the feature pass apart, took {slowest:.0f} s at most (target: 60 s on two cores).\n"
    )
