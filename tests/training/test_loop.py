"""The loop: what trains, what stays frozen, accumulation, best weights, kept activations, trouble."""

from __future__ import annotations

import copy
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.data.batches import eval_tensor
from finetune.errors import RunError, TrainingError
from finetune.events import Listener
from finetune.strategy.plan import ProbePhase
from finetune.training.engine import Engine
from finetune.training.execute import execute
from finetune.training.loop import grouped
from finetune.training.metrics_log import read_metrics


def run(tiny: Any, folder: Path, *phases: Any, network: Any = None, data: Any = None, **train: Any) -> Any:
    return execute(
        tiny.plan(*phases), network or tiny.backbone(), data or tiny.bundle(), tiny.recipe(**train), folder
    )


def accuracy(network: Any, images: Any) -> float:
    x = network.preprocessing.normalise(eval_tensor(images, network.preprocessing))
    with torch.no_grad():
        return float((network.eval()(x).argmax(1) == torch.as_tensor(images.labels)).float().mean())


def test_learns(tiny: Any, tmp_path: Path) -> None:
    phase = tiny.phase(train_from=0, epochs=8, batch_norm="train", lr=0.05, head_lr=0.05, ema=None)
    network = run(tiny, tmp_path, phase, data=tiny.bundle(60, 30))
    assert accuracy(network, tiny.bundle().test) >= 0.8


@pytest.mark.parametrize("first", [1, 3, 5])
@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_frozen_stages_keep_their_bits(
    tiny: Any, tmp_path: Path, arch: str, first: int, augment: str
) -> None:
    network = tiny.backbone(arch)
    before = copy.deepcopy(network.state_dict())
    trained = {n for i in range(first, network.num_stages) for n, _ in network.stage_parameters(i)}
    trained |= {n for n, _ in network.head_parameters()}
    phase = tiny.phase(train_from=first, epochs=1, augment=augment, batch_norm="train", head_lr=0.01)
    run(tiny, tmp_path, phase, network=network)
    after = network.state_dict()
    changed = {n for n in before if n in after and before[n].shape == after[n].shape
               and not torch.equal(before[n], after[n])}  # fmt: skip
    modules = {n.rpartition(".")[0] for n in trained}
    assert {n for n in changed if n.rpartition(".")[0] not in modules} == set()
    assert trained & changed


def test_frozen_norms_keep_statistics_while_weights_train(tiny: Any, tmp_path: Path) -> None:
    network = tiny.backbone()
    before = copy.deepcopy(network.state_dict())
    run(tiny, tmp_path, tiny.phase(train_from=0, epochs=1, batch_norm="frozen", ema=None), network=network)
    after = network.state_dict()
    statistics = [n for n in before if "running" in n or "num_batches" in n]
    assert statistics
    assert all(torch.equal(before[n], after[n]) for n in statistics)
    assert not torch.equal(before["model.layer1.0.conv1.weight"], after["model.layer1.0.conv1.weight"])


def test_accumulated_steps_equal_large_batches(tiny: Any, tmp_path: Path) -> None:
    """22 images: micro-batches 4,4,4,4,4,2 in groups of three against batches of 12 and 10."""
    ends = []
    for number, (size, accumulate) in enumerate([(12, 1), (4, 3)]):
        phase = tiny.phase(train_from=0, epochs=2, batch_size=size, accumulate=accumulate, augment="none",
                           batch_norm="frozen", ema=None)  # fmt: skip
        network = run(tiny, tmp_path / str(number), phase, network=tiny.backbone(), data=tiny.bundle(22, 0))
        ends.append(network.state_dict())
        assert (
            json.loads((tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()[-1])["steps"] == 4
        )
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=2e-5), name


def test_kept_activations_give_the_same_training(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.training import feed

    messages: list[str] = []
    ends, passes = [], []

    class Words(Listener):
        def on_message(self, text: str) -> None:
            messages.append(text)

    for number, growth in enumerate([1000, 0]):
        monkeypatch.setattr(feed, "_GROWTH", growth)
        network = tiny.backbone()
        count = [0]
        network.model.layer1.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        phase = tiny.phase(train_from=3, epochs=3, augment="none", batch_norm="train")
        plan, data = tiny.plan(phase), tiny.bundle()
        execute(plan, network, data, tiny.recipe(), tmp_path / str(number), Words())
        ends.append(network.state_dict())
        passes.append(count[0])
    assert any(
        m.startswith("Validation and training images: the frozen stages 0 to 2 run once") for m in messages
    )
    assert passes[0] == 5 + 2  # each image once: 33 training and 12 validation images in batches of 8
    assert passes[1] > 3 * passes[0] - 9
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-5), name


def test_a_single_left_over_image_joins_the_last_batch(tiny: Any, tmp_path: Path) -> None:
    """Batch norm at 1 x 1 pixels raises on one image; 9 = 8 + 1, 3 classes."""
    for number, augment in enumerate(["none", "light"]):
        phase = tiny.phase(train_from=4, epochs=1, augment=augment, batch_norm="train")
        run(tiny, tmp_path / str(number), phase, data=tiny.bundle(9, 3))
        assert read_metrics(tmp_path / str(number))[-1]["steps"] == 1


def test_batches_of_one_image_freeze_the_norms(tiny: Any, tmp_path: Path) -> None:
    network = tiny.backbone()
    before = copy.deepcopy(network.state_dict())
    run(
        tiny,
        tmp_path,
        tiny.phase(train_from=4, epochs=1, batch_size=1),
        network=network,
        data=tiny.bundle(6, 3),
    )
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items() if "running" in n)


def test_best_epoch_is_put_back(tiny: Any, tmp_path: Path) -> None:
    """A learning rate that ruins the probe: training must not end below where it began."""
    probe = ProbePhase(candidates=((4,),), folds=2)
    phase = tiny.phase(train_from=0, epochs=2, lr=0.5, head_lr=0.5, clip_grad=None, ema=None, warmup=0.0,
                       batch_norm="frozen", optimizer="adamw")  # fmt: skip
    network = run(tiny, tmp_path, probe, phase, data=tiny.bundle(45, 30))
    epochs = [r for r in read_metrics(tmp_path) if r["kind"] == "epoch"]
    best = max(epochs, key=lambda r: (r["val_accuracy"], -r["val_loss"]))
    assert accuracy(network, tiny.bundle(45, 30).val) == pytest.approx(best["val_accuracy"])
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]
    assert facts["1"]["best"]["epoch"] == best["epoch"]
    assert facts["0"]["trained_parameters"] == 291
    assert facts["1"]["trained_parameters"] == sum(p.numel() for p in network.parameters())


def test_averaged_weights_are_scored_and_kept(tiny: Any, tmp_path: Path) -> None:
    network = run(tiny, tmp_path, tiny.phase(train_from=0, epochs=1, ema=0.5), data=tiny.bundle(33, 30))
    scored = read_metrics(tmp_path)[-1]["val_accuracy"]
    assert accuracy(network, tiny.bundle(33, 30).val) == pytest.approx(scored)


def test_without_validation_the_last_epoch_is_kept(tiny: Any, tmp_path: Path) -> None:
    run(tiny, tmp_path, tiny.phase(epochs=2), data=tiny.bundle(16, 0))
    last = read_metrics(tmp_path)[-1]
    assert "val_loss" not in last
    assert json.loads((tmp_path / "training.json").read_text())["phases"]["0"]["best"]["epoch"] == 2


def test_loss_that_is_no_number_says_what_to_change(tiny: Any, tmp_path: Path) -> None:
    phase = tiny.phase(train_from=0, clip_grad=None, warmup=0.0, ema=None)
    phase = phase.model_copy(update={"lr": 1e18, "head_lr": 1e18})  # more than a plan may ask for
    wanted = (
        r"The loss is not a finite number at epoch \d step \d+ of phase 'finetune' \(lr .*\): training has "
        r"diverged\. Remedies: lower the learning rate \(train\.lr=1e\+16 train\.head_lr=1e\+16\), clip grad"
    )
    with pytest.raises(TrainingError, match=wanted):
        run(tiny, tmp_path, phase)


def test_step_that_ruins_the_weights_is_noticed_before_it_is_kept(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is that of the weights before it: the damage first shows in validation or saving."""
    phase = tiny.phase(train_from=0, clip_grad=None, warmup=0.0, ema=None, epochs=1, batch_norm="frozen")
    phase = phase.model_copy(update={"lr": 1e38, "head_lr": 1e38})
    with pytest.raises(TrainingError, match="The validation loss is not a finite number at epoch 1 step 1 "):
        run(tiny, tmp_path / "a", phase, data=tiny.bundle(8, 6))

    def ruinous(engine: Engine, clip: float | None) -> None:
        with torch.no_grad():
            engine._parameters[0].fill_(torch.nan)

    monkeypatch.setattr(Engine, "step", ruinous)
    with pytest.raises(TrainingError, match="A weight is not a finite number at epoch 2 step 1 "):
        run(tiny, tmp_path / "b", tiny.phase(epochs=1), data=tiny.bundle(8, 0), rollbacks=0)
    assert not list((tmp_path / "b").rglob("last.pt"))


def test_full_disk_while_training(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the file, and what was saved before can be gone on with."""
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "last.pt" and Path(target).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"The disk is full: .*last\.pt"):
        run(tiny, tmp_path / "a", save_every=3)
    monkeypatch.undo()
    recipe, data = tiny.recipe(save_every=3), tiny.bundle()
    network = execute(tiny.plan(), tiny.backbone(seed=8), data, recipe, tmp_path / "a", resume=True)
    whole = run(tiny, tmp_path / "b", save_every=3)
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), whole.state_dict().values()))


def test_run_folder_says_which_parameters_trained_how(tiny: Any, tmp_path: Path) -> None:
    messages: list[str] = []

    class Words(Listener):
        def on_message(self, text: str) -> None:
            messages.append(text)

    execute(tiny.plan(tiny.phase(epochs=1)), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path, Words())
    facts = json.loads((tmp_path / "training.json").read_text())["phases"]["0"]
    assert [g["name"] for g in facts["groups"]][-1] == "head"
    assert "head.weight" in facts["groups"][-2]["tensors"]
    assert facts["groups"][0]["lr"] == pytest.approx(0.02 * 0.5**2)
    assert any(m.startswith("stage 4 (layer4): ") and "lr 0.02" in m for m in messages)
    assert any(m.startswith("Training in fp32, contiguous") for m in messages)


def test_groups_of_micro_batches() -> None:
    batches: Any = list(range(5))
    assert list(grouped(batches, 2)) == [[0, 1], [2, 3], [4]]
    assert list(grouped([], 2)) == []


def test_loop_has_no_branch_on_strategies() -> None:
    from finetune.strategy import STRATEGIES
    from finetune.training import job, loop

    for module in (loop, job):
        source = Path(str(module.__file__)).read_text()
        for name in STRATEGIES.names():
            assert f'"{name}"' not in source
    assert len(Path(str(loop.__file__)).read_text().splitlines()) < 100
