"""The tables of the report, as Markdown: rules, intervals, ablations, arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.regret.calibrate import fit_thresholds
from benchmarks.regret.results import Trial
from benchmarks.regret.scored import Best, Scored, cost, gap
from benchmarks.regret.summary import FEWEST, Interval, paired
from finetune.strategy.decision import SHRUNK, SOLVED, TINY
from finetune.strategy.table import THRESHOLDS

TESTED = 200
"""Distinct test images below which a data set is marked."""


def rules_table(
    scored: Sequence[Scored], reference: Scored | None, trials: Sequence[Trial], best: Best
) -> str:
    """One row a rule, least mean regret first."""
    lines = [
        "| rule | mean | mean, hindsight | 90% | worst | within 1 point | gap closed | cost | units |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for item in sorted(scored, key=lambda s: s.regrets.mean):
        found = item.regrets
        lines.append(
            f"| {item.rival.name} | {found.mean:.2f} | {item.upper.mean:.2f} | {found.p90:.1f} | {found.worst:.1f} | "
            f"{found.within_one:.0%} | {_gap(item, reference)} | {_percent(cost(item.rival, trials))} | "
            f"{_units(item, scored)} |"
        )
    mean = 100 * float(np.mean([accuracy for _, accuracy in best.values()]))
    lines += [
        "",
        f"Regret in points below the oracle (mean accuracy {mean:.1f}%), which is the arm that was best on the other "
        "seeds: a lower bound. Hindsight: below the arm that was best on all seeds, the test included: an upper bound. "
        "A unit is a data set at a size, seeds averaged. Gap closed: 1 - regret / regret of the best single arm in "
        "hindsight; with an h at the upper bound, because at the lower one that arm leaves no gap. Cost: seconds as a "
        "share of training every arm, which is what the oracle takes.",
    ]
    lone = sum(trial.key not in best for trial in trials)
    if lone:
        lines[-1] += (
            f" Without another seed there is no oracle: {lone} of {len(trials)} trials, in the table of arms and among "
            "single trials only."
        )
    return "\n".join(lines) + "\n"


def partly_table(scored: Sequence[Scored]) -> str:
    """The rules on the trials of those that were measured on some only; nothing where all were measured on all."""
    most = max(len(item.regrets.trials) for item in scored)
    columns: dict[frozenset[tuple[str, str, str, str]], list[Scored]] = {}
    for item in scored:
        if len(item.regrets.trials) < most:
            columns.setdefault(frozenset(item.regrets.trials), []).append(item)
    if not columns:
        return ""
    heads = [
        f"{' and '.join(item.rival.name for item in items)} ({len(items[0].regrets)} units, {len(keys)} trials)"
        for keys, items in columns.items()
    ]
    lines = ["| rule on the trials of | " + " | ".join(heads) + " |", "|---" * (1 + len(columns)) + "|"]
    for item in sorted(scored, key=lambda s: s.regrets.mean):
        cells = [
            f"{item.regrets.shared(items[0].regrets).mean:.2f} .. {item.upper.shared(items[0].upper).mean:.2f}"
            if keys <= set(item.regrets.trials)
            else "-"
            for keys, items in columns.items()
        ]
        if any(cell != "-" for cell in cells):
            lines.append(f"| {item.rival.name} | " + " | ".join(cells) + " |")
    note = (
        "Some rules were measured on some units or seeds only, as a race on the units that were raced: here all rules "
        "are on the same trials, a column each. Mean regret, lower and upper bound."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def paired_table(autos: Sequence[Scored], scored: Sequence[Scored]) -> str:
    """How much better auto is than each rival, with the intervals."""
    if not autos:
        return "Auto was not measured in these trials.\n"
    mine, lines, df = autos[0], [], set()
    for item in scored:
        interval = None if item is mine else paired(mine.regrets, item.regrets)
        if interval is not None:
            df.add(interval.df)
            shared = item.regrets.shared(mine.regrets)
            lines.append(
                f"| {item.rival.name} | {interval.mean:+.2f} | {_interval(interval)} | {_student(interval)} | "
                f"{len(shared)} units, {len(shared.trials)} trials |"
            )
    if not lines:
        return f"No intervals: the trials are of fewer than {FEWEST} families.\n"
    head = [f"| {mine.rival.name} against | points better | 95%, bootstrap | 95%, t | on |", "|---" * 5 + "|"]
    note = (
        "Positive: auto is better; the oracle cancels, so there is one figure. Bootstrap over data sets, relatives "
        f"drawn together; t with {' or '.join(map(str, sorted(df)))} degrees of freedom, the families less one. The "
        "bootstrap is too narrow for so few."
    )
    return "\n".join([*head, *lines]) + f"\n\n{note}\n"


def ablation_table(scored: Sequence[Scored]) -> str:
    """What each part of the evidence is worth."""
    if not scored:
        return "No ablations: no stored decision chose among the arms of these trials.\n"
    whole = scored[0]
    lines = ["| evidence | mean regret | change | 95%, bootstrap | 95%, t | units |", "|---" * 6 + "|"]
    for item in scored:
        interval = None if item is whole else paired(whole.regrets, item.regrets)
        moved = None if item is whole else _change(whole, item)
        change = "-" if moved is None else f"{moved:+.2f}"
        lines.append(
            f"| {item.rival.name} | {item.regrets.mean:.2f} | {change} | {_interval(interval)} | "
            f"{_student(interval)} | {len(item.regrets)} |"
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


def left_out_text(scored: Sequence[Scored]) -> str:
    """What the rules that are fitted on other families still owe to these; nothing where there are none."""
    if not any(item.rival.name.endswith("left out") for item in scored):
        return ""
    return (
        f"Thresholds left out: the {len(vars(THRESHOLDS))} numbers that cut the two axes are fitted on the other "
        "families, and nothing else. Not left out, and set with data sets like these in view: the parts of similarity "
        "with their weights (.4, .2, .4) and end points, which strategy stands in which cell, the fewest images for "
        f"tuning ({TINY:g} a class), the share of the network's own image size below which images count as shrunk "
        f"({SHRUNK:.2f}), the error that counts as solved ({SOLVED:.1%}), and all learning rates and schedules. An arm "
        "a cell, left out: the cells are today's, but the arm in each is the best of the other families; so the "
        "strategies of the cells are left out, and the axes are not.\n"
    )


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
        counts = f"{members[0].train_n} / {members[0].test_n}{'*' if _few(members) else ''}"
        lines.append(
            f"| {data} | {size} | {counts} | " + " | ".join(cells) + f" | {'; '.join(chosen) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def few_tested(scored: Sequence[Scored], trials: Sequence[Trial]) -> str:
    """What the mark in the table of arms means, and the mean regrets without those data sets."""
    data: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        data.setdefault((trial.backbone, trial.data), []).append(trial)
    few = {key for key, members in data.items() if _few(members)}
    if not few:
        return ""
    names = ", ".join(sorted(name for _, name in few))
    said = (
        f"\\* Fewer than {TESTED} test images a seed, whatever their sum: {names}. Seeds share them where the data set "
        "brings its test set, and overlap where it is carved out."
    )
    kept = {t.key for t in trials if (t.backbone, t.data) not in few}
    without = [
        f"{item.rival.name} {lower.mean:.2f} .. {upper.mean:.2f}"
        for item in scored
        if item.rival.name.startswith(("auto", "best single", "always linear"))
        and len(lower := item.regrets.only(kept))
        and len(upper := item.upper.only(kept))
    ]
    return said + (f" Mean regret without them: {'; '.join(without)}." if without else "") + "\n"


def _few(trials: Sequence[Trial]) -> bool:
    return max(trial.test_n for trial in trials) < TESTED


def _change(whole: Scored, item: Scored) -> float | None:
    """None where no trial has both: one of them chose arms that were not measured."""
    mine, other = item.regrets.shared(whole.regrets), whole.regrets.shared(item.regrets)
    return mine.mean - other.mean if len(mine) else None


def _gap(item: Scored, reference: Scored | None) -> str:
    lower, upper = gap(item, reference)
    value = upper if lower is None else lower
    mark = " h" if lower is None and upper is not None else ""
    return f"< -999%{mark}" if value is not None and value < -9.99 else _percent(value) + mark


def _units(item: Scored, scored: Sequence[Scored]) -> str:
    """How many, and of how many where others were measured on more."""
    most = max(len(other.regrets) for other in scored)
    n = len(item.regrets)
    return f"{n}" if n == most else f"**{n} of {most}**"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"


def _student(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.t_low:+.2f} to {interval.t_high:+.2f}"
