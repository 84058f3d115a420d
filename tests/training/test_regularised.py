"""Runs with many regularisers at once: they learn, resume bit for bit, and change nothing when off."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import Interrupted
from finetune.events import Listener
from finetune.training.execute import execute
from finetune.training.feed import Feed
from finetune.training.metrics_log import read_metrics

MANY: dict[str, Any] = {
    "mixup": 0.2, "cutmix": 1.0, "input_noise": 0.1, "l1": 1e-4, "l2_sp": 1e-3, "dropout": 0.2, "drop_path": 0.2,
    "drop_connect": 0.2, "loss": "focal", "focal_gamma": 1.0, "sampling": "balanced",
}  # fmt: skip


class StopAt(Listener):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def pretrained(tiny: Any, **changes: Any) -> Any:
    return tiny.plan(tiny.phase(**changes)).model_copy(update={"init": "pretrained"})


def run(tiny: Any, folder: Path, plan: Any, *more: Any, **options: Any) -> dict[str, torch.Tensor]:
    made = execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), folder, *more, **options)
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize("augment", ["light", "none"])
def test_resumed_with_everything_on_ends_like_the_whole_run(tiny: Any, tmp_path: Path, augment: str) -> None:
    plan = pretrained(tiny, augment=augment, **MANY)
    whole = run(tiny, tmp_path / "whole", plan)
    for step in (2, 7):
        folder = tmp_path / f"stopped at {step}"
        with pytest.raises(Interrupted):
            run(tiny, folder, plan, StopAt(step))
        again = run(tiny, folder, plan, resume=True)
        assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


@pytest.mark.parametrize("key", [*MANY, "class_weights"])
def test_each_key_changes_the_training(tiny: Any, tmp_path: Path, key: str) -> None:
    value = {"class 0": 3.0} if key == "class_weights" else MANY[key]
    base: dict[str, Any] = {"epochs": 1, "loss": "focal"} if key == "focal_gamma" else {"epochs": 1}
    plain = run(tiny, tmp_path / "plain", pretrained(tiny, **base))
    changed = run(tiny, tmp_path / "changed", pretrained(tiny, **{**base, key: value}))
    assert any(not torch.equal(plain[name], changed[name]) for name in plain)
    assert plain.keys() == changed.keys()


def test_learns_with_mixing_and_balanced_focal_loss(tiny: Any, tmp_path: Path) -> None:
    """Fifty images of class 0 and six of each other; each class must be found nevertheless."""
    from finetune.data.batches import eval_tensor

    phase = tiny.phase(
        train_from=0, epochs=14, batch_norm="train", lr=0.05, head_lr=0.05, ema=None, sampling="balanced",
        loss="focal", focal_gamma=1.0, mixup=0.1, dropout=0.1,
    )  # fmt: skip
    data = tiny.bundle(150, 0)
    few = [i for i in range(150) if data.train.labels[i] == 0 or i < 18]
    data = replace(data, train=data.train.subset(few))
    made = execute(tiny.plan(phase), tiny.backbone(), data, tiny.recipe(), tmp_path)
    test = tiny.bundle(6, 60).val
    with torch.no_grad():
        found = (
            made.eval()(made.preprocessing.normalise(eval_tensor(test, made.preprocessing))).argmax(1).numpy()
        )
    assert min((found[test.labels == k] == k).mean() for k in range(3)) >= 0.6


def feed(tiny: Any, phase: Any) -> Feed:
    made = tiny.backbone()
    made.freeze_below(phase.train_from)
    return Feed(made, tiny.bundle(), phase, seed=0, threads=1, device=torch.device("cpu"))


def test_mixed_inputs_are_not_served_from_kept_activations(tiny: Any) -> None:
    from finetune.training.precision import Precision

    for key, kept in ((None, True), ("mixup", False), ("input_noise", False)):
        made = feed(tiny, tiny.phase(train_from=3, augment="none", **({key: 0.2} if key else {})))
        said = made.prepare(Precision("fp32", False))
        assert said is not None
        assert ("training" in said) is kept
        inputs, labels = next(made.train(0))
        assert (inputs.shape[1:] == (3, 32, 32)) is not kept
        assert labels.ndim == (2 if key == "mixup" else 1)
        assert made.forward(inputs).shape == (8, 3)
        held, _ = next(made.validation())
        assert held.shape[1:] != (3, 32, 32)
        assert made.forward(held).shape == (12, 3)


def test_balanced_sampling_of_kept_activations_follows_the_same_order(tiny: Any) -> None:
    from finetune.training.precision import Precision

    labels = []
    for kept in (True, False):
        made = feed(tiny, tiny.phase(train_from=3, augment="none", sampling="balanced"))
        if kept:
            made.prepare(Precision("fp32", False))
        labels.append(torch.cat([y for _, y in made.train(1)]))
    assert torch.equal(labels[0], labels[1])
    assert np.bincount(labels[0].numpy()).tolist() == [11, 11, 11]


def test_training_loss_and_accuracy_are_logged_for_mixed_labels(tiny: Any, tmp_path: Path) -> None:
    run(tiny, tmp_path, pretrained(tiny, epochs=1, mixup=1.0))
    row = [r for r in read_metrics(tmp_path) if r["kind"] == "epoch"][-1]
    assert 0 <= row["accuracy"] <= 1
    assert row["loss"] > 0


@pytest.mark.parametrize("head", ["bottleneck", "fractional-pool"])
def test_other_heads_train_resume_and_can_follow_each_other(tiny: Any, tmp_path: Path, head: str) -> None:
    phases = [tiny.phase(train_from=5, epochs=1, augment="none", head=head, bottleneck=4),
              tiny.phase(epochs=2, head=head, bottleneck=4, blend=(0.0, 0.5, 1.0))]  # fmt: skip
    plan = tiny.plan(*phases)

    whole = execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path / "whole")
    assert not whole.is_plain
    with pytest.raises(Interrupted):
        execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path / "b", StopAt(6))
    again = execute(
        plan, tiny.backbone(seed=5), tiny.bundle(), tiny.recipe(log_every=1), tmp_path / "b", resume=True
    )
    ours, theirs = whole.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ("head.reduce.weight" in ours) is (head == "bottleneck")


def test_a_phase_with_a_linear_head_after_a_bottleneck_gets_one(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan(tiny.phase(epochs=1, head="bottleneck", bottleneck=4), tiny.phase(epochs=1))
    assert run(tiny, tmp_path, plan)["head.weight"].shape[0] == 3
