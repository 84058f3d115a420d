"""The race: short schedules, paired elimination, ties, and what a run makes of it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import finetune
from finetune.data.demo import write_demo_data
from finetune.errors import ConfigError
from finetune.race import (
    FEWEST,
    Entrant,
    Lap,
    _lap,
    last_round,
    race_is_possible,
    raced,
    run_race,
    shortened,
    survivors,
    winner,
)
from finetune.recipe import Recipe, seconds_of
from finetune.strategy.decision import Decision, neighbours
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase

RNG = np.random.default_rng(0)
DECISION = Decision(amount="in between", similarity=0.6, cell=("quite a lot of data", "very similar"),
                    chosen="partial", runner_up="lp-ft", reasons=("because",))  # fmt: skip


def lap(arm: str, losses: np.ndarray, seconds: float = 1.0) -> Lap:
    return Lap(arm, 0.25, losses, 0.5, seconds)


def test_worse_by_more_than_the_paired_error_leaves() -> None:
    hard = RNG.exponential(1.0, 400)  # images differ far more than arms do: unpaired, nothing could be told
    near = hard + RNG.normal(0.0005, 0.05, 400)
    worse = hard + RNG.normal(0.05, 0.05, 400)
    left = [x.arm for x in survivors([lap("a", hard), lap("b", near), lap("c", worse)])]
    assert "c" not in left
    assert "a" in left
    difference = worse - hard
    assert difference.mean() > difference.std(ddof=1) / math.sqrt(400)
    assert abs(worse.mean() - hard.mean()) < hard.std() / math.sqrt(400), "the case for pairing"


def test_ties_go_to_the_decision_and_then_to_the_cheapest() -> None:
    same = RNG.exponential(1.0, 50)
    level = np.resize([0.01, -0.01], 50)  # no difference on average
    laps = [lap("a", same + level, 9.0), lap("b", same, 5.0), lap("c", same + 1.0, 1.0)]
    assert winner(laps, "a").arm == "a"
    assert winner(laps, "c").arm == "b"
    assert winner([lap("a", same + level, 9.0), lap("b", same, 5.0)], "x").arm == "b"


def test_a_clear_winner_beats_the_decision() -> None:
    same = RNG.exponential(1.0, 50)
    laps = [lap("partial", same + 1.0), lap("lp-ft", same)]
    decision = raced(DECISION, laps, 60.0)
    assert (decision.chosen, decision.runner_up) == ("lp-ft", "partial")
    assert "lp-ft is taken." in decision.reasons[-1]
    assert [row["arm"] for row in decision.to_dict()["evidence"]["race"]] == ["partial", "lp-ft"]


def test_the_decision_stays_where_nothing_is_better() -> None:
    same = RNG.exponential(1.0, 50)
    decision = raced(
        DECISION, [lap("partial", same + np.resize([0.011, -0.01], 50)), lap("lp-ft", same)], 60.0
    )
    assert decision.chosen == "partial"
    assert "not better by more than the standard error" in decision.reasons[-1]
    assert "did not fit into 60 s" in raced(DECISION, [], 60.0).reasons[-1]


def entrant(arm: str, seconds: float) -> Entrant:
    tune = GradientPhase(train_from=4, epochs=40, lr=0.1, head_lr=0.1)
    return Entrant(Plan(strategy=arm, phases=(tune,)), seconds)


@pytest.mark.parametrize(
    ("pace", "expected"),
    [
        # 40 s of arms in a budget of 20 s: a quarter each, then what is left for the two that are level
        (1.0, [(1, "a", 0.25), (1, "b", 0.25), (1, "c", 0.25), (2, "a", 0.38), (2, "b", 0.38)]),
        # everything takes twice as long as estimated: nothing is left for a second round
        (2.0, [(1, "a", 0.25), (1, "b", 0.25), (1, "c", 0.25)]),
        # and six times: the budget does not reach for the last arm
        (6.0, [(1, "a", 0.25), (1, "b", 0.25)]),
    ],
)
def test_a_budget_is_time_on_the_clock(
    pace: float, expected: list[tuple[int, str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, same, messages = [0.0], RNG.exponential(1.0, 50), []

    def run_lap(entrant: Entrant, share: float, *_: object) -> Lap:
        now[0] += pace * share * entrant.seconds
        worse = {"a": 0.0, "b": 0.0, "c": 1.0}[entrant.name]
        return Lap(entrant.name, share, same + worse, 0.5, entrant.seconds)

    class Told(finetune.events.Listener):
        def on_message(self, text: str) -> None:
            messages.append(text)

    monkeypatch.setattr("finetune.race._lap", run_lap)
    (tmp_path / "race").mkdir()
    arms = [entrant("a", 13.0), entrant("b", 13.0), entrant("c", 14.0)]
    laps = run_race(arms, None, Recipe(), tmp_path / "race", 20.0, Told(), lambda: now[0])  # type: ignore[arg-type]
    assert [(lap.round, lap.arm, round(lap.share, 2)) for lap in laps] == expected
    assert [lap.arm for lap in last_round(laps)] == [
        arm for number, arm, _ in expected if number == laps[-1].round
    ]
    assert ("c does not run: the budget of 20 s is used up." in messages) == (pace == 6.0)
    assert not (tmp_path / "race").exists()


def test_how_sure_an_arm_is_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.resize([0, 1, 2], 60)
    scores = 2.0 * np.eye(3)[labels] + RNG.normal(0.0, 1.5, (60, 3))
    factor = [1.0]

    def predict(*_: object, **__: object) -> np.ndarray:
        made = np.exp(factor[0] * scores)
        return made / made.sum(1, keepdims=True)

    monkeypatch.setattr("finetune.training.execute.execute", lambda *_: None)
    monkeypatch.setattr("finetune.evaluation.predict.predict_images", predict)
    bundle = SimpleNamespace(val=SimpleNamespace(labels=labels))
    setup = SimpleNamespace(backbone=None, bundle=bundle)
    laps = []
    for factor[0] in (1.0, 4.0):
        laps.append(_lap(entrant("a", 1.0), 0.5, setup, Recipe(), tmp_path / "a", finetune.events.Listener()))  # type: ignore[arg-type]
    np.testing.assert_allclose(laps[0].losses, laps[1].losses, rtol=1e-3, atol=1e-3)
    assert laps[0].losses.mean() < -np.log(predict()[np.arange(60), labels]).mean(), "sure of what is wrong"


def test_who_left_in_the_first_round_is_told() -> None:
    same = RNG.exponential(1.0, 50)
    laps = [lap("partial", same + 1.0), lap("lp-ft", same), lap("linear", same)]
    laps += [dataclasses.replace(each, round=2, share=0.5) for each in laps[1:]]
    decision = raced(DECISION, laps, 60.0)
    assert "50% of the epochs: log-loss" in decision.reasons[-1]
    assert "After 25% of the epochs had left: partial " in decision.reasons[-1]
    assert "is taken: level with" in decision.reasons[-1]
    assert [row["round"] for row in decision.to_dict()["evidence"]["race"]] == [1, 1, 1, 2, 2]


def test_shortened_plans_are_complete_and_hold_validation_out() -> None:
    head = ProbePhase(candidates=((4,),), fit_on="train+val")
    tune = GradientPhase(train_from=4, epochs=30, lr=0.1, head_lr=0.1, blend=(0.0, 1.0))
    both = {"fit_on": "train+val"}
    refit = (head.model_copy(update={"restart": True}), tune.model_copy(update={**both, "blend": "earlier"}))
    short = shortened(Plan(strategy="x", phases=(head, tune, *refit)), 0.2)
    assert [phase.fit_on for phase in short.phases] == ["train", "train"]
    assert isinstance(short.phases[1], GradientPhase)
    assert (short.phases[1].epochs, short.phases[1].schedule, short.phases[1].blend) == (6, "cosine", ())


def test_neighbours_share_a_row_or_a_column() -> None:
    assert neighbours(DECISION) == ("partial", "lp-ft", "linear")


@pytest.mark.parametrize(
    ("strategy", "held_out", "said"),
    [
        ("linear", 100, "strategy linear was asked for"),
        ("auto", FEWEST - 1, "19 validation images cannot tell"),
    ],
)
def test_no_race_says_why(strategy: str, held_out: int, said: str) -> None:
    decision = race_is_possible(DECISION, strategy, held_out)
    assert decision is not None
    assert said in decision.reasons[-1]
    assert race_is_possible(DECISION, "auto", FEWEST) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1.5H", 5400.0), (7, 7.0), ("7", 7.0)]
)
def test_budgets(text: object, seconds: object) -> None:
    assert seconds_of(text) == seconds


def test_budgets_that_are_no_time() -> None:
    with pytest.raises(ConfigError, match="budget: must be a time such as 90s, 10m or 1.5h"):
        Recipe().override("budget=soon")
    with pytest.raises(ConfigError, match="budget: must be greater than 0"):
        Recipe().override("budget=0")


def test_a_run_with_a_budget_races_and_finishes(tmp_path: Path) -> None:
    write_demo_data(tmp_path / "digits")
    for folder in (tmp_path / "digits").iterdir():
        for path in sorted(folder.iterdir())[25:]:
            path.unlink()
    messages: list[str] = []

    class Told(finetune.events.Listener):
        def on_message(self, text: str) -> None:
            messages.append(text)

    run = finetune.run(
        {"data": {"path": str(tmp_path / "digits"), "image_size": 32}, "out": str(tmp_path / "run"), "budget": "1h",
         "train": {"epochs": 4, "refit": False}, "seed": 3},
        listener=Told(), figures=False,
    )  # fmt: skip
    decision = json.loads((tmp_path / "run" / "decision.json").read_text())
    arms = [row["arm"] for row in decision["evidence"]["race"]]
    assert arms[0] == decision["chosen"] or decision["chosen"] in arms
    assert any(text.startswith("Race, round 1: ") for text in messages)
    assert not (tmp_path / "run" / "race").exists() or not any((tmp_path / "run" / "race").iterdir())
    assert run.result["chosen"] == decision["chosen"]
