"""Tables for docs/regret.md, each saying what it rests on. Where rows are missing there is a sentence, not a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.regret import figures, rivals
from benchmarks.regret.ablations import ablated
from benchmarks.regret.arms import ARMS
from benchmarks.regret.calibrate import calibrated, fit_thresholds, single_scorers
from benchmarks.regret.results import Results, Trial
from benchmarks.regret.summary import (
    FEWEST,
    Interval,
    Regrets,
    alone,
    gap_closed,
    oracle,
    paired,
    regrets,
)
from finetune.errors import RunError, must
from finetune.files import atomic_write_bytes, atomic_write_text
from finetune.strategy.table import THRESHOLDS

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

Best = Mapping[tuple[str, str, str, str], tuple[str, float]]
Pictures = dict[str, Callable[[], bytes]]
"""File name -> what draws it."""


@dataclass(frozen=True)
class Scored:
    """A rule with its regrets."""

    rival: rivals.Rival
    regrets: Regrets


def write_report(own: Results, tuned: Results, document: Path) -> None:
    """Put the tables between the marks in ``document`` and the pictures into a folder of its name beside it.

    own: every arm at its own learning rate; tuned: rates chosen on validation. Raises RunError without the marks.
    """
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise RunError(must(str(document), f"a file with one {BEGIN} and, below it, one {END}", "another"))
    made, pictures = render(own, tuned, document.stem)
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    for name, draw in pictures.items():
        atomic_write_bytes(document.parent / document.stem / name, draw())
    atomic_write_text(document, f"{before}\n\n{made.strip()}\n\n{after}")


def render(own: Results, tuned: Results, folder: str = "regret") -> tuple[str, Pictures]:
    """Markdown and pictures of all sections for which there are rows."""
    if not own.trials and not tuned.trials:
        lacks = f" {own.incomplete} groups of rows lack an arm." if own.incomplete else ""
        return f"No complete rows yet, so there is nothing to report.{lacks}\n", {}
    parts = [basis(own if own.trials else tuned)]
    pictures: Pictures = {}
    for backbone in own.backbones:
        made, drawn = section(own.of(backbone), f"{backbone}, every arm at its own learning rate", folder)
        parts.append(made)
        pictures |= drawn
    for backbone in tuned.backbones:
        trials = [t for t in tuned.of(backbone) if len(t.rates) > 1]
        title = f"{backbone}, learning rates chosen on validation"
        if trials:
            made, drawn = section(trials, title, folder)
            parts.append(made)
            pictures |= drawn
        else:
            parts.append(f"### {title}\n\nNot measured yet: every trial has one learning rate.\n")
    return "\n".join(parts), pictures


def basis(results: Results) -> str:
    """What all of it rests on, plainly."""
    trials = results.trials
    data = sorted({t.data for t in trials})
    families = sorted({t.family for t in trials})
    seeds = sorted({t.seed for t in trials}, key=int)
    sizes = sorted({t.size for t in trials}, key=lambda s: (s == "all", int(s) if s.isdigit() else 0))
    lines = [
        f"These tables rest on **{len(data)} data sets** of {len(families)} families, sizes {', '.join(sizes)} "
        f"(labelled images a class), **{_count(len(seeds), 'seed')}**, {_count(len(results.backbones), 'backbone')}: "
        f"{_count(len(trials), 'trial')}, each with the arms {', '.join(results.arms)}.",
        "",
        f"- Data sets: {', '.join(data)}.",
        f"- Recipe {results.recipe}, code {results.code}, commits {', '.join(results.commits) or 'unknown'}; "
        f"machines: {'; '.join(results.machines)}.",
        f"- Failed rows: {results.failed_rows} (an arm without any network in a trial is scored as guessing).",
        f"- Left out: {_count(results.incomplete, 'group')} of rows without every arm; "
        f"{_count(results.set_aside, 'row')} of other recipes or code versions; test sets too small to tell arms "
        f"apart: {', '.join(results.small) or 'none'}.",
    ]
    missing = [n for n, arm in ARMS.items() if arm.kind == "arm" and n not in results.arms]
    if missing:
        lines.append(f"- Not measured: {', '.join(missing)}.")
    if len(results.commits) > 1:
        lines.append(f"- **Rows of {len(results.commits)} commits stand side by side.**")
    if len(families) < FEWEST:
        lines.append(f"- **Fewer than {FEWEST} families: no intervals are given, and little follows.**")
    return "\n".join(lines) + "\n"


def section(trials: Sequence[Trial], title: str, folder: str) -> tuple[str, Pictures]:
    """All tables and pictures of some trials of one backbone."""
    best = oracle(trials)
    warning = ""
    if not best:
        best = oracle(trials, same_seed=True)
        warning = (
            "**One seed only: the oracle was chosen on the very test it is scored on, so every regret below is too "
            "large. These figures are a look at the machinery, not a result.**\n\n"
        )
    scored = _scored(rules(trials), trials, best)
    reference = _find(scored, "best single (")
    autos = [s for s in scored if s.rival.name.startswith("auto")]
    parts = [f"### {title}\n", warning + rules_table(scored, reference, trials, best)]
    parts.append(paired_table(autos, scored))
    parts.append(targets_table(autos, reference, trials, best))
    parts.append(ablation_table(_scored(ablated(trials), trials, best)))
    parts.append(thresholds_text(trials))
    parts.append(arms_table(trials))
    stem = "".join(c if c.isalnum() else "-" for c in title).strip("-")
    draws: Pictures = {
        "rules": lambda: figures.bars({s.rival.name: (s.regrets, alone(s.regrets)) for s in scored}),
        "sizes": lambda: figures.by_size(trials),
    }
    if any(t.record is not None for t in trials):
        draws["plane"] = lambda: figures.plane(trials, best)
    parts += [f"![{name}, {title}]({folder}/{stem}-{name}.png)\n" for name in draws]
    return "\n".join(parts), {f"{stem}-{name}.png": draw for name, draw in draws.items()}


def rules(trials: Sequence[Trial]) -> list[rivals.Rival]:
    """Every rule that has something to go by in these rows."""
    fitted = [rival for rival in (calibrated(trials),) if rival is not None]
    found = [
        rivals.auto_choice(trials),
        rivals.auto_as_run(trials),
        *fitted,
        *rivals.always(trials, list(trials[0].arms)),
        *rivals.published(trials),
        rivals.textbook_by_counts(trials),
        *single_scorers(trials),
        rivals.random_arm(trials),
        rivals.best_single(trials),
        rivals.validating_in_time(trials),
        rivals.validating(trials),
    ]
    return [rival for rival in found if rival.scores]


def rules_table(
    scored: Sequence[Scored], reference: Scored | None, trials: Sequence[Trial], best: Best
) -> str:
    """One row a rule, least mean regret first."""
    lines = [
        "| rule | mean | 90% | worst | within 1 point | gap closed | cost | units |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for item in sorted(scored, key=lambda s: s.regrets.mean):
        found = item.regrets
        gap = None
        if reference is not None:
            shared = [unit for unit in found.units if unit in reference.regrets.units]
            gap = gap_closed(found.restricted(shared), reference.regrets.restricted(shared))
        lines.append(
            f"| {item.rival.name} | {found.mean:.2f} | {found.p90:.1f} | {found.worst:.1f} | "
            f"{found.within_one:.0%} | {'-' if gap is None else f'{gap:.0%}'} | {_cost(item.rival, trials)} | "
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


def targets_table(
    autos: Sequence[Scored], reference: Scored | None, trials: Sequence[Trial], best: Best
) -> str:
    """The targets that were set beforehand, met or missed by how much."""
    if not autos:
        return ""
    lines = ["| target | " + " | ".join(s.rival.name for s in autos) + " |", "|---" * (1 + len(autos)) + "|"]
    gaps = [None if reference is None else gap_closed(s.regrets, reference.regrets) for s in autos]
    rows: list[tuple[str, list[float | None], float, bool, str]] = [
        ("mean regret <= 0.7", [s.regrets.mean for s in autos], 0.7, False, ".2f"),
        ("90th percentile <= 2", [s.regrets.p90 for s in autos], 2.0, False, ".1f"),
        ("worst <= 5", [s.regrets.worst for s in autos], 5.0, False, ".1f"),
        ("gap closed >= 50%", gaps, 0.5, True, ".0%"),
        (
            "never more than 1 point below linear",
            [_below_linear(s, trials) for s in autos],
            1.0,
            False,
            ".1f",
        ),
    ]
    for name, values, bound, above, form in rows:
        cells = []
        for value in values:
            met = value is not None and (value >= bound if above else value <= bound)
            cells.append(
                "not known" if value is None else f"{value:{form}}, {'met' if met else '**missed**'}"
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    slowest = max((t.decide_seconds for t in trials if t.decide_seconds is not None), default=None)
    said = (
        "was not measured" if slowest is None else f"took {slowest:.0f} s at most (target: 60 s on two cores)"
    )
    return "\n".join(lines) + f"\n\nThe decision, the feature pass apart, {said}.\n"


def ablation_table(scored: Sequence[Scored]) -> str:
    """What each part of the evidence is worth."""
    if not scored:
        return "No stored evidence, so no ablations.\n"
    whole = scored[0]
    lines = ["| evidence | mean regret | change | 95% interval | units |", "|---|---|---|---|---|"]
    for item in scored:
        interval = None if item is whole else paired(whole.regrets, item.regrets)
        change = "-" if item is whole else f"{_change(whole, item):+.2f}"
        lines.append(
            f"| {item.rival.name} | {item.regrets.mean:.2f} | {change} | {_interval(interval)} | {len(item.regrets)} |"
        )
    note = "A part is taken away by giving every data set the median of the other families. Positive change: it helps."
    return "\n".join(lines) + f"\n\n{note}\n"


def thresholds_text(trials: Sequence[Trial]) -> str:
    """What the search would set, on all of these rows: a proposal, never a score."""
    if not any(t.record is not None for t in trials):
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
    for (_, data, size), members in sorted(units.items(), key=lambda item: (item[0][1], members_n(item[1]))):
        means = [100 * float(np.mean([t.arms[arm].accuracy for t in members])) for arm in arms]
        cells = [f"**{value:.1f}**" if value == max(means) else f"{value:.1f}" for value in means]
        chosen = sorted({t.record["decision"]["chosen"] for t in members if t.record is not None})
        counts = f"{members[0].train_n} / {members[0].test_n}"
        lines.append(
            f"| {data} | {size} | {counts} | " + " | ".join(cells) + f" | {', '.join(chosen) or '-'} |"
        )
    return "\n".join(lines) + "\n"


def members_n(members: Sequence[Trial]) -> int:
    """Training images, to sort sizes by."""
    return members[0].train_n


def _scored(found: Sequence[rivals.Rival], trials: Sequence[Trial], best: Best) -> list[Scored]:
    scored = [Scored(rival, regrets(trials, rival.scores, best)) for rival in found]
    return [item for item in scored if len(item.regrets)]


def _find(scored: Sequence[Scored], start: str) -> Scored | None:
    return next((s for s in scored if s.rival.name.startswith(start)), None)


def _below_linear(item: Scored, trials: Sequence[Trial]) -> float | None:
    """Points by which the rule is below the linear head at most, over units, seeds averaged."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for trial in trials:
        if "linear" in trial.arms and trial.key in item.rival.scores:
            gap = trial.arms["linear"].accuracy - item.rival.scores[trial.key]
            groups.setdefault(trial.unit, []).append(100 * gap)
    return max((float(np.mean(values)) for values in groups.values()), default=None)


def _change(whole: Scored, item: Scored) -> float:
    shared = [unit for unit in item.regrets.units if unit in whole.regrets.units]
    return item.regrets.restricted(shared).mean - whole.regrets.restricted(shared).mean


def _cost(rival: rivals.Rival, trials: Sequence[Trial]) -> str:
    shares = [
        rival.compute[t.key] / total
        for t in trials
        if rival.compute and t.key in rival.compute and (total := rivals.all_seconds(t)) > 0
    ]
    return f"{float(np.mean(shares)):.0%}" if shares else "-"


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
