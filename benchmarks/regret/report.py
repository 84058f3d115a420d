"""Tables for docs/regret.md, each saying what it rests on. Where rows are missing there is a sentence, not a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.regret import figures, rivals
from benchmarks.regret.ablations import ablated
from benchmarks.regret.arms import ARMS, AUTO, RACE
from benchmarks.regret.calibrate import arm_a_cell, calibrated, single_scorers
from benchmarks.regret.cases import size_order
from benchmarks.regret.recipes import told
from benchmarks.regret.results import Results, Trial
from benchmarks.regret.scored import score
from benchmarks.regret.summary import FEWEST, alone, oracle
from benchmarks.regret.tables import (
    ablation_table,
    arms_table,
    few_tested,
    left_out_text,
    paired_table,
    partly_table,
    rules_table,
    thresholds_text,
)
from benchmarks.regret.targets import DECIDING, NOTE, RACING, decision_time, targets_table
from finetune.errors import RunError, must
from finetune.files import atomic_write_bytes, atomic_write_text

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"

_WHOLE = (
    "From [cells.csv](../benchmarks/cells.csv). What `auto` does, tuning from a head on several stages, is none of "
    "these arms: its regret can be below 0, and then the arms lack it. So no share of a gap is "
    "given, and the upper bound is one among these arms only."
)

Pictures = dict[str, Callable[[], bytes]]
"""File name -> what draws it."""


def write_report(
    own: Results,
    tuned: Results,
    document: Path,
    whole: Results | None = None,
    keys: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
) -> None:
    """Put the tables between the marks in ``document`` and the pictures into a folder of its name beside it.

    own: every arm at its own learning rate; tuned: rates chosen on validation; whole: whole data sets; keys: recipe
    digest -> what the recipe sets; more: sections that follow. Raises RunError without the marks.
    """
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise RunError(must(str(document), f"a file with one {BEGIN} and, below it, one {END}", "another"))
    made, pictures = render(own, tuned, document.stem, whole, keys)
    made = "\n".join([made, *more])
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    for name, draw in pictures.items():
        atomic_write_bytes(document.parent / document.stem / name, draw())
    atomic_write_text(document, f"{before}\n\n{made.strip()}\n\n{after}")


def render(
    own: Results,
    tuned: Results,
    folder: str = "regret",
    whole: Results | None = None,
    keys: Mapping[str, str] | None = None,
) -> tuple[str, Pictures]:
    """Markdown and pictures of all sections for which there are rows. keys: recipe digest -> what the recipe sets."""
    if not own.trials and not tuned.trials:
        lacks = f" {own.incomplete} groups of rows lack an arm." if own.incomplete else ""
        return f"No complete rows yet, so there is nothing to report.{lacks}\n", {}
    parts = [basis(own if own.trials else tuned, keys)]
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
    for backbone in whole.backbones if whole is not None else ():
        made, drawn = section(whole.of(backbone), f"{backbone}, whole data sets", folder, lacking=True)
        heading, _, rest = made.partition("\n")
        parts += [f"{heading}\n", f"{_WHOLE} {basis(whole)}", rest]
        pictures |= drawn
    return "\n".join(parts), pictures


def basis(results: Results, keys: Mapping[str, str] | None = None) -> str:
    """What all of it rests on, plainly. keys: recipe digest -> what the recipe sets."""
    trials = results.trials
    data = sorted({t.data for t in trials})
    families = sorted({t.family for t in trials})
    repeats = sorted(Counter(t.unit for t in trials).values())
    seeds = (
        _count(repeats[0], "seed") if repeats[0] == repeats[-1] else f"{repeats[0]} to {repeats[-1]} seeds"
    )
    sizes = sorted({t.size for t in trials}, key=size_order)
    lines = [
        f"These tables rest on **{_count(len(data), 'data set')}** of {_count(len(families), 'family')}, sizes "
        f"{', '.join(sizes)} (labelled images a class), **{seeds}** a unit, "
        f"{_count(len(results.backbones), 'backbone')}: {_count(len(trials), 'trial')}, each with the arms "
        f"{_arms(results)}.",
        "",
        f"- Data sets: {', '.join(data)}.",
        *_versions(results, keys),
        f"- Commits {', '.join(results.commits) or 'unknown'}; machines: {'; '.join(results.machines)}.",
        f"- Failed rows: {results.failed_rows} (an arm without any network in a trial is scored as guessing).",
        f"- Left out: {_count(results.incomplete, 'group')} of rows without every arm; "
        f"{_count(results.set_aside, 'row')} of other recipes or code versions; test sets too small to tell arms "
        f"apart: {', '.join(results.small) or 'none'}.",
    ]
    if results.partly:
        lines.append(
            f"- Measured in part, left out of the oracle and of the table of arms: {'; '.join(results.partly)}. Among "
            "the rules they stand with the units that they were measured on."
        )
    measured = {name for names in results.arms.values() for name in names}
    measured |= {said.split(" (")[0] for said in results.partly}
    measured |= {name for t in trials for name in t.others}
    missing = [n for n, arm in ARMS.items() if arm.kind != "no net" and n not in measured]
    if missing:
        lines.append(f"- Not measured: {_listed(missing)}.")
    if results.uneven:
        many = _count(len(results.uneven), "group")
        lines.append(
            f"- **{many} of rows were tested on different numbers of images**, so their splits are not the same: "
            f"{'; '.join(results.uneven)}."
        )
    if len(results.commits) > 1:
        lines.append(f"- **Rows of {len(results.commits)} commits stand side by side.**")
    if len(families) < FEWEST:
        lines.append(f"- **Fewer than {FEWEST} families: no intervals are given, and little follows.**")
    return "\n".join(lines) + "\n"


def _arms(results: Results) -> str:
    """The arms of the trials; of each backbone where they differ."""
    found = {name: _listed(results.arms[name]) for name in results.backbones}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{names} ({backbone})" for backbone, names in found.items())


def _versions(results: Results, keys: Mapping[str, str] | None) -> list[str]:
    """A line a backbone: rows of several may come from a recipe each."""
    known = [results.versions[name] for name in results.backbones]
    if len(set(known)) == 1:
        return [f"- Recipe {told(known[0][0], keys or {})}, code {known[0][1]}."]
    return [
        f"- {name}: recipe {told(recipe, keys or {})}, code {code}."
        for name, (recipe, code) in zip(results.backbones, known, strict=True)
    ]


def section(
    trials: Sequence[Trial], title: str, folder: str, *, lacking: bool = False
) -> tuple[str, Pictures]:
    """All tables and pictures of some trials of one backbone.

    lacking: what auto does is none of the arms, so the gap to the best of them is no scale for it.
    """
    best = oracle(trials)
    warning = ""
    if not best:
        best = oracle(trials, same_seed=True)
        warning = (
            "**One seed only: the oracle was chosen on the very test it is scored on, so every regret below is too "
            "large. These figures are a look at the machinery, not a result.**\n\n"
        )
    scored = score(rules(trials), trials, best)
    single = next((s for s in scored if s.rival.name.startswith("best single (")), None)
    reference = None if lacking else single
    races = [s for s in scored if s.rival.name.startswith(RACE)]
    autos = [s for s in scored if s.rival.name.startswith(AUTO) and s not in races]
    parts = [f"### {title}\n", warning + rules_table(scored, reference, trials, best)]
    parts.append(partly_table(scored))
    parts.append(paired_table([*autos, *races], scored))
    parts.append(targets_table(autos, reference, trials, DECIDING))
    parts.append(decision_time(trials))
    parts.append(targets_table(races, reference, trials, RACING))
    parts.append(NOTE if autos or races else "")
    parts.append(ablation_table(score(ablated(trials), trials, best)))
    parts.append(thresholds_text(trials))
    parts.append(left_out_text(scored))
    parts.append(arms_table(trials))
    parts.append(few_tested(scored, trials))
    most = max(len(s.regrets) for s in scored)
    stem = "".join(c if c.isalnum() else "-" for c in title).strip("-")
    draws: Pictures = {
        # Rules on other units have other oracles: their bars would stand beside what they cannot be compared with.
        "rules": lambda: figures.bars(
            {s.rival.name: (s.regrets, alone(s.regrets)) for s in scored if len(s.regrets) == most}
        ),
        "sizes": lambda: figures.by_size(trials),
    }
    if any(t.record is not None for t in trials):
        draws["plane"] = lambda: figures.plane(trials, best)
    parts += [f"![{name}, {title}]({folder}/{stem}-{name}.png)\n" for name in draws]
    return "\n".join(part for part in parts if part), {
        f"{stem}-{name}.png": draw for name, draw in draws.items()
    }


def rules(trials: Sequence[Trial]) -> list[rivals.Rival]:
    """Every rule that has something to go by in these rows."""
    fitted = [rival for rival in (calibrated(trials),) if rival is not None]
    celled = [rival for rival in (arm_a_cell(trials),) if rival is not None]
    found = [
        rivals.auto_choice(trials),
        rivals.auto_as_run(trials),
        *rivals.raced(trials),
        *fitted,
        *rivals.always(trials, list(trials[0].arms)),
        *rivals.partly(trials),
        *rivals.published(trials),
        rivals.textbook_by_counts(trials),
        *celled,
        *single_scorers(trials),
        rivals.random_arm(trials),
        rivals.best_single(trials),
        rivals.validating_in_time(trials),
        rivals.validating(trials),
    ]
    return [rival for rival in found if rival.scores]


def _listed(names: Sequence[str]) -> str:
    """With quotes around those that have a comma of their own."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def _count(n: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"
