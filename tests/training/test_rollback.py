"""Divergence is noticed, undone with half the learning rate, and in the end explained."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.transforms import evaluate_pixels
from finetune.errors import Interrupted, TrainingError
from finetune.events import Listener
from finetune.training import rollback
from finetune.training.engine import Engine
from finetune.training.execute import execute
from finetune.training.feed import Feed
from finetune.training.job import Job
from finetune.training.metrics_log import read_metrics
from finetune.training.rollback import Guard, copied

TIMED = {"images_per_second", "seconds"}


class Words(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_message(self, text: str) -> None:
        self.said.append(text)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(folder)]


@pytest.fixture
def poisoned(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``poisoned(step, lr_scale)``: the loss of that step is NaN while the learning rate is that high."""
    monkeypatch.setattr(Job, "schedule_lr", Job.schedule_lr)  # both are put back at the end
    monkeypatch.setattr(Feed, "forward", Feed.forward)
    monkeypatch.setattr(rollback, "_STEPS_APART", 4)  # an epoch of tiny.bundle()
    return tiny.poison


def steps_of(guard: Guard, losses: list[float], images: int = 16) -> int | None:
    """The step, from 0, at which the guard sees trouble."""
    for step, loss in enumerate(losses):
        guard.watch(torch.tensor(loss), images)
        if guard.trouble():
            return step
    return None


def test_the_rule_against_its_formula() -> None:
    """First loss 2: the mean of the first 32 images. Then s += 0.1 (min(loss, 20) - s) until s > 6."""
    smooth, expected = 2.0, 1
    while smooth <= 6.0:
        smooth += 0.1 * (9.0 - smooth)
        expected += 1
    guard = Guard(3, chance=0.7)
    assert steps_of(guard, [1.5, 2.5] + [9.0] * 30) == expected
    assert guard.trouble() == "The smoothed loss is more than 3 times the first (2)"
    assert steps_of(Guard(3, 0.7), [1.5, 2.5] + [5.9] * 300) is None


def test_no_number_is_trouble_at_once() -> None:
    for bad in (math.nan, math.inf):
        guard = Guard(3, 0.7)
        assert steps_of(guard, [1.0, 1.0, bad, 1.0]) == 2
        assert guard.trouble() == "The loss is not a finite number"  # still


def test_no_single_batch_is_a_divergence() -> None:
    assert steps_of(Guard(3, 0.7), [1.0] * 9 + [1e9] + [1.0] * 50) is None
    assert steps_of(Guard(3, 0.7), [1.0] * 9 + [1e9] * 4) == 11


def test_a_solved_head_may_lose_what_it_knew() -> None:
    """Three times nearly nothing is no divergence; three times the loss of guessing is."""
    chance = math.log(10)
    assert steps_of(Guard(3, chance), [1e-6] * 4 + [2.3] * 100) is None
    assert steps_of(Guard(3, chance), [1e-6] * 4 + [8.0] * 100) is not None


def test_unread_losses_are_judged_one_by_one() -> None:
    """A GPU is asked now and then only: the verdict is that of asking after every step."""
    losses = [1.0] * 4 + [9.0] * 4 + [1.0] * 40
    guard = Guard(3, 0.7)
    for loss in losses:
        guard.watch(torch.tensor(loss), 16)
    assert (guard.trouble() is not None) == (steps_of(Guard(3, 0.7), losses) is not None)
    assert guard.trouble() is not None


def test_copies_reuse_memory_and_share_none_with_the_original() -> None:
    value = {"a": [torch.ones(3), {"b": torch.arange(2)}], "c": 7}
    first = copied(value)
    value["a"][0].add_(1)
    assert torch.equal(first["a"][0], torch.ones(3))
    again = copied(value, first)
    assert again["a"][0].data_ptr() == first["a"][0].data_ptr()
    assert torch.equal(again["a"][0], torch.full((3,), 2.0))
    assert copied({"a": [torch.ones(5)]}, first)["a"][0].shape == (5,)


def test_goes_back_halves_the_rate_and_leaves_each_row_once(tiny: Any, tmp_path: Path, poisoned: Any) -> None:
    poisoned(7)
    words = Words()
    execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path, words)
    steps = [r for r in rows(tmp_path) if r["kind"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 13))
    assert [r["epoch"] for r in rows(tmp_path) if r["kind"] == "epoch"] == [1, 2, 3]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + len(rows(tmp_path))
    assert [r.get("lr_scale", 1.0) for r in steps] == [1.0] * 4 + [0.5] * 8
    assert steps[5]["lr"] == pytest.approx(0.5 * 0.02 * (1 + math.cos(math.pi * 3 / 10)) / 2)
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["0"]["rollbacks"]
    assert [(f["step"], f["back_to_step"], f["lr_scale"], f["reason"]) for f in facts] == [
        (7, 4, 0.5, "The loss is not a finite number")
    ]
    picture = tmp_path / facts[0]["batch"]
    assert any(
        text.startswith("The loss is not a finite number at epoch 2 step 7: back to step 4 with half the")
        and text.endswith(f"(1 of at most 3 times). The batch: {picture}.")
        for text in words.said
    )


def test_the_offending_batch_is_kept(tiny: Any, tmp_path: Path, poisoned: Any) -> None:
    poisoned(7)
    phase = tiny.phase(batch_size=4, accumulate=2, augment="none")
    execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    listed = json.loads((tmp_path / "diverged" / "phase0-step7.json").read_text())
    order = np.random.default_rng((0, 1, 1)).permutation(33)  # seed, order, epoch counted from 0
    assert [image["index"] for image in listed["images"]] == order[16:24].tolist()  # the epoch's third step
    assert all(image["name"] == f"patch 1/{image['index']}" for image in listed["images"])
    assert all(image["label"] == f"class {image['index'] % 3}" for image in listed["images"])
    sheet = np.asarray(Image.open(tmp_path / "diverged" / "phase0-step7.png"))
    assert sheet.shape == (96, 96, 3)  # eight images of 32 pixels, three a row
    second = evaluate_pixels(tiny.bundle().train.load(int(order[17])), tiny.backbone().preprocessing)
    assert np.array_equal(sheet[:32, 32:64], second)
    assert not sheet[64:, 64:].any()


def test_stops_with_the_diagnosis_after_three(tiny: Any, tmp_path: Path, poisoned: Any) -> None:
    poisoned(7, lr_scale=0.0)
    wanted = (
        r"The loss is not a finite number at epoch 2 step 7 of phase 'finetune' \(lr .*\): training has diverged\. "
        r"Remedies: lower the learning rate .* The learning rate had been halved 3 times before\. "
        r"The batch: .*diverged/phase0-step7\.png\."
    )
    with pytest.raises(TrainingError, match=wanted):
        execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["0"]["rollbacks"]
    assert [f["lr_scale"] for f in facts] == [0.5, 0.25, 0.125]
    assert [r["epoch"] for r in rows(tmp_path) if r["kind"] == "epoch"] == [1]


def test_without_rollbacks_the_first_divergence_is_the_last(tiny: Any, tmp_path: Path, poisoned: Any) -> None:
    poisoned(3)
    with pytest.raises(TrainingError, match=r"from before\. The batch: .*phase0-step3\.png\.$"):
        execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(rollbacks=0), tmp_path)
    assert "rollbacks" not in json.loads((tmp_path / "training.json").read_text())["phases"]["0"]


def test_a_rate_that_explodes_is_halved_until_it_learns(tiny: Any, tmp_path: Path) -> None:
    """No fault is injected: full-network SGD without clipping at a rate far above what it bears."""
    phase = tiny.phase(train_from=0, epochs=6, lr=3.0, head_lr=3.0, stage_decay=1.0, clip_grad=None, warmup=0.0,
                       ema=None, batch_norm="frozen", augment="none")  # fmt: skip
    data, settings = tiny.bundle(60, 30), tiny.recipe(rollbacks=60)
    execute(tiny.plan(phase), tiny.backbone(), data, settings, tmp_path)
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["0"]
    assert facts["rollbacks"]
    assert all(math.isfinite(r["loss"]) for r in rows(tmp_path) if r["kind"] == "step")
    last = rows(tmp_path)[-1]
    assert last["epoch"] == 6
    assert last["val_loss"] < 3 * math.log(3)


def test_a_healthy_run_is_not_touched(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "_STEPS_APART", 1)
    ends = []
    for allowed in (0, 3):
        folder = tmp_path / str(allowed)
        network = execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(rollbacks=allowed), folder)
        ends.append(network.state_dict())
        assert not (folder / "diverged").exists()
        assert "rollbacks" not in json.loads((folder / "training.json").read_text())["phases"]["0"]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert rows(tmp_path / "0") == rows(tmp_path / "3")


def test_ruined_weights_are_never_a_good_state(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step that ruins them has a sound loss; the place due for keeping comes right after it."""
    monkeypatch.setattr(rollback, "_STEPS_WITHIN", 3)
    step, count = Engine.step, [0]

    def ruinous(engine: Engine, clip: float | None) -> None:
        step(engine, clip)
        count[0] += 1
        if count[0] == 3:
            with torch.no_grad():
                engine._parameters[0].fill_(torch.nan)

    monkeypatch.setattr(Engine, "step", ruinous)
    execute(
        tiny.plan(tiny.phase(ema=None)), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path
    )
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["0"]["rollbacks"]
    assert [(f["step"], f["back_to_step"]) for f in facts] == [(4, 0)]
    assert [r["step"] for r in rows(tmp_path) if r["kind"] == "step"] == list(range(1, 13))


class StopAt(Listener):
    """Sends this process a signal at a step while the learning rate has this factor."""

    def __init__(self, step: int, lr_scale: float) -> None:
        self.step, self.lr_scale = step, lr_scale

    def on_step(self, row: dict[str, Any]) -> None:
        if (row["step"], row.get("lr_scale", 1.0)) == (self.step, self.lr_scale):
            os.kill(os.getpid(), signal.SIGTERM)


def test_stopped_around_a_rollback_and_resumed(tiny: Any, tmp_path: Path, poisoned: Any) -> None:
    """Before the fault the checkpoint must carry the good state, after it the halved rate."""
    poisoned(7)
    plan, data, settings = tiny.plan(tiny.phase(epochs=2)), tiny.bundle(), tiny.recipe(log_every=1)
    whole = execute(plan, tiny.backbone(), data, settings, tmp_path / "whole")
    facts = json.loads((tmp_path / "whole" / "training.json").read_text())["phases"]["0"]["rollbacks"]
    assert len(facts) == 1
    for step, lr_scale in [(5, 1.0), (6, 1.0), (5, 0.5), (8, 0.5)]:
        folder = tmp_path / f"{step} {lr_scale}"
        with pytest.raises(Interrupted):
            execute(plan, tiny.backbone(), data, settings, folder, StopAt(step, lr_scale))
        network = execute(plan, tiny.backbone(seed=9), data, settings, folder, resume=True)
        assert rows(folder) == rows(tmp_path / "whole")
        assert all(
            torch.equal(value, network.state_dict()[name]) for name, value in whole.state_dict().items()
        )
        assert json.loads((folder / "training.json").read_text())["phases"]["0"]["rollbacks"] == facts
