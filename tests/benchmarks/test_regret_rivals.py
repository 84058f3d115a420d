"""Rules that choose, on trials where the right choice was planted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted import FAR, NEAR, evidence, record, trial

from benchmarks.regret import rivals
from benchmarks.regret.ablations import ABLATIONS, Usual, ablated, without_stages
from benchmarks.regret.arms import NET
from benchmarks.regret.calibrate import (
    arm_a_cell,
    by_thresholds,
    calibrated,
    cell_now,
    evidence_of,
    fit_split,
    fit_thresholds,
    scorers,
    single_scorers,
)
from benchmarks.regret.results import Outcome, Trial
from benchmarks.regret.summary import Scores
from finetune.strategy.decision import decide
from finetune.strategy.measure import Evidence
from finetune.strategy.table import THRESHOLDS


def accuracy(scores: Scores) -> float:
    return float(np.mean(list(scores.values())))


def test_always_random_and_hindsight() -> None:
    trials = [
        trial("a", 0, {"x": 0.9, "y": 0.5}),
        trial("b", 0, {"x": 0.4, "y": 0.6}),
        *[trial("c", s, {"x": 0.0, "y": 1.0}) for s in range(3)],
    ]
    x, y = rivals.always(trials, ["x", "y"])
    assert [list(x.scores.values()), list(y.scores.values())] == [[0.9, 0.4, 0, 0, 0], [0.5, 0.6, 1, 1, 1]]
    assert list(rivals.random_arm(trials).scores.values()) == pytest.approx([0.7, 0.5, 0.5, 0.5, 0.5])
    assert rivals.best_arm(trials) == "y"
    assert rivals.best_arm([*trials[:2], *trials[2:3] * 1]) == "y"
    assert rivals.best_single(trials).name == "best single (y)"


def test_counts_alone() -> None:
    arms = {"linear": 0.1, "partial": 0.2, "lp-ft": 0.3}
    trials = [trial("a", 0, arms, size=str(m), train_n=4 * m) for m in (5, 100, 1000)]
    assert list(rivals.textbook_by_counts(trials).scores.values()) == [0.1, 0.2, 0.3]


def test_validating_without_limit_and_in_autos_time() -> None:
    arms, validation = (
        {"linear": 0.5, "partial": 0.6, "full": 0.7},
        {"linear": 0.5, "partial": 0.8, "full": 0.9},
    )
    seconds = {"linear": 1.0, "partial": 10.0, "full": 100.0}
    found = trial("a", 0, arms, validation=validation, seconds=seconds, decide_seconds=2.0,
                  record={"decision": {"chosen": "partial"}})  # fmt: skip
    whole = rivals.validating([found])
    assert whole.scores == {found.key: 0.7}
    assert whole.compute == {found.key: 111.0}
    brief = rivals.validating_in_time([found])  # 2 + 10 seconds: linear and partial
    assert brief.scores == {found.key: 0.6}
    assert brief.compute == {found.key: 11.0}
    cheap = dataclasses.replace(found, record={"decision": {"chosen": "linear"}})
    assert rivals.validating_in_time([cheap]).scores == {found.key: 0.5}
    assert rivals.validating_in_time([dataclasses.replace(found, record=None)]).scores == {}
    tied = trial("a", 0, arms, validation=dict.fromkeys(arms, 0.8), seconds=seconds)
    assert rivals.validated(tied, list(arms)) == "linear"
    assert rivals.auto_choice([found]).scores == {found.key: 0.6}
    assert rivals.auto_choice([found]).compute == {found.key: 12.0}


def test_the_textbook_may_name_an_arm_that_the_oracle_lacks() -> None:
    found = trial("a", 0, {"linear": 0.1}, train_n=4000, others={"lp-ft": Outcome(0.3)})
    assert rivals.textbook_by_counts([found]).scores == {found.key: 0.3}
    assert [(r.name, list(r.scores.values())) for r in rivals.partly([found])] == [("always lp-ft", [0.3])]


def test_published_schedules_are_no_choices() -> None:
    found = trial("a", 0, {"linear": 0.5}, others={"fastai": Outcome(0.9), "lp-ft" + NET: Outcome(0.8)})
    assert [(r.name, list(r.scores.values())) for r in rivals.published([found])] == [("fastai", [0.9])]


# --- thresholds -----------------------------------------------------------------------------------------------


def planted(switch: int, families: int = 4) -> list[Trial]:
    """Near the source the linear head is best below ``switch`` images a class, the last stage from it on."""
    made = []
    for i in range(families):
        for per_class in (20, 60, 120, 200, 400):
            arms = dict.fromkeys(("linear", "multistage", "partial", "lp-ft", "full"), 0.5)
            arms["linear" if per_class < switch else "partial"] = 0.9
            found = evidence(NEAR, per_class, seed=i)
            made.append(trial(f"d{i}", 0, arms, size=str(per_class), train_n=4 * per_class,
                              record=record(found, logme=per_class / 100)))  # fmt: skip
    return made


def test_evidence_comes_back_from_json() -> None:
    for strengths in (NEAR, FAR):
        found = evidence(strengths, 50)
        assert evidence_of(record(found)) == found
        assert decide(evidence_of(record(found))).to_dict() == decide(found).to_dict()
    tree = record(evidence(NEAR, 50))
    del tree["decision"]["evidence"]["stages"]
    with pytest.raises(
        ValueError, match="The stored evidence is of another version: .*stages.* Measure auto again"
    ):
        evidence_of(tree)


def test_thresholds_are_found_and_judged_on_what_was_left_out() -> None:
    trials = planted(150)
    before = rivals.of_choice("now", "", trials, by_thresholds(THRESHOLDS))
    fitted = fit_thresholds(trials)
    after = rivals.of_choice("then", "", trials, by_thresholds(fitted))
    assert accuracy(before.scores) < 0.75
    assert accuracy(after.scores) == pytest.approx(0.9)
    judged = calibrated(trials)
    assert judged is not None
    assert accuracy(judged.scores) == pytest.approx(0.9)
    assert set(judged.scores) == {t.key for t in trials}
    assert calibrated([t for t in trials if t.family == "d0"]) is None


def test_a_threshold_only_moves_for_a_gain() -> None:
    flat = [dataclasses.replace(t, arms=dict.fromkeys(t.arms, Outcome(0.5))) for t in planted(150)]
    assert fit_thresholds(flat) == THRESHOLDS


def test_a_family_with_another_truth_is_not_learnt_from_itself() -> None:
    odd = [dataclasses.replace(t, family="odd") if t.data == "d3" else t for t in planted(150)]
    odd = [dataclasses.replace(t, arms={n: Outcome(0.9 if n == "partial" else 0.5) for n in t.arms})
           if t.family == "odd" else t for t in odd]  # fmt: skip
    judged = calibrated(odd)
    assert judged is not None
    small = [judged.scores[t.key] for t in odd if t.family == "odd" and int(t.size) < 150]
    assert small == [0.5] * len(small)  # the others' truth, wrong here


def test_an_arm_a_cell_is_learnt_from_the_others() -> None:
    trials = []
    for i, (strengths, made) in enumerate(((NEAR, 1), (NEAR, 4), (FAR, 0), (FAR, 1))):
        for per_class in (5, 500):
            found = evidence(strengths, per_class, seed=made)
            arms = {"linear": 0.6, "partial": 0.5, "full": 0.7}
            if strengths is NEAR and per_class == 500:
                arms["partial"] = 0.9
            if i == 3 and per_class == 5:  # what is true of it alone is not learnt from itself
                arms["linear"] = 0.8
            trials.append(trial(f"d{i}", 0, arms, size=str(per_class), record=record(found)))
    cells = {t.key: cell_now(t) for t in trials}
    assert {cell[0] for cell in cells.values()} == {"very little data", "quite a lot of data"}
    judged = arm_a_cell(trials)
    assert judged is not None
    assert [judged.scores[t.key] for t in trials if t.size == "500"] == [0.9, 0.9, 0.7, 0.7]
    assert judged.scores[trials[-2].key] == 0.7
    assert arm_a_cell(trials[:2]) is None
    assert arm_a_cell([dataclasses.replace(t, record=None) for t in trials]) is None


def test_a_single_score() -> None:
    trials = planted(150)
    split = fit_split(trials, "LogME")
    assert split is not None
    assert (split.below, split.above) == ("linear", "partial")
    assert 1.2 < split.cut < 2.0
    assert split.merit == pytest.approx(0.9)
    assert fit_split([trial("a", 0, {"x": 0.5})], "LogME") is None
    logme, best = single_scorers(trials)
    assert accuracy(logme.scores) == accuracy(best.scores) == pytest.approx(0.9)
    assert set(scorers(trials[0])) >= {
        "LogME",
        "images a class",
        "images",
        "similarity",
        "nearest neighbours",
    }
    useless = [dataclasses.replace(t, record={**t.record, "logme": 1.0}) for t in trials if t.record]
    assert fit_split(useless, "LogME").below == fit_split(useless, "LogME").above  # type: ignore[union-attr]


# --- ablations ------------------------------------------------------------------------------------------------


def test_a_part_that_is_taken_away_says_the_same_of_everyone() -> None:
    near, far = evidence(NEAR, 100), evidence(FAR, 100)
    usual = Usual.of([near, far])

    def figures(found: Evidence) -> tuple[float, float]:
        return found.gain / (1 - found.last.value), found.affinity / found.last.value

    assert near.gain < far.gain
    flat = [without_stages(e, usual) for e in (near, far)]
    assert [figures(e)[0] for e in flat] == pytest.approx([usual.headroom] * 2)
    assert all(a.last == b.last for a, b in zip(flat, (near, far), strict=True))
    bare = [ABLATIONS["without affinity"](e, usual) for e in (near, far)]
    assert [figures(e)[1] for e in bare] == pytest.approx([usual.bought] * 2)
    amount = [ABLATIONS["amount only"](e, usual) for e in (near, far)]
    assert [figures(e)[0] for e in amount] == pytest.approx([usual.headroom] * 2)
    assert [e.n for e in amount] == [near.n, far.n]


def test_distances() -> None:
    near = dataclasses.replace(evidence(NEAR, 100), source_distance=1.0, source_share=0.9)
    far = dataclasses.replace(near, source_distance=2.0, source_share=0.1)
    usual = Usual.of([near, far])
    assert ABLATIONS["without distances"](near, usual) == ABLATIONS["without distances"](far, usual)
    assert ABLATIONS["distances only"](near, usual) != ABLATIONS["distances only"](far, usual)
    none = evidence(NEAR, 100)
    assert ABLATIONS["without distances"](none, usual) == none


def test_ablations_are_scored_where_evidence_matters() -> None:
    arms = dict.fromkeys(("linear", "multistage", "partial", "lp-ft", "full"), 0.5)
    trials = []
    measured = [evidence(strengths, 500, seed=i) for i in range(3) for strengths in (NEAR, FAR)]
    assert {decide(e).chosen for e in measured} == {"partial", "full"}
    for i, one in enumerate(measured):
        found, right = record(one), decide(one).chosen
        others = {name + NET: Outcome(0.4) for name in ("partial", "full")}
        trials.append(trial(f"d{i}", 0, {**arms, right: 0.9}, record=found, others=others))
    found = {r.name: accuracy(r.scores) for r in ablated(trials)}
    assert set(found) == {"all evidence", *ABLATIONS, "without the safety net"}
    assert found["all evidence"] == pytest.approx(0.9)
    assert found["amount only"] < 0.9
    assert found["without the safety net"] == pytest.approx(0.4)
    assert ablated([trial("a", 0, arms)]) == []
