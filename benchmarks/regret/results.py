"""Rows -> trials: what every arm reached on one data set at one size with one seed, rates chosen on validation."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.regret.arms import ARMS, AUTO, BEST, GRID, NO_LR, RACE
from benchmarks.regret.cases import Families, family_of
from benchmarks.regret.ledger import Key, Row, key_of

_MOST = 0.8
"""Share of the groups of rows that an arm must be in to be an arm of every trial, where none are named."""

Unit = tuple[str, str, str]
"""(backbone, data set, size): seeds repeat a unit."""


@dataclass(frozen=True)
class Outcome:
    """An arm's figures, its learning rate chosen as a user chooses it."""

    accuracy: float
    """On the test set, a share."""
    val_accuracy: float | None = None
    val_loss: float | None = None
    seconds: float = 0.0
    """Of all learning rates that were tried."""
    lr: str = NO_LR
    failed: bool = False
    """No learning rate gave a network: the arm is scored as guessing."""


@dataclass(frozen=True)
class Trial:
    """One data set at one size with one seed on one backbone."""

    data: str
    size: str
    seed: str
    backbone: str
    family: str
    classes: int
    train_n: int
    test_n: int
    arms: Mapping[str, Outcome]
    """Of the arms that may be chosen."""
    others: Mapping[str, Outcome] = field(default_factory=dict)
    """Whatever else was measured: published schedules, arms without their safety net, arms of some trials only."""
    auto: Outcome | None = None
    """As a user would have run it."""
    raced: Mapping[str, Outcome] = field(default_factory=dict)
    """The same with a time for a race, by name."""
    decide_seconds: float | None = None
    record: Mapping[str, Any] | None = None
    """The evidence of auto's decision."""
    rates: frozenset[str] = frozenset()
    """Learning rates, as multiples, that every arm was tried at."""

    @property
    def unit(self) -> Unit:
        """What its seeds repeat."""
        return self.backbone, self.data, self.size

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The unit and the seed."""
        return (*self.unit, self.seed)

    @property
    def chosen(self) -> str | None:
        """Auto's choice as it was decided, where that is one of the arms measured here."""
        name = None if self.record is None else self.record["decision"]["chosen"]
        return None if name is None else self.arm_of(name)

    def arm_of(self, strategy: str) -> str | None:
        """The arm that auto means by a strategy: with the best stages under its first head, where that was measured."""
        return next((name for name in (strategy + BEST, strategy) if name in self.arms), None)


@dataclass(frozen=True)
class Results:
    """Everything a report rests on, and what it leaves out."""

    trials: tuple[Trial, ...]
    arms: Mapping[str, tuple[str, ...]]
    """Backbone -> those that every trial of it has."""
    partly: tuple[str, ...]
    """Arms that are not among them, and in how many groups of rows they are."""
    incomplete: int
    """Groups of rows that lack an arm and are not among the trials."""
    small: tuple[str, ...]
    """Units whose test sets, seeds together, are too small to tell arms apart."""
    uneven: tuple[str, ...]
    """Trials whose rows have test sets of different sizes: the splits are not the same."""
    failed_rows: int
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    versions: Mapping[str, tuple[str, str]]
    """Backbone -> recipe digest and code version of its rows."""
    set_aside: int
    """Rows of other recipes or code versions."""

    def of(self, backbone: str) -> tuple[Trial, ...]:
        """The trials of one backbone."""
        return tuple(t for t in self.trials if t.backbone == backbone)

    @property
    def backbones(self) -> list[str]:
        """Names, sorted."""
        return sorted({t.backbone for t in self.trials})


def collect(
    rows: Sequence[Row], records: Mapping[Key, Mapping[str, Any]], families: Families, *,
    arms: Collection[str] = (), own_rates: bool = False, min_test: int = 50, recipes: Collection[str] = (),
    code: str | None = None,
) -> Results:  # fmt: skip
    """Trials of one recipe and code version a backbone: of those asked for the ones with most rows.

    ``recipes``: digests; none: any. ``own_rates`` looks at each arm's own learning rate only; else each has the best on
    validation of those that all arms of the trial were tried at. A trial has every arm: those named, else of its
    backbone those that most groups of rows have, for a few rows of one more arm must not empty the tables. Units with
    fewer than ``min_test`` test images over their seeds are left out: one image of ten is ten points, whoever is right.
    """
    versions = _versions(rows, recipes, code)
    if not versions:
        return Results((), {}, (), 0, (), (), 0, (), (), {}, len(rows))
    kept = [row for row in rows if (row["recipe"], row["code"]) == versions.get(row["backbone"])]
    of_version = len(kept)
    kept = [row for row in kept if not own_rates or row["lr"] in ("1", NO_LR)]
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in kept:
        groups[row["backbone"], row["data"], row["size"], row["seed"]].append(row)
    counts = _counts(groups)
    wanted = {backbone: _wanted(backbone, counts, arms) for backbone in counts}
    found = [_trial(group, wanted[key[0]], records, families) for key, group in sorted(groups.items())]
    trials = [trial for trial in found if trial is not None]
    tested: Counter[Unit] = Counter()
    for trial in trials:
        tested[trial.unit] += trial.test_n
    small = {unit for unit, n in tested.items() if n < min_test}
    return Results(
        trials=tuple(t for t in trials if t.unit not in small),
        arms={backbone: tuple(names) for backbone, names in wanted.items()},
        partly=tuple(
            f"{name} ({seen[name]} of {seen['']} groups of rows{f', {backbone}' if len(counts) > 1 else ''})"
            for backbone, seen in counts.items()
            for name in _in_order(seen)
            if name and name not in wanted[backbone]
        ),
        incomplete=len(found) - len(trials),
        small=tuple(sorted(f"{data} at {size} ({backbone})" for backbone, data, size in small)),
        uneven=tuple(_uneven(key, groups[key]) for key in sorted(groups) if len(_tested(groups[key])) > 1),
        failed_rows=sum(row["status"] != "ok" for row in kept),
        commits=tuple(sorted({row["commit"] for row in kept if row["commit"]})),
        machines=tuple(sorted({row["machine"] for row in kept})),
        versions=versions,
        set_aside=len(rows) - of_version,
    )


def _versions(rows: Sequence[Row], recipes: Collection[str], code: str | None) -> dict[str, tuple[str, str]]:
    """Of each backbone the (recipe, code) that has most of the rows that are asked for."""
    counts: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for row in rows:
        if (not recipes or row["recipe"] in recipes) and code in (None, row["code"]):
            counts[row["backbone"]][row["recipe"], row["code"]] += 1
    return {backbone: count.most_common(1)[0][0] for backbone, count in sorted(counts.items())}


def _counts(groups: Mapping[tuple[str, ...], Sequence[Row]]) -> dict[str, Counter[str]]:
    """Backbone -> arm -> groups of rows that have it; under "" all groups."""
    counts: dict[str, Counter[str]] = {}
    for (backbone, *_), rows in sorted(groups.items()):
        seen = counts.setdefault(backbone, Counter())
        seen.update({"", *(row["arm"] for row in rows if _chooses(row["arm"]))})
    return counts


def _wanted(backbone: str, counts: Mapping[str, Counter[str]], named: Collection[str]) -> list[str]:
    """The arms of a backbone's trials, in order: those named that any row has, else those of most groups."""
    if named:
        return _in_order(name for seen in counts.values() for name in seen if name in named)
    seen = counts[backbone]
    return _in_order(name for name, n in seen.items() if name and n >= _MOST * seen[""])


def _tested(rows: Sequence[Row]) -> list[str]:
    return sorted({row["test_n"] for row in rows if row["status"] == "ok"})


def _uneven(key: tuple[str, ...], rows: Sequence[Row]) -> str:
    _, data, size, seed = key
    return f"{data} at {size}, seed {seed} ({' and '.join(_tested(rows))})"


def _in_order(names: Iterable[str]) -> list[str]:
    present = dict.fromkeys(names)
    return [*(n for n in ARMS if n in present), *sorted(n for n in present if n not in ARMS)]


def _chooses(name: str) -> bool:
    return name != AUTO and not name.startswith(RACE) and (name not in ARMS or ARMS[name].kind == "arm")


def _trial(
    rows: Sequence[Row], wanted: Sequence[str], records: Mapping[Key, Mapping[str, Any]], families: Families
) -> Trial | None:
    """None where an arm is missing, or nothing worked."""
    by_arm: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_arm[row["arm"]][row["lr"]] = row
    good = [row for row in rows if row["status"] == "ok"]
    if not good or not wanted or any(name not in by_arm for name in wanted):
        return None
    first = good[0]
    classes = int(first["classes"])
    # The same budget for everyone: only rates that every arm with rates was tried at.
    common = _common_rates([by_arm[name] for name in wanted])
    if common is None:
        return None
    auto, record = by_arm.get(AUTO, {}).get(NO_LR), None
    if auto is not None and auto["status"] == "ok":
        record = records.get(key_of(auto))
    others: dict[str, Outcome] = {}
    raced = {
        name: tune(list(tried.values()), classes)
        for name, tried in by_arm.items()
        if name.startswith(RACE) and any(row["status"] == "ok" for row in tried.values())
    }
    for name, tried in by_arm.items():
        if name in wanted or name == AUTO or name.startswith(RACE):
            continue
        if NO_LR in tried:
            others[name] = tune([tried[NO_LR]], classes)
        elif common and common <= set(tried):
            others[name] = tune([tried[lr] for lr in sorted(common)], classes)
    return Trial(
        data=first["data"], size=first["size"], seed=first["seed"], backbone=first["backbone"],
        family=family_of(first["data"], families), classes=classes,
        train_n=int(first["train_n"]), test_n=int(first["test_n"]),
        arms={name: tune([r for lr, r in by_arm[name].items() if lr in common or lr == NO_LR], classes)
              for name in wanted},
        others=others, raced=raced,
        auto=None if auto is None or auto["status"] != "ok" else tune([auto], classes),
        decide_seconds=_number(auto["decide_seconds"]) if auto is not None else None,
        record=record, rates=frozenset(common),
    )  # fmt: skip


def _common_rates(tried: Sequence[Mapping[str, Row]]) -> set[str] | None:
    """Multiples that all arms with any have; None where they share none."""
    sets = [set(rates) - {NO_LR} for rates in tried]
    with_rates = [s for s in sets if s]
    if not with_rates:
        return set()
    common = set.intersection(*with_rates)
    return common or None


def tune(rows: Sequence[Row], classes: int) -> Outcome:
    """The learning rate of best validation accuracy; ties by log-loss, then the one nearest to the arm's own."""
    good = [row for row in rows if row["status"] == "ok"]
    seconds = sum(_number(row["seconds"]) or 0.0 for row in rows)
    if not good:
        return Outcome(1 / classes, seconds=seconds, failed=True)

    def merit(row: Row) -> tuple[float, float, float]:
        accuracy, loss = _number(row["val_accuracy"]), _number(row["val_loss"])
        distance = abs(math.log(GRID.get(row["lr"], 1.0)))
        return (
            -math.inf if accuracy is None else accuracy,
            -math.inf if loss is None else -loss,
            -distance,
        )

    best = max(good, key=merit)
    return Outcome(
        accuracy=float(best["accuracy"]), val_accuracy=_number(best["val_accuracy"]),
        val_loss=_number(best["val_loss"]), seconds=seconds, lr=best["lr"],
    )  # fmt: skip


def _number(text: str) -> float | None:
    return float(text) if text not in ("", "None", None) else None
