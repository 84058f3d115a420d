"""What a hostile reader asks of a report: both bounds, single trials, the same trials for all, small test sets."""

from __future__ import annotations

from planted import DATA, line, results, row, table

from benchmarks.regret.report import render


def test_both_bounds_are_shown_where_seeds_disagree() -> None:
    rows = table()
    for i, one in enumerate(rows):  # the last stage is best on one seed, the whole network on the other
        if one["arm"] in ("partial", "full"):
            lucky = (one["arm"] == "partial") == (one["seed"] == "0")
            rows[i] = {**one, "accuracy": str(0.92 if lucky else 0.90)}
        if one["arm"] == "auto":
            rows[i] = {**one, "accuracy": "0.905"}
    made, _ = render(*results(rows))
    assert line(made, "always partial")[1:3] == ["-1.00", "0.00"]
    assert line(made, "best single (partial)")[6] == "-"  # no gap at either bound
    assert line(made, "auto, as run")[1:3] == ["-0.50", "0.50"]
    assert line(made, "mean regret <= 0.7")[2] == "-0.50 .. 0.50, met"
    worse = [{**one, "accuracy": "0.895"} if one["arm"] == "auto" else one for one in rows]
    assert line(render(*results(worse))[0], "mean regret <= 0.7")[2] == (
        "0.50 .. 1.50, met at the lower bound only"
    )


def test_a_gap_that_only_hindsight_knows_is_marked() -> None:
    rows = []
    for data in DATA:  # on d and e the arm that was best on one seed is the worse one on the other
        for seed in (0, 1):
            first, second = (0.9, 0.8) if data in "de" else (0.8, 0.9)
            bump = 0.2 * (1 if seed else -1)
            rows += [row(data, "5", seed, "linear", first + bump * (data in "de"), test_n=200)]
            rows += [row(data, "5", seed, "multistage", second - bump * (data in "de"), test_n=200)]
    made, _ = render(*results(rows))
    assert line(made, "best single (multistage)")[6] == "0% h"
    assert float(line(made, "best single (multistage)")[1]) < 0 < float(line(made, "always multistage")[2])


def test_the_worst_single_trial_is_told_beside_the_average() -> None:
    rows = table()
    for i, one in enumerate(rows):
        if (one["data"], one["seed"], one["arm"]) == ("b", "1", "auto"):
            rows[i] = {**one, "accuracy": "0.5"}
    made, _ = render(*results(rows))
    se = 100 * ((0.7 * 0.3 + 0.5 * 0.5) / 100) ** 0.5
    assert line(made, "never more than 1 point below linear")[2] == "0.5, met"  # -19 and 20
    assert line(made, "no target: worst single trial")[2] == (
        f"20.0 +- {se:.1f} (b at 100, seed 1); more than 1 below in 1 of 10"
    )


def test_rules_measured_in_part_are_compared_on_their_own_trials() -> None:
    rows = [*table(), *[row(data, "100", 0, "auto, race 10m", 0.88) for data in "abcd"]]
    made, _ = render(*results(rows))
    assert line(made, "auto, race 10m")[8] == "**4 of 5**"
    paired = next(part for part in made.splitlines() if part.startswith("| auto, race 10m | +"))
    assert paired.startswith("| auto, race 10m | +2.00 |")
    assert paired.endswith("| 4 units, 4 trials |")
    assert line(made, "rule on the trials of")[1] == "auto, race 10m (4 units, 4 trials)"
    at = made.index("| rule on the trials of")
    assert line(made[at:], "always full")[1] == "2.00 .. 2.00"  # a and c, not e
    assert line(made[at:], "auto, race 10m")[1] == "2.00 .. 2.00"
    assert "rule on the trials of" not in render(*results(table()))[0]


def test_arms_and_schedules_measured_in_part_are_rules_on_their_units() -> None:
    rows = [*table()]
    for seed in (0, 1):
        rows += [row("a", "100", seed, "scratch", 0.3, "1"), row("b", "100", seed, "fastai", 0.91, "1")]
        rows += [row(data, "100", seed, "plain-full", 0.5, "1") for data in "abcd"]
    made, _ = render(*results(rows))
    assert "8 trials, each with the arms linear, partial, full, plain-full." in made  # 80% are most
    rows = [r for r in rows if (r["arm"], r["data"]) != ("plain-full", "d")]
    made, _ = render(*results(rows))
    assert "10 trials, each with the arms linear, partial, full." in made
    assert "table of arms: plain-full (6 of 10 groups of rows); scratch (2 of 10 groups of rows)." in made
    assert line(made, "always scratch")[1:3] == ["60.00", "60.00"]
    assert [line(made, name)[8] for name in ("always scratch", "always plain-full", "fastai")] == [
        "**1 of 5**", "**3 of 5**", "**1 of 5**"]  # fmt: skip
    at = made.index("| rule on the trials of")
    assert line(made[at:], "auto, as run")[1:] == ["1.00 .. 1.00", "1.00 .. 1.00", "1.00 .. 1.00"]
    assert "plain-full" not in made[made.index("| data set | size") :].splitlines()[0]
    assert 'Not measured: multistage, norm-bias, lp-ft, "partial, best stages"' in made


def test_small_test_sets_are_marked_and_told_apart() -> None:
    rows = [{**r, "test_n": "100" if r["data"] == "a" else "300"} for r in table()]
    made, _ = render(*results(rows))
    assert "| a | 100 | 100 / 100* |" in made
    assert "| b | 100 | 100 / 300 |" in made
    assert "whatever their sum: a. Seeds share" in made
    assert "best single (partial) 2.00 .. 2.00" in made  # two of the four others
    assert "test images a seed" not in render(*results([{**r, "test_n": "300"} for r in table()]))[0]


def test_what_left_out_leaves_in_is_told() -> None:
    made, _ = render(*results(table()))
    assert "Not left out, and set with data sets like these in view: the parts of similarity" in made
    assert line(made, "an arm a cell, left out")[8] == "5"


def test_no_gap_is_given_where_the_arms_lack_what_auto_does() -> None:
    own, tuned = results(table())
    made, _ = render(own, tuned, whole=own)
    whole = made[made.index("whole data sets\n") :]
    assert line(whole, "auto, as run")[6] == "-"
    assert line(whole, "gap closed >= 50%")[1:3] == ["not known", "not known"]
    assert line(made, "auto, as run")[6] == "38%"


def test_a_trial_without_another_seed_is_told() -> None:
    rows = [r for r in table() if (r["data"], r["seed"]) != ("e", "1")]
    made, _ = render(*results(rows))
    assert "**1 to 2 seeds** a unit" in made
    assert (
        "Without another seed there is no oracle: 1 of 9 trials, in the table of arms and among single trials only."
        in made
    )
