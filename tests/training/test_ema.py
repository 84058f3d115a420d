"""The moving average against its formula."""

from __future__ import annotations

import pytest
import torch

from finetune.training.ema import Average, decay_at


def test_follows_the_formula_with_its_warmup() -> None:
    live = torch.nn.Parameter(torch.tensor([0.0, 8.0]))
    average = Average({"w": live}, 0.9)
    expected = live.detach().clone()
    for step in range(120):
        with torch.no_grad():
            live += 1
        average.update()
        d = min(0.9, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * live.detach()
    with average.applied():
        assert torch.allclose(live, expected, rtol=1e-5)
    assert decay_at(10**6, 0.9) == 0.9


def test_own_weights_come_back_bit_for_bit_even_after_an_error() -> None:
    live = torch.nn.Parameter(torch.randn(100))
    average = Average({"w": live}, 0.5)
    before = live.detach().clone()
    average.update()
    with torch.no_grad():
        live += torch.randn(100)
    moved = live.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        _fail_where_averaged(live, moved)
    assert torch.equal(live, moved)
    assert not torch.equal(live, before)


def _fail_where_averaged(live: torch.Tensor, moved: torch.Tensor) -> None:
    assert not torch.equal(live, moved)
    raise RuntimeError("inside")


def test_counters_are_copied_not_averaged() -> None:
    count = torch.tensor(3)
    average = Average({"num_batches_tracked": count}, 0.9)
    count += 4
    average.update()
    count += 1
    with average.applied():
        assert int(count) == 7
    assert int(count) == 8


def test_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    live = torch.nn.Parameter(torch.randn(5))
    whole, first = Average({"w": live}, 0.99), Average({"w": live}, 0.99)
    for average in (whole, first):
        average.update()
    second = Average({"w": live}, 0.99)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        live *= 2
    for average in (whole, second):
        average.update()
    assert torch.equal(whole.state_dict()["mean"]["w"], second.state_dict()["mean"]["w"])


def test_none_is_no_average() -> None:
    live = torch.nn.Parameter(torch.ones(2))
    average = Average({"w": live}, None)
    average.update()
    with average.applied():
        assert torch.equal(live, torch.ones(2))
    assert average.state_dict() == {"steps": 0, "mean": {}}
