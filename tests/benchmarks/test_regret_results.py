"""Rows -> trials -> regrets, on rows whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
from planted import row, rows_of, trial

from benchmarks.regret.results import collect, tune
from benchmarks.regret.summary import FEWEST, alone, bootstrap, gap_closed, hindsight, oracle, paired, regrets


def test_the_rate_is_chosen_on_validation() -> None:
    rows = [
        row("a", "5", 0, "partial", 0.9, "1", val_accuracy=0.5, val_loss=1.0),
        row("a", "5", 0, "partial", 0.4, "3", val_accuracy=0.6, val_loss=2.0),
        row("a", "5", 0, "partial", 0.8, "1/3", val_accuracy=0.6, val_loss=1.5),
    ]
    found = tune(rows, 4)
    assert (found.lr, found.accuracy, found.seconds) == ("1/3", 0.8, 3.0)  # the test accuracy decides nothing
    tied = [row("a", "5", 0, "p", 0.1, lr, val_accuracy=0.6, val_loss=1.0) for lr in ("3", "1", "1/3")]
    assert tune(tied, 4).lr == "1"
    blind = [row("a", "5", 0, "p", 0.1, lr, val_accuracy=None) for lr in ("1/3", "1")]
    assert tune(blind, 4).lr == "1"
    broken = [row("a", "5", 0, "p", None, "3"), row("a", "5", 0, "p", 0.7, "1")]
    assert tune(broken, 4).accuracy == 0.7
    nothing = tune(broken[:1], 4)
    assert (nothing.failed, nothing.accuracy) == (True, 0.25)


def test_everyone_has_the_same_budget() -> None:
    rows = [
        row("a", "5", 0, "linear", 0.5),
        *[
            row("a", "5", 0, "partial", 0.6, lr, val_accuracy=0.9 if lr == "3" else 0.1)
            for lr in ("1", "1/3", "3")
        ],
        *[row("a", "5", 0, "lp-ft", 0.7, lr) for lr in ("1", "1/3")],
        row("a", "5", 0, "fastai", 0.7, "1"),
    ]
    (found,) = collect(rows, {}, {}).trials
    assert found.rates == {"1", "1/3"}
    assert found.arms["partial"].lr in found.rates
    assert "fastai" not in found.others  # it was tried at one rate only
    (own,) = collect(rows, {}, {}, own_rates=True).trials
    assert own.rates == {"1"}
    assert (own.arms["partial"].lr, own.others["fastai"].accuracy) == ("1", 0.7)


def test_what_is_left_out_is_counted() -> None:
    rows = [
        *rows_of({"a": {"linear": [0.5, 0.5], "partial": [0.6, 0.6]}}),
        row("b", "25", 0, "linear", 0.5),  # lacks partial
        *[row("c", "25", 0, arm, 0.5, lr, test_n=10) for arm, lr in (("linear", "-"), ("partial", "1"))],
        row("a", "25", 0, "linear", 0.1, recipe="other"),
        row("d", "25", 0, "linear", None),
    ]
    both = ["linear", "partial"]
    found = collect(rows, {}, {}, arms=both)
    assert [t.key for t in found.trials] == [("net@1", "a", "25", "0"), ("net@1", "a", "25", "1")]
    assert (found.incomplete, found.set_aside, found.failed_rows) == (2, 1, 1)
    assert found.small == ("c at 25 (net@1)",)
    assert len(collect(rows, {}, {}, arms=both, min_test=1).trials) == 3
    assert len(collect(rows, {}, {}, arms=["linear"]).trials) == 3
    assert [t.arms.keys() for t in collect(rows, {}, {}, recipes=["other"]).trials] == [{"linear"}]
    assert collect([], {}, {}).trials == ()


def test_a_few_rows_of_an_arm_do_not_empty_the_tables() -> None:
    rows = rows_of({data: {"linear": [0.5, 0.5], "partial": [0.6, 0.6]} for data in "abcde"})
    rows = [r for r in rows if (r["data"], r["seed"], r["arm"]) != ("e", "1", "partial")]
    rows += [row("a", "25", seed, "scratch", 0.1, "1") for seed in (0, 1)]
    rows += [row("a", "25", 0, "linear", 0.5, backbone="other@2")]
    found = collect(rows, {}, {})
    assert found.arms == {"net@1": ("linear", "partial"), "other@2": ("linear",)}
    assert found.partly == ("scratch (2 of 10 groups of rows, net@1)",)
    assert (len(found.trials), found.incomplete) == (10, 1)  # e's second seed lacks partial
    scratch = [t.key[1:] for t in found.trials if "scratch" in t.others]
    assert scratch == [("a", "25", "0"), ("a", "25", "1")]
    asked = collect(rows, {}, {}, arms=["linear", "partial", "scratch"])
    assert [t.key[1:] for t in asked.trials] == scratch
    assert (
        collect([row("a", "5", 0, "linear", 0.5), row("b", "5", 0, "multistage", 0.5)], {}, {}).trials == ()
    )


def test_rows_of_another_split_are_told() -> None:
    rows = rows_of({"a": {"linear": [0.5, 0.5], "partial": [0.6, 0.6]}})
    assert collect(rows, {}, {}).uneven == ()
    rows[-1] = {**rows[-1], "test_n": "98"}
    assert collect(rows, {}, {}).uneven == ("a at 25, seed 1 (100 and 98)",)


def test_each_backbone_has_its_own_recipe() -> None:
    rows = [
        *[row("a", "5", seed, "linear", 0.5, recipe="small") for seed in (0, 1)],
        row("a", "5", 2, "linear", 0.5, recipe="large"),
        row("a", "5", 0, "linear", 0.7, recipe="large", backbone="other@2"),
        row("a", "5", 1, "linear", 0.7, recipe="tiny", backbone="other@2"),
        row("a", "5", 2, "linear", 0.7, recipe="tiny", backbone="other@2"),
    ]

    def seeds(*recipes: str) -> list[tuple[str, str]]:
        return [(t.backbone, t.seed) for t in collect(rows, {}, {}, recipes=recipes).trials]

    assert seeds() == [("net@1", "0"), ("net@1", "1"), ("other@2", "1"), ("other@2", "2")]
    assert seeds("large") == [("net@1", "2"), ("other@2", "0")]
    assert seeds("small", "large") == [("net@1", "0"), ("net@1", "1"), ("other@2", "0")]
    found = collect(rows, {}, {})
    assert found.versions == {"net@1": ("small", "0"), "other@2": ("tiny", "0")}
    assert found.set_aside == 2


def test_a_failed_arm_guesses() -> None:
    rows = [row("a", "5", 0, "linear", 0.5), row("a", "5", 0, "scratch", None, "1")]
    (found,) = collect(rows, {}, {}).trials
    assert found.arms["scratch"].accuracy == 0.25


def test_the_oracle_sees_other_seeds_only() -> None:
    trials = [
        trial("a", 0, {"x": 0.9, "y": 0.5}),  # a lucky seed of x
        trial("a", 1, {"x": 0.4, "y": 0.6}),
        trial("a", 2, {"x": 0.4, "y": 0.7}),
    ]
    found = oracle(trials)
    assert [found[t.key] for t in trials] == [("y", 0.5), ("x", 0.4), ("x", 0.4)]
    assert [found[0] for found in oracle(trials, same_seed=True).values()] == ["x", "y", "y"]
    assert oracle(trials[:1]) == {}
    assert oracle([trial("a", s, {"x": 0.5, "y": 0.5}) for s in (0, 1)])[trials[0].key][0] == "x"


def test_hindsight_sees_all_seeds() -> None:
    trials = [
        trial("a", 0, {"x": 0.9, "y": 0.5}),
        trial("a", 1, {"x": 0.4, "y": 0.6}),
        trial("a", 2, {"x": 0.4, "y": 0.7}),
        trial("b", 0, {"x": 0.1, "y": 0.2}),
    ]
    assert list(hindsight(trials).values()) == [("y", 0.5), ("y", 0.6), ("y", 0.7), ("y", 0.2)]
    always_y = {t.key: t.arms["y"].accuracy for t in trials}
    lower, upper = (regrets(trials, always_y, found) for found in (oracle(trials), hindsight(trials)))
    assert lower.mean < upper.mean == 0


def test_known_regrets() -> None:
    trials = [
        trial(data, seed, {"good": good, "bad": good - loss}, size=size)
        for data, size, good, loss in (("a", "5", 0.9, 0.02), ("a", "25", 0.8, 0.06), ("b", "5", 0.7, 0.0))
        for seed in (0, 1)
    ]
    best = oracle(trials)
    found = regrets(trials, {t.key: t.arms["bad"].accuracy for t in trials}, best)
    assert {unit[1:]: round(v, 6) for unit, v in found.units.items()} == {
        ("a", "5"): 2.0, ("a", "25"): 6.0, ("b", "5"): 0.0}  # fmt: skip
    assert found.mean == pytest.approx((4.0 + 0.0) / 2)  # each data set counts once
    assert found.worst == pytest.approx(6.0)
    assert found.p90 == pytest.approx(np.percentile([2, 6, 0], 90))
    assert found.within_one == pytest.approx(1 / 3)
    none = regrets(trials, {t.key: t.arms["good"].accuracy for t in trials}, best)
    assert none.mean == none.worst == 0
    assert gap_closed(none, found) == 1
    assert gap_closed(found, found) == 0
    assert gap_closed(found, none) is None
    hardly = regrets(trials, {t.key: t.arms["good"].accuracy - 0.0005 for t in trials}, best)
    assert gap_closed(found, hardly) is None


def test_seeds_are_averaged_before_the_worst_is_taken() -> None:
    trials = [trial("a", s, {"x": 0.8, "y": v}) for s, v in enumerate((0.9, 0.6))]
    found = regrets(trials, {t.key: t.arms["y"].accuracy for t in trials}, dict.fromkeys(
        (t.key for t in trials), ("x", 0.8)))  # fmt: skip
    assert found.worst == pytest.approx(5.0)


def test_bootstrap_against_the_closed_form() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 30)
    found = bootstrap([[v] for v in values], draws=40_000)
    assert found is not None
    exact = values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.se == pytest.approx(exact, rel=0.02)
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * exact, values.mean() + 1.96 * exact), abs=0.15 * exact + 0.02
    )


def test_students_t_over_families() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, 6)
    found = bootstrap([[v] for v in values])
    assert found is not None
    assert found.df == 5
    half = 2.571 * values.std(ddof=1) / np.sqrt(6)
    assert (found.t_low, found.t_high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert found.t_high - found.t_low > found.high - found.low
    twins = bootstrap([[v, v] for v in values])
    assert twins is not None
    assert (twins.t_low, twins.t_high) == pytest.approx((found.t_low, found.t_high))
    many = bootstrap([[float(v)] for v in range(60)])
    assert many is not None
    assert many.df == 59


def test_pairs_are_of_the_same_trials() -> None:
    trials = [trial(f"d{i}", s, {"x": 0.8, "y": 0.7 - 0.4 * s}) for i in range(4) for s in (0, 1)]
    best = {t.key: ("x", 0.8) for t in trials}
    mine = regrets(trials, {t.key: t.arms["x"].accuracy for t in trials}, best)
    first = regrets(trials, {t.key: t.arms["y"].accuracy for t in trials if t.seed == "0"}, best)
    found = paired(mine, first)
    assert found is not None
    assert found.mean == pytest.approx(10)
    assert len(mine.shared(first).trials) == 4


def test_relatives_are_one_witness() -> None:
    values = np.random.default_rng(1).normal(0.0, 1.0, 8)
    lone = bootstrap([[v] for v in values])
    twins = bootstrap([[v, v, v] for v in values])
    assert lone is not None
    assert twins is not None
    assert twins.se == pytest.approx(lone.se)  # three copies of each tell nothing new
    strangers = bootstrap([[v] for v in np.repeat(values, 3)])
    assert strangers is not None
    assert strangers.se == pytest.approx(lone.se / np.sqrt(3), rel=0.05)
    assert bootstrap([[1.0, 2.0, 3.0]] * (FEWEST - 1)) is None


def test_paired_differences_cancel_what_is_common() -> None:
    hard = np.random.default_rng(2).uniform(0.3, 0.9, 10)
    trials = [trial(f"d{i}", s, {"x": a, "y": a - 0.03}) for i, a in enumerate(hard) for s in (0, 1)]
    best = {t.key: ("x", 0.95) for t in trials}
    mine, other = (regrets(trials, {t.key: t.arms[n].accuracy for t in trials}, best) for n in "xy")
    found = paired(mine, other)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3, 3))
    apart = alone(mine)
    assert apart is not None
    assert apart.high - apart.low > 5
