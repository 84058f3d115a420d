"""A phase's time: the schedule is shortened, changes without a jump, and ends at its end."""

from __future__ import annotations

import random

import pytest

from finetune.training.pace import Pace
from finetune.training.schedule import cosine


class Machine:
    """A clock that moves when work is done, and a run that asks the pace how much there is."""

    def __init__(self, planned: int = 400, per_epoch: int = 40, seconds: float | None = 60.0) -> None:
        self.now = 100.0
        self.pace = Pace(planned, per_epoch, seconds, clock=lambda: self.now)
        self.step, self.rates, self.cost, self.epoch_cost = 0, list[float](), 0.5, 1.0
        self.factor = cosine(planned, planned // 10)
        self.told: list[str] = []
        self.pace.chosen = self.tell

    def tell(self) -> None:
        self.told += filter(None, [self.pace.news(self.step, 100.0)])

    def run(self, until: int = 10_000) -> None:
        self.pace.resume_clock()
        while self.step < min(until, self.pace.steps(self.step)):
            self.rates.append(self.factor(self.pace.position(self.step)))
            self.now += self.cost
            self.step += 1
            self.pace.after_step(self.step)
            if self.step % self.pace.per_epoch == 0 or self.step >= self.pace.steps(self.step):
                self.now += self.epoch_cost
                self.pace.after_epoch(self.step)


def test_without_a_time_or_with_enough_nothing_changes() -> None:
    for seconds in (None, 1e4):
        machine = Machine(seconds=seconds)
        machine.run()
        assert machine.step == 400
        assert machine.pace.cuts == []
        assert machine.rates == [cosine(400, 40)(step) for step in range(400)]


def test_the_schedule_is_shortened_and_comes_to_its_end_in_time() -> None:
    machine = Machine()
    machine.run()
    took = machine.now - 100
    assert 0.85 * 60 < took <= 60
    assert machine.step == machine.pace.steps(machine.step) < 400
    assert max(machine.rates) > 0.99
    assert machine.rates[-1] == cosine(400, 40)(399)  # the very end of what was planned
    jumps = [abs(b - a) for a, b in zip(machine.rates, machine.rates[1:])]
    assert max(jumps) < 0.12  # the warm-up takes 40 of 400 steps, so 11 of 110
    assert machine.pace.epochs(machine.step) == -(-machine.step // 40)
    assert len(machine.told) == 1
    assert machine.told[0].startswith("60 s, this phase's share of train.time=100, are enough for about 1")
    assert machine.told[0].endswith("the schedule is shortened to that.")


@pytest.mark.parametrize("factor", [3.0, 0.3])
def test_a_machine_that_changes_its_mind(factor: float) -> None:
    machine = Machine(seconds=120.0)
    machine.run(until=80)
    machine.cost *= factor
    machine.run()
    assert machine.now - 100 <= 121.5  # a step of 1.5 s may be under way when time is up
    assert machine.now - 100 > 100 or machine.step == 400
    assert machine.rates[-1] < 0.02
    jumps = [abs(b - a) for a, b in zip(machine.rates, machine.rates[1:])]
    assert max(jumps) < 0.15


def test_few_choices_are_told_and_in_the_right_words() -> None:
    """A machine that wavers by a tenth is told of once; one that becomes much faster, or slower, once more."""
    rng = random.Random(0)
    machine = Machine(planned=2000, per_epoch=7, seconds=120.0)
    for until in range(1, 10_000):
        machine.cost = 0.5 * rng.uniform(0.9, 1.1)
        machine.run(until)
    assert len(machine.told) == 1
    assert len(machine.pace.cuts) < 15
    for factor, word in ((0.4, "lengthened"), (2.5, "shortened")):
        machine = Machine(planned=2000, per_epoch=7, seconds=120.0)
        machine.run(until=30)
        machine.cost *= factor
        machine.epoch_cost *= factor
        machine.run()
        assert 2 <= len(machine.told) <= 3
        assert all(word in text for text in machine.told[1:])


def test_a_number_that_goes_to_and_fro_is_told_once() -> None:
    pace = Pace(210, 10, 20.0)
    told = []
    for cut in ([3, 9], [5, 12], [7, 9], [8, 13], [9, 14], [10, 210]):
        pace.cuts.append(cut)
        told.append(pace.news(cut[0]))
    assert [text is not None for text in told] == [True, False, False, False, True, True]
    assert "about 9 of 210" in str(told[0])
    assert "about 14 of 210" in str(told[4])
    assert "is lengthened to that" in str(told[4])


def test_a_phase_that_has_all_the_time_is_told_no_share() -> None:
    pace = Pace(100, 10, 13.5484)
    pace.cuts = [[5, 60]]
    assert pace.news(5, 13.5484) == (
        "14 s are enough for about 60 of 100 planned steps (6.0 epochs): the schedule is shortened to that."
    )
    pace.cuts = [[5, 60], [8, 100]]
    assert pace.news(8) == "14 s are enough for all 100 planned steps after all."


def test_time_for_less_than_a_step_makes_one() -> None:
    machine = Machine(seconds=0.1)
    machine.run()
    assert (machine.step, machine.pace.epochs(1)) == (1, 1)


def test_a_resumed_run_takes_the_recorded_choices_at_their_steps() -> None:
    machine = Machine()
    machine.run(until=50)
    assert machine.pace.cuts
    again = Machine()
    again.pace.cuts = [list(cut) for cut in machine.pace.cuts]
    again.cost = 0.1  # would have chosen otherwise
    again.run(until=machine.pace.cuts[-1][0] + 1)
    assert again.pace.cuts == machine.pace.cuts
    assert again.rates == machine.rates[: len(again.rates)]


def test_time_of_earlier_attempts_counts() -> None:
    machine = Machine()
    machine.run(until=50)
    again = Machine()
    again.pace.load_state_dict(machine.pace.state_dict())
    again.pace.cuts, again.step = machine.pace.cuts, 50
    again.run()
    assert (machine.now - 100) + (again.now - 100) <= 61
    assert again.rates[-1] == cosine(400, 40)(399)


def test_a_run_put_back_to_an_earlier_state_keeps_its_deadline() -> None:
    machine = Machine()
    machine.run(until=20)
    early = machine.pace.state_dict()
    machine.run(until=60)
    machine.step = 20
    machine.pace.load_state_dict(early)
    machine.run()
    assert machine.now - 100 <= 61.5
    assert machine.pace.cuts[-1][1] == machine.step < 110  # the 40 steps that were undone are missing
