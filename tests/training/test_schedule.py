"""Schedules against their formulas and against torch's."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.errors import ConfigError
from finetune.training import SCHEDULES
from finetune.training.schedule import constant, cosine, warmup_steps


def test_cosine_equals_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    ours = cosine(50)
    for step in range(50):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_warmup_is_linear_and_joins_the_cosine_at_its_peak() -> None:
    factor = cosine(100, warmup=10)
    assert [factor(s) for s in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(99) == pytest.approx((1 + math.cos(math.pi * 89 / 90)) / 2)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_starts_above_zero_and_never_exceeds_the_peak(name: str) -> None:
    for steps in (1, 2, 7, 100):
        for share in (0.0, 0.1, 0.99):
            warmup = warmup_steps(share, steps)
            factor = SCHEDULES.get(name)(steps, warmup)
            values = [factor(step) for step in range(steps)]
            assert values[0] > 0
            assert all(0 <= v <= 1 for v in values)
            assert max(values) == 1.0


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"steps must be an int > 0\. Got 0 instead"):
        cosine(0)
    with pytest.raises(ConfigError, match=r"warmup must be a number of steps in \[0, 5\)"):
        constant(5, 5)
