"""How far steps move the weights, and the labels that the network contradicts: what the coach reads in the rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from finetune.training.execute import execute
from finetune.training.meter import Meter
from finetune.training.metrics_log import read_metrics
from finetune.training.movement import MOST, Movement
from finetune.training.objectives import Classes, Labels


def test_movement_is_the_median_of_the_weights_relative_change() -> None:
    weights = [nn.Parameter(torch.full((2, 2), float(k))) for k in (1, 2, 4)]
    movement = Movement([*weights, nn.Parameter(torch.ones(5))])
    with movement.measured(True), torch.no_grad():
        for weight, factor in zip(weights, (1.1, 1.02, 1.3), strict=True):
            weight *= factor
    assert movement.read() == pytest.approx(0.1, rel=1e-5)
    assert movement.read() is None  # told once


def test_steps_that_are_not_wanted_are_not_measured() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    movement = Movement([weight])
    with movement.measured(False), torch.no_grad():
        weight *= 2
    assert movement.read() is None


def test_a_phase_without_weights_is_measured_by_what_it_trains() -> None:
    scale = nn.Parameter(torch.ones(4))
    movement = Movement([scale])
    with movement.measured(True), torch.no_grad():
        scale += 0.01
    assert movement.read() == pytest.approx(0.01, rel=1e-4)


def test_weights_that_begin_at_zero_say_nothing_and_many_are_sampled() -> None:
    zero = nn.Parameter(torch.zeros(3, 3))
    movement = Movement([zero])
    with movement.measured(True), torch.no_grad():
        zero += 1
    assert movement.read() is None
    assert len(Movement(nn.Parameter(torch.ones(2, 2)) for _ in range(100))._weights) == MOST


def test_sgd_moves_weights_by_rate_times_gradient() -> None:
    weight = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    optimizer, movement = torch.optim.SGD([weight], lr=0.3), Movement([weight])
    weight.grad = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    expected = 0.3 * float(weight.grad.norm() / weight.detach().norm())
    with movement.measured(True):
        optimizer.step()
    assert movement.read() == pytest.approx(expected, rel=1e-5)


def test_contradicted_labels_are_those_of_which_another_class_is_surer_than_all_others() -> None:
    shares = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.45, 0.35, 0.2], [0.1, 0.2, 0.7]])
    labels = torch.tensor([1, 0, 1, 0])
    assert Classes(3).contradicted(shares.log(), labels).tolist() == [True, False, False, True]
    meter = Meter(torch.device("cpu"), Classes(3))
    for half in (slice(0, 2), slice(2, 4)):
        meter.add(torch.tensor(1.0), shares[half].log(), labels[half])
    assert meter.close_epoch()["contradicted"] == 0.5
    assert "contradicted" not in meter.read()


def test_mixed_images_and_other_tasks_have_no_contradicted_labels() -> None:
    outputs, mixed = torch.randn(4, 3), torch.full((4, 3), 1 / 3)
    assert Classes(3).contradicted(outputs, mixed).isnan().all()
    for objective in (Classes(3), Labels(3)):
        meter = Meter(torch.device("cpu"), objective)
        meter.add(torch.tensor(1.0), outputs, mixed)
        row = meter.close_epoch()
        assert "contradicted" not in row
        assert math.isfinite(row["loss"])


def test_sums_saved_before_labels_were_counted_go_on_without_them() -> None:
    meter = Meter(torch.device("cpu"), Classes(3))
    meter.load_state_dict(
        {"interval": torch.zeros(3), "epoch": torch.tensor([4.0, 2.0, 4.0]), "seconds": 1.0}
    )
    row = meter.close_epoch()
    assert (row["loss"], row["accuracy"]) == (1.0, 0.5)
    assert "contradicted" not in row


def test_rows_of_a_training_hold_both(tiny: Any, tmp_path: Path) -> None:
    phase = tiny.phase(epochs=2, augment="none")
    execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=2), tmp_path)
    rows = read_metrics(tmp_path)
    steps, epochs = ([row for row in rows if row["kind"] == kind] for kind in ("step", "epoch"))
    assert steps
    assert all(0 < row["update"] < 1 for row in steps)
    assert [0 <= row["contradicted"] <= 1 for row in epochs if row["epoch"]] == [True, True]


def test_measuring_changes_no_weight(tiny: Any, tmp_path: Path) -> None:
    networks = [
        execute(tiny.plan(tiny.phase(epochs=2)), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=every),
                tmp_path / str(every))
        for every in (1, 1000)
    ]  # fmt: skip
    for one, other in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(one, other)
