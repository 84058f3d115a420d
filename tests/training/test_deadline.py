"""train.time of a run: done by then, the test and the files included, with a valid model whatever happens."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from finetune.strategy.cost import Cost
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training import tuning as tuning_module
from finetune.training.deadline import Deadline, Needs, dropped_line, fitted, late_line
from finetune.training.execute import carried_out, execute
from finetune.training.job import Job

HEAD = ProbePhase(candidates=((4,),))
TUNE = GradientPhase(train_from=0, epochs=10, lr=0.1, head_lr=0.1)
BOTH: dict[str, Any] = {"fit_on": "train+val"}
PLAN = Plan(
    strategy="full",
    phases=(HEAD, TUNE, HEAD.model_copy(update={**BOTH, "restart": True}), TUNE.model_copy(update=BOTH)),
)


class Clock:
    """Stands still until it is moved."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def deadline(seconds: float, clock: Clock | None = None, began: float = 1000.0) -> Deadline:
    """An epoch of 2 s, or 3 s with the validation images; heads of 1 s; 5 s for the end."""
    made = Deadline(seconds, began, clock=clock or Clock())
    made.needs = Needs((0.0, 2.0, 0.0, 3.0), (1.0, 0.0, 1.0, 0.0), 5.0)
    return made


def test_the_start_and_the_end_of_the_command_count() -> None:
    clock = Clock()
    given = deadline(100.0, clock, began=990.0)
    assert given.start == 10.0
    assert given.left() == 100 - 10 - 5 - 2  # 2%: what nobody foresees
    clock.now += 20
    assert given.left() == 63
    given.go_on(30.0)
    assert (given.spent(), given.left()) == (60, 33)


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [(1000.0, 4), (24.0, 4), (22.0, 2), (12.0, 2), (9.0, 1), (3.0, 1)],
)  # a quarter of 50 s, two heads, 3 s to get ready, the end
def test_first_the_refit_goes_and_then_all_training(seconds: float, kept: int) -> None:
    assert deadline(seconds).fitting(PLAN) == kept


def test_without_a_head_to_fall_back_to_something_is_trained() -> None:
    scratch = Plan(strategy="scratch", init="random", phases=(TUNE,))
    assert Deadline(1.0, 1000.0, clock=Clock()).fitting(scratch) == 1
    assert Deadline(1.0, 1000.0, clock=Clock()).grant(scratch, 0) > 0


def test_what_is_left_is_shared_by_what_epochs_take() -> None:
    clock = Clock()
    given = deadline(100.0, clock)
    room = 100 - 2 - 5 - 1  # the second head
    first = given.grant(PLAN, 1)
    assert first == pytest.approx(room * 20 / 50)
    clock.now += first + 4  # took longer than it was to
    assert given.grant(PLAN, 3) == pytest.approx(room + 1 - first - 4)
    assert given.fits_again(PLAN, 2, first, 1.0)
    clock.now += 45
    assert not given.fits_again(PLAN, 2, first, 1.0)


def test_a_resumed_phase_gets_what_is_left_and_no_more_than_before() -> None:
    clock = Clock()
    given = deadline(100.0, clock)
    before = given.grant(PLAN, 1)
    clock.now += 10
    assert given.grant(PLAN, 1, before, 10.0) == pytest.approx(before)
    clock.now += 20  # reading the images once more
    again = given.grant(PLAN, 1, before, 10.0)
    assert 10 < again < before - 5
    clock.now += 1000
    assert given.grant(PLAN, 1, before, 10.0) == pytest.approx(10, abs=0.01)


def test_a_slow_start_makes_a_slow_end() -> None:
    cost = Cost((1.0, 20.0, 1.0, 30.0), 10.0, 0.01, 0.02, (0.0, 2.0, 0.0, 3.0))
    assert Needs.of(PLAN, cost, figures=True, start=1.0).ending == 13 + 4.5
    assert Needs.of(PLAN, cost, figures=False, start=0.0).ending == 13 + 2.5
    assert Needs.of(PLAN, cost, figures=True, start=6.0).ending == 13 + 9
    found = Needs.of(PLAN, cost, figures=True, start=1.0)
    assert found.heads == (1, 0, 1, 0)
    assert found.epochs == (0, 1, 0, 1.5), "half of the estimate"
    assert Needs.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_plan_is_cut_to_the_time_before_it_is_carried_out() -> None:
    cost = Cost((1.0, 20.0, 1.0, 30.0), 0.0, 0.01, 0.02, (0.0, 2.0, 0.0, 3.0))
    assert fitted(PLAN, cost, deadline(1000.0), False, "train+val") == (PLAN, cost, None)
    plan, left, said = fitted(PLAN, cost, deadline(13.0), False, "train+val")
    assert plan.phases == PLAN.phases[:2]
    assert (left.phases, left.epochs) == ((1.0, 20.0), (0.0, 2.0))
    assert "no time to train on train+val once more" in str(said)
    plan, _, said = fitted(PLAN, cost, deadline(5.0), False, "train+val")
    assert plan.phases == (HEAD.model_copy(update=BOTH),), "a head alone is fitted on all images"
    assert "the head alone is kept" in str(said)


def test_what_is_said() -> None:
    assert "no time to train on train+val once more" in dropped_line(PLAN, 2, 30.0)
    assert "the head alone is kept" in dropped_line(PLAN, 1, 30.0)
    clock = Clock()
    given = deadline(30.0, clock)
    assert late_line(PLAN, given) is None
    clock.now += 41
    head = PLAN.model_copy(update={"phases": (HEAD,)})
    assert late_line(head, given) == (
        "The run took 41 s instead of train.time=30: reading and looking at the images, the head and the test alone "
        "take that long."
    )
    assert "the machine became slower" in str(late_line(PLAN, given))


@pytest.mark.parametrize(("left", "phases"), [(1000.0, 4), (14.0, 2), (0.0, 1)])
def test_the_executor_leaves_out_what_does_not_fit(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, phases: int
) -> None:
    """The plan is made with time enough; the first head takes nearly all of it."""
    clock, network = Clock(), tiny.backbone()
    given, granted = Deadline(2000.0, 1000.0, clock=clock), []
    given.needs = Needs((0.0, 2.0, 0.0, 3.0), (1.0, 0.0, 1.0, 0.0), 5.0)
    head = ProbePhase(candidates=((network.num_stages - 1,),), folds=2)
    tune = tiny.phase(epochs=10, train_from=5, augment="none", ema=None)
    plan = tiny.plan(
        head, tune, head.model_copy(update={**BOTH, "restart": True}), tune.model_copy(update=BOTH)
    )
    ticks = itertools.count()

    class Ear(tiny.Slow):  # type: ignore[misc]
        def __init__(self) -> None:
            self.messages: list[str] = []

        def on_message(self, text: str) -> None:
            self.messages.append(text)
            if next(ticks) == 0:  # the head's own line
                clock.now = 1000 + 2000 - 40 - 5 - left

        def on_step(self, row: dict[str, Any]) -> None:
            pass

    def job(*args: Any) -> Job:
        made = Job(*args)
        granted.append(made.phase.time)
        return made

    monkeypatch.setattr(tuning_module, "Job", job)
    ear = Ear()
    execute(plan, network, tiny.bundle(), tiny.recipe(), tmp_path, ear, deadline=given)
    record = json.loads((tmp_path / "training.json").read_text())
    assert len(carried_out(plan, record).phases) == phases
    assert len(granted) == phases // 2
    said = [text for text in ear.messages if text.startswith("train.time=2000")]
    assert len(said) == (phases < 4)
    if phases == 2:
        assert granted == [pytest.approx(14.0)]  # all of it
    if phases == 4:
        assert granted[0] == pytest.approx(999 * 20 / 50, rel=0.01)
        assert granted[1] == pytest.approx(1000, rel=0.01)  # the clock stands still
