"""The tables of the report, as Markdown: rules, intervals, targets, ablations, arms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.regret import rivals
from benchmarks.regret.calibrate import fit_thresholds
from benchmarks.regret.results import Trial
from benchmarks.regret.summary import FEWEST, Interval, Regrets, gap_closed, paired, regrets
from finetune.strategy.table import THRESHOLDS

Best = Mapping[tuple[str, str, str, str], tuple[str, float]]
"""Trial -> the oracle's arm and its accuracy there."""


@dataclass(frozen=True)
class Scored:
    """A rule with its regrets."""

    rival: rivals.Rival
    regrets: Regrets


def score(found: Sequence[rivals.Rival], trials: Sequence[Trial], best: Best) -> list[Scored]:
    """The rules with their regrets, those without any trial left out."""
    scored = [Scored(rival, regrets(trials, rival.scores, best)) for rival in found]
    return [item for item in scored if len(item.regrets)]


def rules_table(
    scored: Sequence[Scored], reference: Scored | None, trials: Sequence[Trial], best: Best
) -> str:
    """One row a rule, least mean regret first."""
    lines = [
        "| rule | mean | 90% | worst | within 1 point | gap closed | cost | units |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for item in sorted(scored, key=lambda s: s.regrets.mean):
        found, gap = item.regrets, _gap(item, reference)
        lines.append(
            f"| {item.rival.name} | {found.mean:.2f} | {found.p90:.1f} | {found.worst:.1f} | "
            f"{found.within_one:.0%} | {_percent(gap)} | {_percent(_share(item.rival, trials))} | "
            f"{len(found)} |"
        )
    mean = 100 * float(np.mean([accuracy for _, accuracy in best.values()]))
    lines += [
        "",
        f"Regret in points below the oracle (mean accuracy {mean:.1f}%); a unit is a data set at a size, seeds "
        "averaged. Gap closed: 1 - regret / regret of the best single arm in hindsight. Cost: seconds as a share of "
        "training every arm, which is what the oracle takes.",
    ]
    return "\n".join(lines) + "\n"


def paired_table(autos: Sequence[Scored], scored: Sequence[Scored]) -> str:
    """How much better auto is than each rival, with the interval."""
    if not autos:
        return "Auto was not measured in these trials.\n"
    mine = autos[0]
    lines = [f"| {mine.rival.name} against | points better | 95% interval |", "|---|---|---|"]
    given = False
    for item in scored:
        if item in autos:
            continue
        interval = paired(mine.regrets, item.regrets)
        if interval is None:
            continue
        given = True
        low, high = interval.low, interval.high
        lines.append(f"| {item.rival.name} | {interval.mean:+.2f} | {low:+.2f} to {high:+.2f} |")
    if not given:
        return f"No intervals: the trials are of fewer than {FEWEST} families.\n"
    return (
        "\n".join(lines)
        + "\n\nBootstrap over data sets, relatives drawn together; positive: auto is better.\n"
    )


@dataclass(frozen=True)
class Target:
    """A figure of a rule that was promised beforehand."""

    says: str
    bound: float
    form: str
    of: Callable[[Scored, Scored | None, Sequence[Trial]], float | None]
    least: bool = False
    """The bound is the least, not the most."""

    def cell(self, value: float | None, families: int = FEWEST) -> str:
        """The figure, and whether it keeps the promise; no verdict on a handful of families."""
        if value is None:
            return "not known"
        if families < FEWEST:
            return f"{value:{self.form}}, too few to say"
        met = value >= self.bound if self.least else value <= self.bound
        return f"{value:{self.form}}, {'met' if met else '**missed**'}"


def _targets(mean: float, p90: float, gap: float) -> list[Target]:
    return [
        Target(f"mean regret <= {mean:g}", mean, ".2f", lambda s, r, t: s.regrets.mean),
        Target(f"90th percentile <= {p90:g}", p90, ".1f", lambda s, r, t: s.regrets.p90),
        Target(f"gap closed >= {gap:.0%}", gap, ".0%", lambda s, r, t: _gap(s, r), least=True),
        Target("never more than 1 point below linear", 1.0, ".1f", lambda s, r, t: _below_linear(s, t)),
    ]


DECIDING = [*_targets(0.7, 2, 0.5), Target("worst <= 5", 5.0, ".1f", lambda s, r, t: s.regrets.worst)]
"""Of a decision without a race."""
RACING = [*_targets(0.3, 1, 0.75), Target("cost <= 20%", 0.2, ".0%", lambda s, r, t: _share(s.rival, t))]
"""Of one with a race; cost as a share of training every arm."""


def targets_table(
    items: Sequence[Scored], reference: Scored | None, trials: Sequence[Trial], targets: Sequence[Target]
) -> str:
    """The targets that were set beforehand, met or missed by how much."""
    if not items:
        return ""
    names = " | ".join(item.rival.name for item in items)
    lines = [f"| target | {names} |", "|---" * (1 + len(items)) + "|"]
    for target in targets:
        cells = [
            target.cell(
                target.of(item, reference, trials),
                len({item.regrets.families[u] for u in item.regrets.units}),
            )
            for item in items
        ]
        lines.append(f"| {target.says} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def decision_time(trials: Sequence[Trial]) -> str:
    """How long deciding took at most."""
    slowest = max((t.decide_seconds for t in trials if t.decide_seconds is not None), default=None)
    if slowest is None:
        return ""
    return (
        f"The decision, the feature pass apart, took {slowest:.0f} s at most (target: 60 s on two cores).\n"
    )


def ablation_table(scored: Sequence[Scored]) -> str:
    """What each part of the evidence is worth."""
    if not scored:
        return "No ablations: no stored decision chose among the arms of these trials.\n"
    whole = scored[0]
    lines = ["| evidence | mean regret | change | 95% interval | units |", "|---|---|---|---|---|"]
    for item in scored:
        interval = None if item is whole else paired(whole.regrets, item.regrets)
        moved = None if item is whole else _change(whole, item)
        change = "-" if moved is None else f"{moved:+.2f}"
        lines.append(
            f"| {item.rival.name} | {item.regrets.mean:.2f} | {change} | {_interval(interval)} | {len(item.regrets)} |"
        )
    note = "A part is taken away by giving every data set the median of the other families. Positive change: it helps."
    return "\n".join(lines) + f"\n\n{note}\n"


def thresholds_text(trials: Sequence[Trial]) -> str:
    """What the search would set, on all of these rows: a proposal, never a score. Nothing for a few families."""
    if len({t.family for t in trials if t.record is not None}) < FEWEST:
        return ""
    fitted = fit_thresholds(trials)
    moved = {
        name: (getattr(THRESHOLDS, name), value)
        for name, value in vars(fitted).items()
        if value != getattr(THRESHOLDS, name)
    }
    if not moved:
        return "Fitted on all of these rows, no threshold moves.\n"
    listed = ", ".join(f"{name} {old:g} -> {new:g}" for name, (old, new) in moved.items())
    return f"Fitted on all of these rows the thresholds would be: {listed}. (The table above judges them left out.)\n"


def arms_table(trials: Sequence[Trial]) -> str:
    """Mean test accuracy of each arm on each unit, the best in bold."""
    units: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials:
        units.setdefault(trial.unit, []).append(trial)
    arms = list(trials[0].arms)
    lines = ["| data set | size | train / test | " + " | ".join(arms) + " | auto chose |",
             "|---" * (4 + len(arms)) + "|"]  # fmt: skip
    for (_, data, size), members in sorted(units.items(), key=lambda item: (item[0][1], item[1][0].train_n)):
        means = [100 * float(np.mean([t.arms[arm].accuracy for t in members])) for arm in arms]
        cells = [f"**{value:.1f}**" if value == max(means) else f"{value:.1f}" for value in means]
        chosen = sorted({t.chosen or t.record["decision"]["chosen"] for t in members if t.record is not None})
        counts = f"{members[0].train_n} / {members[0].test_n}"
        lines.append(
            f"| {data} | {size} | {counts} | " + " | ".join(cells) + f" | {', '.join(chosen) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def _below_linear(item: Scored, trials: Sequence[Trial]) -> float | None:
    """Points by which the rule is below the linear head at most, over units, seeds averaged."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for trial in trials:
        if "linear" in trial.arms and trial.key in item.rival.scores:
            gap = trial.arms["linear"].accuracy - item.rival.scores[trial.key]
            groups.setdefault(trial.unit, []).append(100 * gap)
    return max((float(np.mean(values)) for values in groups.values()), default=None)


def _change(whole: Scored, item: Scored) -> float | None:
    """None where no unit has both: one of them chose arms that were not measured."""
    shared = [unit for unit in item.regrets.units if unit in whole.regrets.units]
    if not shared:
        return None
    return item.regrets.restricted(shared).mean - whole.regrets.restricted(shared).mean


def _gap(item: Scored, reference: Scored | None) -> float | None:
    """Gap closed on the units that both have."""
    if reference is None:
        return None
    shared = [unit for unit in item.regrets.units if unit in reference.regrets.units]
    return gap_closed(item.regrets.restricted(shared), reference.regrets.restricted(shared))


def _share(rival: rivals.Rival, trials: Sequence[Trial]) -> float | None:
    """Mean share of the seconds that all arms take."""
    shares = [
        rival.compute[t.key] / total
        for t in trials
        if rival.compute and t.key in rival.compute and (total := rivals.all_seconds(t)) > 0
    ]
    return float(np.mean(shares)) if shares else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"
