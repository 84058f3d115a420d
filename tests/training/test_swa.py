"""Stochastic weight averaging against torch.optim.swa_utils, and exact when resumed."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from finetune.errors import ConfigError, Interrupted
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.training.averaged_schedule import first_averaged, swa_schedule
from finetune.training.execute import execute
from finetune.training.norms import moving, reestimate
from finetune.training.plan_file import read_plan
from finetune.training.schedule import cosine
from finetune.training.swa import SwaAverage


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))


def test_is_torchs_average() -> None:
    ours, theirs = network(), AveragedModel(network(), use_buffers=True)
    average = SwaAverage(ours.state_dict(keep_vars=True), first=3)
    for epoch in range(1, 7):
        with torch.no_grad():
            for tensor in ours.state_dict().values():
                tensor += 1 if tensor.dtype == torch.int64 else torch.randn_like(tensor)
        average.close_epoch(epoch, epoch)
        average.close_epoch(epoch, epoch)  # a resumed run says so twice
        if epoch >= 3:
            theirs.update_parameters(ours)
    own = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with average.applied():
        found = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for name, tensor in theirs.module.state_dict().items():
        if tensor.is_floating_point():  # the counter of batches has no use as a mean, and is copied
            torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(own[name], tensor) for name, tensor in ours.state_dict().items())


def test_nothing_is_applied_before_the_first_average() -> None:
    live = torch.nn.Parameter(torch.zeros(2))
    average = SwaAverage({"w": live}, first=2)
    with torch.no_grad():
        live += 5
    average.close_epoch(1, 1.0)
    with average.applied():
        assert live.tolist() == [5, 5]


def test_in_a_shortened_run_the_place_in_the_plan_counts() -> None:
    live = torch.nn.Parameter(torch.zeros(1))
    average = SwaAverage({"w": live}, first=16)  # of 20; time is enough for 5 epochs, each as long as 4
    for epoch in range(1, 6):
        with torch.no_grad():
            live += 1
        average.close_epoch(epoch, 4.0 * epoch)
    with average.applied():
        assert live.tolist() == [4.5]  # of the fourth and the fifth


@pytest.mark.parametrize("anneal", [1, 4])
def test_the_learning_rate_is_that_of_swalr(anneal: int) -> None:
    usual, first = cosine(20), 12
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=usual(first - 1))
    theirs = SWALR(optimizer, swa_lr=0.5, anneal_epochs=anneal)
    ours = swa_schedule(usual, first, anneal, 0.5)
    assert [ours(step) for step in range(first)] == [usual(step) for step in range(first)]
    for step in range(first, 20):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()


def test_the_share_counts_epochs_from_the_end() -> None:
    for epochs in (1, 2, 3, 7, 40):
        for share in (0.01, 0.25, 0.5, 0.99):
            first = first_averaged(epochs, share)
            assert 1 <= first <= epochs
            if epochs > 1:
                assert first > 1
                assert epochs - first + 1 == max(1, min(math.ceil(share * epochs), epochs - 1))


def phase(tiny: Any, **changes: Any) -> Any:
    settings = {"ema": None, "swa": 0.5, "keep": "last", "epochs": 4, "train_from": 0, "augment": "none"}
    return tiny.phase(**{**settings, **changes})


class Stop(Listener):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_resumed_in_the_averaged_epochs_ends_bit_for_bit(tiny: Any, tmp_path: Path) -> None:
    def go(folder: str, step: int = 0, resume: bool = False) -> dict[str, torch.Tensor]:
        run = tmp_path / folder
        done = execute(tiny.plan(phase(tiny)), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), run,
                       Stop(step), resume)  # fmt: skip
        return dict(done.state_dict())

    whole = go("whole")
    for step in (12, 14):  # the last of the third epoch, whose end is averaged, and one of the fourth
        with pytest.raises(Interrupted):
            go(f"stopped {step}", step)
        resumed = go(f"stopped {step}", resume=True)
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_the_run_ends_with_the_mean_of_the_last_epochs(tiny: Any, tmp_path: Path) -> None:
    """The same steps with keep=last and no average, stopped at each epoch, are the ingredients."""
    swa = phase(tiny, batch_norm="frozen", swa_lr=1.0, schedule="constant", warmup=0.0)
    done = execute(tiny.plan(swa), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / "swa")
    states = []
    for epochs in (3, 4):
        plain = phase(tiny, batch_norm="frozen", swa=None, schedule="constant", warmup=0.0, epochs=epochs)
        run = execute(tiny.plan(plain), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / f"{epochs}")
        states.append(run.state_dict())
    for name, tensor in done.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2, rtol=1e-5, atol=1e-6)


def test_moving_norms_are_those_of_the_averaged_weights(tiny: Any, tmp_path: Path) -> None:
    heard: list[str] = []

    class Ear(Listener):
        def on_message(self, text: str) -> None:
            heard.append(text)

    swa, data = phase(tiny, train_from=2), tiny.bundle(64)
    done = execute(tiny.plan(swa), tiny.backbone(), data, tiny.recipe(), tmp_path, Ear())
    assert any(line.startswith("Batch norms of the averaged network") for line in heard)
    start = dict(tiny.backbone().state_dict())
    done.freeze_below(2)
    done.freeze_norms(False)
    layers, names = moving(done), dict(done.named_modules())
    assert layers
    own = {id(layer) for layer in layers}
    frozen = [
        name for name, module in names.items() if hasattr(module, "running_mean") and id(module) not in own
    ]
    assert frozen
    assert all(
        torch.equal(done.state_dict()[f"{n}.running_mean"], start[f"{n}.running_mean"]) for n in frozen
    )
    before = [layer.running_mean.clone() for layer in layers]
    loader = [done.preprocessing.normalise(images) for images in _batches(data, done)]
    # torch's own way, on the whole network; the frozen norms' statistics are those of random weights, 0 and 1,
    # which is what it sets them to.
    update_bn(loader, done)
    for layer, mean in zip(layers, before, strict=True):
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-4, atol=1e-5)
    assert reestimate(done, data.train, torch.device("cpu"), 1, layers=[]) is False


def _batches(data: Any, network: Any) -> list[torch.Tensor]:
    from finetune.data.batches import eval_batches

    return list(eval_batches(data.train, network.preprocessing, 64))


# --- what does not go together ---------------------------------------------------------------------------


def test_recipe_keys_that_exclude_each_other() -> None:
    tree = {"train": {"ema": 0.9, "swa": 0.25, "snapshots": 3, "keep": "best",
                      "schedule": "constant", "safety_net": True, "patience": 3, "stop_at": 1.0}}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        Recipe.from_mapping(tree)
    said = str(caught.value)
    assert said.startswith("6 problems in recipe:")
    assert "train.ema and train.swa and train.snapshots must be given one at a time" in said
    assert "train.keep must be last where train.swa says which epochs' weights are kept. Got 'best'" in said
    assert "train.schedule must be cosine where train.snapshots restarts it. Got 'constant'" in said
    assert "train.safety_net must be false with train.snapshots" in said
    assert "train.patience must be left out where train.swa counts on all epochs. Got 3" in said
    assert "train.stop_at must be left out where train.swa counts on all epochs. Got 1.0" in said
    with pytest.raises(
        ConfigError, match=r"train\.schedule must be one that is known beforehand .*Got 'plateau'"
    ):
        Recipe.from_mapping({"train": {"swa": 0.25, "schedule": "plateau"}})
    Recipe.from_mapping({"train": {"swa": 0.25, "ema": None, "epochs": 2}})
    with pytest.raises(ConfigError, match=r"train\.swa: must be less than 1"):
        Recipe.from_mapping({"train": {"swa": 1.5}})


def test_a_written_plan_is_held_to_the_same(tiny: Any, tmp_path: Path) -> None:
    plan = tiny.plan(tiny.phase(ema=None, snapshots=2, keep="last", blend=(0.0, 1.0)))
    with pytest.raises(ConfigError, match=r"phases\.0\.blend must be \[\] with phases\.0\.snapshots"):
        read_plan(plan, 5, "test_resnet")
    with pytest.raises(ConfigError, match=r"phases\.0\.ema and phases\.0\.swa must be given one at a time"):
        read_plan(tiny.plan(tiny.phase(swa=0.5, keep="last")), 5, "test_resnet")
