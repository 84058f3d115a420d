"""Snapshot ensembles: the cycles' formula, what is written when, and the answers of such a run."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.api import open_run, resume, run
from finetune.errors import Interrupted, RunError
from finetune.events import Listener
from finetune.training.averaged_schedule import cycle_ends, cyclic_cosine
from finetune.training.execute import execute
from finetune.training.snapshots import Snapshots
from finetune.zoo.model_folder import load_backbone


def test_the_schedule_is_the_papers_and_torchs() -> None:
    total, cycles = 30, 3
    ours = cyclic_cosine(tuple(10 * (i + 1) for i in range(cycles)))
    length = math.ceil(total / cycles)
    paper = [(math.cos(math.pi * ((t - 1) % length) / length) + 1) / 2 for t in range(1, total + 1)]
    assert [ours(step) for step in range(total)] == pytest.approx(paper)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=10)
    for step in range(total):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_only_the_first_cycle_warms_up_and_all_epochs_belong_to_one() -> None:
    ours = cyclic_cosine((10, 20), warmup=2)
    assert [ours(0), ours(1), ours(2), ours(10)] == [0.5, 1.0, 1.0, 1.0]
    for epochs, cycles in ((5, 5), (7, 3), (100, 6)):
        ends = cycle_ends(epochs, cycles)
        assert len(ends) == cycles
        assert ends[-1] == epochs
        assert all(later > earlier for earlier, later in zip((0, *ends), ends, strict=False))


def test_cycles_that_end_in_one_epoch_leave_one_snapshot(tiny: Any, tmp_path: Path) -> None:
    kept = Snapshots(tiny.backbone(), (4, 8, 12, 16, 20), tmp_path, ("a", "b", "c"))
    for epoch, place in (
        (1, 3.0),
        (2, 9.0),
        (2, 9.0),
        (3, 15.0),
        (4, 20.0),
    ):  # shortened: several cycles each
        kept.close_epoch(epoch, place)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["1", "2", "3"]
    again = Snapshots(tiny.backbone(), (4, 8), tmp_path, ("a", "b", "c"))
    again.load_state_dict(kept.state_dict())
    assert again.state_dict() == kept.state_dict() == {"steps": 3, "mean": {}, "passed": 5, "closed": 4}


def test_each_cycle_leaves_the_network_as_it_is_then(tiny: Any, tmp_path: Path) -> None:
    both = tiny.phase(ema=None, keep="last", epochs=4, snapshots=2)
    done = execute(tiny.plan(both), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / "both")
    first = tiny.phase(ema=None, keep="last", epochs=2)  # a run of one cosine: the first cycle
    alone = execute(tiny.plan(first), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / "first")
    for number, network in ((1, alone), (2, done)):
        kept = load_backbone(tmp_path / "both" / "snapshots" / str(number)).state_dict()
        assert [n for n, t in network.state_dict().items() if not torch.equal(t, kept[n])] == []


def test_adapters_are_merged_in_the_snapshot_and_not_in_training(tiny: Any, tmp_path: Path) -> None:
    adapters = tiny.phase(ema=None, keep="last", epochs=2, snapshots=2, trains="lora", train_from=1,
                          optimizer="adamw", lr=1e-3, head_lr=1e-3, batch_norm="frozen")  # fmt: skip
    network = tiny.backbone("test_vit")
    done = execute(tiny.plan(adapters), network, tiny.bundle(), tiny.recipe(), tmp_path)
    first, last = (load_backbone(tmp_path / "snapshots" / n).state_dict() for n in "12")
    assert not any("lora" in name for name in first)
    for name, tensor in done.state_dict().items():
        torch.testing.assert_close(tensor, last[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(first[name], last[name]) for name in last)


# --- a run -----------------------------------------------------------------------------------------------


def recipe(data: Path, out: Path) -> dict[str, Any]:
    train = {"snapshots": 2, "epochs": 2, "refit": False, "precision": "fp32", "channels_last": False,
             "log_every": 1, "avoid": []}  # fmt: skip
    return {
        "strategy": "partial",
        "data": {"path": str(data), "image_size": 32},
        "out": str(out),
        "train": train,
    }


class StopAt(Listener):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_epoch(self, row: dict[str, Any]) -> None:
        if row["step"] >= self.step:
            raise Interrupted("Stopped.")


def test_a_run_answers_with_the_mean_and_resumes_to_it(picture_folder: Path, tmp_path: Path) -> None:
    found = run(recipe(picture_folder, tmp_path / "r"), figures=False)
    listed = found.folder.members()
    assert [weight for _, weight in listed] == [0.5, 0.5]
    assert len(found.result["test"]["members"]) == 2
    images = sorted(picture_folder.rglob("*.png"))[::5]
    one = []
    for folder, _ in listed:
        network = load_backbone(folder)
        single = shutil.copytree(found.path, tmp_path / folder.name)
        (single / "ensemble.json").unlink()
        shutil.rmtree(single / "model")
        shutil.copytree(folder, single / "model")
        one.append([answer.probabilities for answer in open_run(single).predict(images)])
        assert network.num_classes == 3
    moved = open_run(shutil.move(tmp_path / "r", tmp_path / "moved"))
    for answer, first, second in zip(moved.predict(images), *one, strict=True):
        for name in moved.classes:
            mean = (first[name] + second[name]) / 2  # type: ignore[index]
            assert answer.probabilities[name] == pytest.approx(mean, abs=1e-6)  # type: ignore[index]
    test = list(csv.DictReader((moved.path / "predictions.csv").read_text().splitlines()))
    again = moved.predict([picture_folder / row["image"] for row in test])
    assert [float(row["probability"]) for row in test] == pytest.approx(
        [a.probability for a in again], abs=1e-4
    )
    with pytest.raises(RunError, match="is an ensemble of 2 networks, not one"):
        moved.export(tmp_path / "exported")

    with pytest.raises(Interrupted):
        run(recipe(picture_folder, tmp_path / "s"), listener=StopAt(2), figures=False)
    stopped = resume(tmp_path / "s", figures=False)
    for number in "12":
        ours, theirs = (load_backbone(r.path / "snapshots" / number).state_dict() for r in (stopped, moved))
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert np.isclose(stopped.result["test"]["log_loss"], moved.result["test"]["log_loss"], atol=1e-6)
