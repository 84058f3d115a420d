"""The search space: what can be written, what it means, and how it narrows."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.recipe import Recipe
from finetune.search.dimension import Dimension
from finetune.search.space import default_space, grid, parse_space, settled, values_of
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.task import MULTI_LABEL, REGRESSION

TUNED = Plan(
    strategy="lp-ft",
    phases=(
        ProbePhase(candidates=((4,),)),
        GradientPhase(train_from=1, epochs=10, lr=0.01, head_lr=0.1, stage_decay=0.7, augment="light"),
    ),
)


def test_every_form_from_strings_files_and_mappings(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("train:\n  lr: log(1e-4, 1e-1)\n  augment: [none, light]\nprobe.folds: int(2, 5)\n")
    space = parse_space(
        [str(file), "head_lr=ratio(1,100)", "label_smoothing=uniform(0,0.2)", "lr=log(1e-3,1)"]
    )
    assert {d.key: str(d) for d in space} == {
        "train.lr": "log(0.001, 1.0)",  # the later one
        "train.augment": "choice(none, light)",
        "probe.folds": "int(2.0, 5.0)",
        "train.head_lr": "ratio(1.0, 100.0)",
        "train.label_smoothing": "uniform(0.0, 0.2)",
    }
    assert parse_space({d.key: str(d) for d in space}) == space, "the text is read back as it was"
    assert parse_space(["ema=choice(null, 0.99)"])[0].choices == (None, 0.99)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("train.lrr=log(1,2)", 'train.lrr: unknown key. Did you mean "train.lr"'),
        ("seed=int(1,9)", "seed must be one of the keys of train or probe, or strategy"),
        ("lr=logg(1,2)", "Got 'logg(1,2)' instead. Did you mean \"log\"?"),
        ("lr=0.1", "train.lr must be log(a,b), uniform(a,b), int(a,b), choice(a,b,...) or ratio(a,b)"),
        ("lr=log(0,1)", "train.lr must be log(a,b) with a > 0"),
        ("lr=log(1,0.1)", "train.lr must be log(a,b) with numbers a < b"),
        ("epochs=int(1.5,3)", "train.epochs must be int(a,b) with whole numbers"),
        ("label_smoothing=uniform(0,2)", "train.label_smoothing: must be less than 1. Got 2.0"),
        ("augment=choice(none,heavy)", "Got 'heavy' instead"),
        ("augment=choice(none)", "train.augment must be a choice of at least two different values"),
        ("momentum=ratio(1,2)", "train.momentum must be a learning rate where ratio(a,b)"),
        ("strategy=choice(auto,full)", "strategy must be strategies by name, without auto"),
        ("strategy=choice(ful,partial)", 'Did you mean "full"'),
    ],
)
def test_mistakes_are_named(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_space([spec])


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"2 problems in the search space:\n  - train.lr must.*\n  - foo: unknown"
    ):
        parse_space(["lr=log(0,1)", "foo=int(1,2)"])
    with pytest.raises(ConfigError, match="Search space .*nowhere.yaml' does not exist"):
        parse_space(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="at least one KEY=SPEC"):
        parse_space([])


def test_narrowing_keeps_the_good_values_and_a_margin() -> None:
    log = Dimension("train.lr", "log", 1e-4, 1.0).narrowed([1e-3, 3e-3])
    assert 1e-4 < log.low < 1e-3 < 3e-3 < log.high < 1e-2
    assert math.log(1e-3 / log.low) == pytest.approx(0.1 * math.log(1e4), rel=0.01)
    plain = Dimension("train.label_smoothing", "uniform", 0.0, 0.2).narrowed([0.01, 0.03])
    assert (plain.low, plain.high) == (0.0, 0.05)
    whole = Dimension("train.epochs", "int", 1, 100).narrowed([20, 30])
    assert (whole.low, whole.high) == (10, 40)
    assert log.narrowed([]) is log


def test_the_grid_spreads_over_all_keys() -> None:
    space = parse_space(["lr=log(1e-3,1e-1)", "label_smoothing=uniform(0,0.2)", "augment=choice(none,light)"])
    cells = grid(space, 18)
    assert len(cells) == 3 * 3 * 2
    assert {cell["train.lr"] for cell in cells} == {1e-3, 1e-2, 1e-1}
    assert {cell["train.label_smoothing"] for cell in cells} == {0.0, 0.1, 0.2}
    assert len(grid(space, 1)) == 2 * 2 * 2, "ends at least"


def test_ratios_follow_the_learning_rate() -> None:
    space = parse_space(["head_lr=ratio(1,100)", "lr=log(1e-3,1)"])
    recipe = settled(Recipe(), {"train.head_lr": 20.0, "train.lr": 0.05}, space, lr=0.01)
    assert (recipe.train.lr, recipe.train.head_lr) == (0.05, 1.0)
    assert settled(Recipe(), {"train.head_lr": 20.0}, space, lr=0.01).train.head_lr == pytest.approx(0.2)
    assert "train" not in settled(Recipe(), {"strategy": "full"}, space, None).model_fields_set


def test_the_default_is_a_point_of_its_own_space() -> None:
    space = default_space(TUNED)
    assert {d.key for d in space} >= {"train.lr", "train.head_lr", "train.weight_decay", "train.augment"}
    start = values_of(TUNED, Recipe(), space)
    assert start.keys() == {d.key for d in space}
    assert (start["train.lr"], start["train.augment"]) == (0.01, "light")
    assert start["train.head_lr"] == pytest.approx(10.0)
    lr = next(d for d in space if d.key == "train.lr")
    assert (lr.low, lr.high) == (0.001, 0.1)
    outside = parse_space(["lr=log(0.1,1)", "augment=choice(none,light)"])
    assert values_of(TUNED, Recipe(), outside) == {"train.augment": "light"}


def test_other_tasks_vary_what_they_have_a_place_for() -> None:
    keys = {d.key for d in default_space(TUNED)}
    assert {d.key for d in default_space(TUNED, MULTI_LABEL)} == keys
    assert {d.key for d in default_space(TUNED, REGRESSION)} == keys - {"train.label_smoothing"}
    one, several = (Plan(strategy="x", phases=(ProbePhase(candidates=c),)) for c in (((4,),), ((3,), (4,))))
    assert {d.key for d in default_space(one, MULTI_LABEL)} == {"probe.norms"}
    assert {d.key for d in default_space(several, REGRESSION)} == {"probe.norms", "probe.combine"}
    assert {d.key for d in default_space(several)} == {"probe.solver", "probe.norms"}


def test_a_head_alone_has_a_space_too() -> None:
    plan = Plan(strategy="linear", phases=(ProbePhase(candidates=((4,),), solver="ridge"),))
    assert {d.key for d in default_space(plan)} == {"probe.solver", "probe.norms"}
    assert values_of(plan, Recipe(), default_space(plan)) == {
        "probe.solver": "ridge",
        "probe.norms": "source",
    }
