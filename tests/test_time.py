"""--time of a run, from the command's start to its end, and what it is divided among."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune import crossval, start
from finetune.events import Listener
from finetune.pipeline import Pipeline
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.training.deadline import Deadline


class Ear(Listener):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root, rng = tmp_path_factory.mktemp("data") / "two", np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(40 + 60 * k, 140 + 60 * k, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    train = {
        "epochs": 50_000,
        "batch_size": 8,
        "precision": "fp32",
        "channels_last": False,
        "preflight": False,
    }
    return {"data": {"path": str(root), "image_size": 32, "workers": 1}, "strategy": "partial", "threads": 1,
            "device": "cpu", "train": train}  # fmt: skip


def test_a_command_began_when_the_system_started_it() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import time; time.sleep(0.5); from finetune import start; start.mark();"
         "print(time.monotonic() - start.began())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 0.0 <= float(said.stdout) < 60
    if sys.platform == "linux":
        assert float(said.stdout) > 0.5


def test_a_command_tells_those_that_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_marked", None)
    assert abs(start.began() - time.monotonic()) < 1
    monkeypatch.setenv(start.KEY, "12.5")
    start.mark()
    assert start.began() == 12.5
    assert start.KEY not in os.environ
    monkeypatch.setenv(start.KEY, "soon")
    start.mark()
    assert abs(start.began() - time.monotonic()) < 1


def test_without_time_the_head_alone_is_a_valid_model(tree: dict[str, Any], tmp_path: Path) -> None:
    ear = Ear()
    ran = finetune.run(
        tree,
        f"out={tmp_path / 'run'}",
        "train.time=6",
        figures=False,
        listener=ear,
        began=time.monotonic() - 60,
    )
    assert [phase["kind"] for phase in ran.folder.read_json("training.json")["phases"].values()] == ["probe"]
    assert "train.time=6 is too short even for one epoch of training: the head alone is kept." in ear.messages
    assert any("s instead of train.time=6: reading and looking" in text for text in ear.messages)
    assert ran.result["test"]["n"] > 0
    assert ran.result["seconds"] > 60
    assert ran.result["trained_parameters"] < 0.01 * ran.result["parameters"]
    plan = (ran.path / "plan.yaml").read_text()
    assert "fit_on: train+val" in plan
    assert "kind: gradient" not in plan.replace("# ", "").split("\nstrategy")[-1]


def test_a_run_is_over_in_its_time(tree: dict[str, Any], tmp_path: Path) -> None:
    ear, began = Ear(), time.monotonic()
    ran = finetune.run(tree, f"out={tmp_path / 'run'}", "train.time=25", figures=False, listener=ear)
    assert time.monotonic() - began < 35  # other processes may be at work on the machine
    trained = ran.folder.read_json("training.json")["phases"]["1"]
    assert trained["time"] < 24
    assert trained["steps"], "the schedule was shortened"
    # Half of 100,000 epochs would not fit either.
    assert (
        "train.time=25: no time to train on train+val once more; the first training has it all."
        in ear.messages
    )


def test_folds_share_the_time(tree: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def note(job: Pipeline, fold: RunFolder, bundle: Any) -> Any:
        assert job.deadline is not None
        limits.append(job.deadline.seconds)
        return {"test": {bundle.task.metric: 0.5}}

    monkeypatch.setattr(crossval, "_run_fold", note)
    monkeypatch.setattr(crossval, "_sum_up", lambda *args: None)
    recipe = Recipe.from_mapping({**tree, "data": {**tree["data"], "folds": 3}}).override("train.time=100")
    folder = RunFolder(tmp_path / "run")
    done = folder.path / "fold-1"
    done.mkdir(parents=True)
    (done / "timing.json").write_text('{"seconds": 10.0}')  # stopped in the first fold
    crossval.go_on_with_folds(recipe, folder, Listener(), False, time.monotonic() - 30)
    # 60 s are left for three; nothing was used of them
    assert limits == [pytest.approx(10 + 20, abs=2), pytest.approx(30, abs=3), pytest.approx(60, abs=4)]


def test_a_race_leaves_half_of_the_time(tree: dict[str, Any], tmp_path: Path) -> None:
    recipe, ear = Recipe.from_mapping(tree).override("train.time=100"), Ear()
    job = Pipeline(recipe, RunFolder(tmp_path), None, ear, False, None, time.monotonic() - 18)
    assert isinstance(job.deadline, Deadline)
    assert job._budget(20.0) == 20.0
    assert job._budget(60.0) == pytest.approx(40, abs=1)
    assert ear.messages == ["The race gets 40 s, half of what train.time leaves, instead of 60 s."]
