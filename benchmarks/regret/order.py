"""What is measured first: rows are planned by value, because on two cores all of them take days.

coarse    a few sizes and one seed over every data set: every cell of the textbook's table gets an answer
borders   the sizes on both sides of the table's cut, more seeds, then the learning rates
rest      every size and seed, published rivals, learning rates, arms without their safety net
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.regret.arms import AUTO, NO_LR, RACE, Arm
from benchmarks.regret.cases import SIZES, Case, Size, size_name

PASSES = ("coarse", "borders", "rest")
COARSE: tuple[Size, ...] = (5, 25, 100)
BORDERS: tuple[Size, ...] = (10, 25)


@dataclass(frozen=True)
class Cell:
    """One row to be measured."""

    case: Case
    size: Size
    seed: int
    arm: str
    lr: str

    def __str__(self) -> str:
        rate = "" if self.lr in ("1", NO_LR) else f" at {self.lr} of its rate"
        return f"{self.case.name}, {size_name(self.size)} a class, seed {self.seed}, {self.arm}{rate}"


def plan_cells(
    cases: Sequence[Case], arms: Sequence[Arm], *, sizes: Sequence[Size] = SIZES, seeds: int = 3,
    passes: Iterable[str] = PASSES, auto: bool = True, race: str | None = None,
) -> list[Cell]:  # fmt: skip
    """All rows of the passes, each once, the most telling first; within a step a data set's rows are together.

    ``race``: a time, as 10m, that auto is measured with too.
    """
    ordered: dict[Cell, None] = {}
    for name in passes:
        for step in _STEPS[name]:
            for seed in range(seeds if step.all_seeds else min(1, seeds)):
                for case in cases:
                    distinct = case.sizes(sizes)
                    for size in distinct if step.sizes is None else _some(distinct, step.sizes):
                        for arm, lr in _arms(arms, step, auto, race):
                            ordered.setdefault(Cell(case, size, seed, arm, lr))
    return list(ordered)


@dataclass(frozen=True)
class _Step:
    sizes: tuple[Size, ...] | None
    """None: every size that differs."""
    all_seeds: bool
    kind: str = "arm"
    grid: bool = False
    """All learning rates, or each arm's own."""


_STEPS: dict[str, tuple[_Step, ...]] = {
    "coarse": (_Step(COARSE, all_seeds=False),),
    "borders": (_Step(BORDERS, all_seeds=True), _Step(BORDERS, all_seeds=True, grid=True)),
    "rest": (
        _Step(None, all_seeds=True),
        _Step(None, all_seeds=True, kind="published"),
        _Step(None, all_seeds=True, grid=True),
        _Step(None, all_seeds=True, kind="no net"),
        _Step(None, all_seeds=True, kind="published", grid=True),
    ),
}


def _arms(arms: Sequence[Arm], step: _Step, auto: bool, race: str | None) -> list[tuple[str, str]]:
    # The decision first: its evidence is worth more than any single arm, and costs little.
    found = [(AUTO, NO_LR)] if auto and step.kind == "arm" else []
    if race is not None and step.kind == "arm":
        found.append((RACE + race, NO_LR))
    for arm in arms:
        if arm.kind == step.kind:
            found += [(arm.name, lr) for lr in (arm.rates if step.grid else arm.rates[:1])]
    return found


def _some(distinct: Sequence[Size], wanted: Sequence[Size]) -> list[Size]:
    """The wanted sizes a data set has; where it is too small for the largest of them, all of it instead."""
    chosen = [size for size in distinct if size in wanted]
    missing = [size for size in wanted if size is not None and size not in distinct]
    return [*chosen, *([None] if missing and None in distinct else [])]
