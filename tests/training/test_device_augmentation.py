"""Augmentation on the device: batches, shares of several processes, resuming, and every policy trains."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune import ranks
from finetune.augment.device import DeviceBatches
from finetune.data.batches import TrainBatches
from finetune.data.preprocessing import Preprocessing
from finetune.errors import ConfigError, Interrupted
from finetune.events import Listener
from finetune.strategy.plan import Plan
from finetune.training.execute import execute
from finetune.training.metrics_log import read_metrics
from finetune.training.plan_file import read_plan

PREP = Preprocessing(32, 1.0, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CPU = torch.device("cpu")


def batches(tiny: Any, policy: str = "standard", size: int = 8, **keys: Any) -> DeviceBatches:
    return DeviceBatches(tiny.Patches(21), PREP, policy, size, 3, device=CPU, **keys)


def test_order_and_labels_are_the_loaders(tiny: Any) -> None:
    ours = list(batches(tiny).epoch(1))
    theirs = list(TrainBatches(tiny.Patches(21), PREP, "standard", 8, 3).epoch(1))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))
    assert [tuple(x.shape) for x, _ in ours] == [(8, 3, 32, 32), (8, 3, 32, 32), (5, 3, 32, 32)]
    assert all(x.dtype == torch.uint8 for x, _ in ours)


@pytest.mark.parametrize("keys", [{"size": 3}, {"threads": 3}, {"memory": 0}])
def test_an_image_does_not_depend_on_batches_threads_or_memory(tiny: Any, keys: dict[str, int]) -> None:
    whole = torch.cat([x for x, _ in batches(tiny, "rich", 21).epoch(2)]).int()
    made = torch.cat([x for x, _ in batches(tiny, "rich", **keys).epoch(2)]).int()
    assert (made - whole).abs().max() <= 1  # the rounding of sums that are grouped in another way
    assert (made != whole).float().mean() < 1e-3


def test_entering_an_epoch_half_way(tiny: Any) -> None:
    whole, rest = list(batches(tiny).epoch(4)), list(batches(tiny).epoch(4, start=1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[1:], rest, strict=True))


@pytest.mark.parametrize("neighbour", [False, True])
def test_shares_of_processes_are_those_of_one(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, neighbour: bool
) -> None:
    whole = [x.int() for x, _ in batches(tiny, "strong").epoch(0)]
    for rank in range(2):
        monkeypatch.setattr(ranks, "rows", lambda n, rank=rank: ranks.share_of(n, rank, 2))
        for number, (share, _) in enumerate(batches(tiny, "strong").epoch(0, neighbour=neighbour)):
            begin, end = ranks.share_of(len(whole[number]), rank, 2)
            mine = whole[number][np.arange(begin - neighbour, end) % len(whole[number])]
            assert (share.int() - mine).abs().max() <= 1


def test_an_image_that_returns_is_augmented_anew(tiny: Any) -> None:
    images = tiny.Patches(21).subset([0, 1, 2, 4, 5, 7, 8])  # one of class 0, others of 1 and 2
    made = DeviceBatches(images, PREP, "standard", 7, 3, device=CPU, balanced=True)
    order = made.order(0)
    pixels = next(iter(made.epoch(0)))[0]
    twice = np.flatnonzero(order == 0)
    assert len(twice) > 1
    assert not torch.equal(pixels[twice[0]], pixels[twice[1]])


def test_families_and_class_names_reach_the_batched_policy(tiny: Any) -> None:
    from finetune.strategy.invariance import spare
    from finetune.training.feed import Feed

    plan = spare(tiny.plan(tiny.phase(augment="rich", augment_on="device")), ["colour", "crop"])
    feed = Feed(tiny.backbone(), tiny.bundle(), plan.phases[0], seed=0, threads=1, device=CPU)
    assert isinstance(feed._train, DeviceBatches)
    assert feed._train.policy.avoid == {"colour", "crop"}
    digits = tiny.Patches(21)
    digits.classes = ("0", "1", "2")
    made = [DeviceBatches(images, PREP, "light", 8, 0, device=CPU) for images in (tiny.Patches(21), digits)]
    assert [m.policy.flip for m in made] == [True, False]


def test_crops_know_the_shape_of_the_originals(tiny: Any) -> None:
    made = batches(tiny)
    assert made.aspects(np.array([0, 20])).tolist() == [1.0, 1.0]
    assert made.augmentation.side == made.policy.kept == 56  # 32 / sqrt(.35), a multiple of 4


# --- in training ---------------------------------------------------------------------------------------


class StopAt(Listener):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if row["kind"] == "step"]


@pytest.mark.parametrize(
    "keys",
    [
        {"augment": "rich"},
        {"augment": "standard", "mixup": 0.4},
        {"augment": "crop+flip+rotation+noise", "crop": "short-side"},
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(tiny: Any, tmp_path: Path, keys: dict[str, Any]) -> None:
    plan = tiny.plan(tiny.phase(augment_on="device", **keys))

    def go(folder: str, listener: Listener | None = None, resume: bool = False) -> Any:
        settings = tiny.recipe(log_every=1)
        return execute(
            plan, tiny.backbone(), tiny.bundle(), settings, tmp_path / folder, listener, resume
        ).state_dict()

    whole = go("whole")
    with pytest.raises(Interrupted):
        go("stopped", StopAt(6))
    again = go("stopped", resume=True)
    assert [k for k in whole if not torch.equal(whole[k], again[k])] == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


@pytest.mark.parametrize("where", ["device", "loader"])
@pytest.mark.parametrize("policy", ["trivial", "rand", "autoaugment", "rich"])
def test_every_policy_trains(tiny: Any, tmp_path: Path, policy: str, where: str) -> None:
    plan = tiny.plan(tiny.phase(augment=policy, augment_on=where, epochs=4, lr=0.05, ema=None))
    execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path)
    found = losses(tmp_path)
    assert len(found) == 16
    assert np.mean(found[-4:]) < np.mean(found[:4])
    assert (where == "device") == ("on the device" in plan.rows()[0]["how"])


def test_light_and_device_learn_alike(tiny: Any, tmp_path: Path) -> None:
    ends = []
    for where in ("loader", "device"):
        plan = tiny.plan(tiny.phase(augment_on=where, epochs=6, lr=0.05, ema=None))
        execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path / where)
        ends.append(np.mean(losses(tmp_path / where)[-4:]))
    assert abs(ends[0] - ends[1]) < 0.4


def test_nothing_is_to_be_done_without_augmentation(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan(tiny.phase(augment="none", augment_on="device", epochs=1))
    execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)


def test_a_given_plan_with_a_policy_of_the_loader_only(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.data import AUGMENTATIONS

    monkeypatch.setitem(AUGMENTATIONS._entries, "mine", AUGMENTATIONS.entry("light"))
    plan: Plan = tiny.plan(tiny.phase(augment="mine", augment_on="device"))
    with pytest.raises(
        ConfigError, match=r"phases\.0\.augment_on must be loader where augment is 'mine'\. Got 'device'"
    ):
        read_plan(plan, 5, "test_resnet")
