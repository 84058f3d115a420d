"""Schedules against their formulas and against torch's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from finetune.errors import ConfigError
from finetune.recipe import Recipe
from finetune.solvers import RISES_BY_ITSELF, schedule_arguments
from finetune.strategy.schedule import warmup_share
from finetune.training import SCHEDULES
from finetune.training.schedule import Plateau, constant, cosine, cycle_ends, plateau, warmup_steps


def torchs(kind: Any, steps: int, **settings: Any) -> list[float]:
    """The learning rates that a torch scheduler gives a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = kind(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    return rates


EQUALS = [
    ("cosine", {}, lr_scheduler.CosineAnnealingLR, {"T_max": 50}),
    ("constant", {}, lr_scheduler.ConstantLR, {"factor": 1.0}),
    (
        "step", {"milestones": [0.3, 0.7], "gamma": 0.2},
        lr_scheduler.MultiStepLR, {"milestones": [15, 35], "gamma": 0.2},
    ),
    ("exponential", {"end": 0.05}, lr_scheduler.ExponentialLR, {"gamma": 0.05 ** (1 / 50)}),
    (
        "inverse-time", {"end": 0.1},
        lr_scheduler.LambdaLR, {"lr_lambda": lambda t: 1 / (1 + 9 * t / 50)},
    ),
    (
        "linear-to-tau", {"tau": 0.6, "end": 0.02},
        lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.02, "total_iters": 30},
    ),
    (
        "one-cycle", {},
        lr_scheduler.OneCycleLR, {"max_lr": 1.0, "total_steps": 50, "cycle_momentum": False},
    ),
    (
        "one-cycle", {"rise": 0.5, "start": 0.1, "end": 0.01},
        lr_scheduler.OneCycleLR,
        {"max_lr": 1.0, "total_steps": 50, "cycle_momentum": False, "pct_start": 0.5, "div_factor": 10,
         "final_div_factor": 10},
    ),
    (
        "cyclic", {"cycles": 5, "low": 0.2},
        lr_scheduler.CyclicLR, {"base_lr": 0.2, "max_lr": 1.0, "step_size_up": 5, "cycle_momentum": False},
    ),
    (
        "cyclic", {"cycles": 5, "low": 0.2, "shrink": 0.5},
        lr_scheduler.CyclicLR,
        {"base_lr": 0.2, "max_lr": 1.0, "step_size_up": 5, "cycle_momentum": False, "mode": "triangular2"},
    ),
    (
        "sgdr", {"cycles": 5, "multiplier": 1, "low": 0.1},
        lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 10, "eta_min": 0.1},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "ours", "kind", "theirs"), EQUALS)
def test_schedules_equal_torch(name: str, ours: Any, kind: Any, theirs: Any) -> None:
    steps = 49 if kind is lr_scheduler.OneCycleLR else 50  # torch's refuses a step past its end
    factor = SCHEDULES.get(name)(50, 0, **ours)
    assert [factor(step) for step in range(steps)] == pytest.approx(torchs(kind, steps, **theirs), abs=1e-9)


def test_every_schedule_but_plateau_was_compared() -> None:
    assert {name for name, *_ in EQUALS} | {"plateau"} == set(SCHEDULES.names())


def test_sgdr_with_growing_cycles_equals_torch() -> None:
    factor = SCHEDULES.get("sgdr")(70, 0, cycles=3, multiplier=2)
    theirs = torchs(lr_scheduler.CosineAnnealingWarmRestarts, 70, T_0=10, T_mult=2)
    assert [factor(step) for step in range(70)] == pytest.approx(theirs, abs=1e-9)
    assert cycle_ends(60, 3, 1) == [20, 40, 60]


@pytest.mark.parametrize("low", [0.0, 0.2])
def test_plateau_equals_torch(low: float) -> None:
    random = torch.Generator().manual_seed(0)
    metrics = (1 / (1 + torch.arange(40) / 4) + 0.1 * torch.rand(40, generator=random)).tolist()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.3, patience=2, threshold=0.01, threshold_mode="abs", min_lr=low, eps=0
    )
    ours = plateau(1000, factor=0.3, patience=2, threshold=0.01, low=low)
    seen = set()
    for number, value in enumerate(metrics):
        theirs.step(value)
        ours.observe(value)
        if number == 20:  # and a copy goes on from a saved state
            state, ours = ours.state_dict(), plateau(1000, factor=0.3, patience=2, threshold=0.01, low=low)
            ours.load_state_dict(state)
        assert ours(500) == pytest.approx(optimizer.param_groups[0]["lr"])
        seen.add(round(ours(500), 9))
    assert len(seen) >= 3


def test_warmup_is_linear_and_joins_the_cosine_at_its_peak() -> None:
    factor = cosine(100, warmup=10)
    assert [factor(s) for s in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(99) == pytest.approx((1 + math.cos(math.pi * 89 / 90)) / 2)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_warmup_leads_to_the_beginning_of_the_same_shape(name: str) -> None:
    warm, bare = SCHEDULES.get(name)(100, 20), SCHEDULES.get(name)(80, 0)
    assert [warm(s) for s in range(20)] == pytest.approx([bare(0) * (s + 1) / 20 for s in range(20)])
    assert [warm(20 + s) for s in range(80)] == [bare(s) for s in range(80)]


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_starts_above_zero_and_never_exceeds_the_peak(name: str) -> None:
    for steps in (1, 2, 7, 100):
        for share in (0.0, 0.1, 0.99):
            warmup = warmup_steps(share, steps)
            factor = SCHEDULES.get(name)(steps, warmup)
            values = [factor(step) for step in range(steps)]
            assert values[0] > 0
            assert all(0 <= v <= 1 for v in values)
            if name not in RISES_BY_ITSELF:
                assert max(values) == 1.0


@pytest.mark.parametrize("name", sorted(RISES_BY_ITSELF))
def test_schedules_that_rise_by_themselves_reach_the_peak_and_need_no_warmup(name: str) -> None:
    factor = SCHEDULES.get(name)(80, 0)
    assert max(factor(step / 10) for step in range(800)) == pytest.approx(1.0, abs=1e-3)
    assert warmup_share(Recipe.from_mapping({"train": {"schedule": name}}).train) == 0.0
    assert warmup_share(Recipe.from_mapping({"train": {"schedule": name, "warmup": 0.2}}).train) == 0.2
    assert warmup_share(Recipe().train) == 0.1


def test_plateau_without_observations_is_the_warmup_and_the_peak() -> None:
    assert isinstance(plateau(10), Plateau)
    assert [plateau(10, 4)(s) for s in range(10)] == [constant(10, 4)(s) for s in range(10)]


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"steps must be an int > 0\. Got 0 instead"):
        cosine(0)
    with pytest.raises(ConfigError, match=r"warmup must be a number of steps in \[0, 5\)"):
        constant(5, 5)


def test_arguments_are_checked_all_at_once_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping(
            {"train": {"schedule": "step", "schedule_args": {"gama": 0.1, "milestones": [1.5]}, "epochs": 0}}
        )
    message = str(caught.value)
    assert "train.epochs: must be greater than or equal to 1" in message
    assert 'gama: unknown argument of step, which takes milestones, gamma. Did you mean "gamma"?' in message
    assert "milestones: must be less than 1. Got 1.5 instead" in message
    with pytest.raises(ConfigError, match="end: unknown argument of constant, which takes none"):
        Recipe.from_mapping({"train": {"schedule": "constant", "schedule_args": {"end": 0.1}}})
    with pytest.raises(ConfigError, match=r'train\.schedule: must be one of cosine, .*Did you mean "cosine"'):
        Recipe.from_mapping({"train": {"schedule": "cosin"}})
    assert schedule_arguments("sgdr") == {"cycles": 3, "multiplier": 2.0, "low": 0.0}
