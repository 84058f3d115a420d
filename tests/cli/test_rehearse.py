"""lr-find and preflight from the command line, and both in a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from finetune.cli.app import cli
from finetune.cli.chart import chart
from finetune.training import preflight as module
from finetune.training.checks import Check, Scene

SMALL = (
    "backbone=test_resnet", "pretrained=false", "image_size=32", "precision=fp32", "channels_last=false",
    "train.avoid=[]", "batch_size=8", "augment=none",
)  # fmt: skip


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdicts must not depend on how busy the machine is."""
    monkeypatch.setattr(module, "LEAST", 1000.0)
    monkeypatch.setattr(module, "MOST", 1000.0)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")


def test_lr_find(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = call(
        "lr-find", "--data", picture_folder, "--strategy", "scratch", *SMALL, "--out", tmp_path / "lr"
    )
    assert found.exit_code == 0, found.output
    plain = " ".join(found.stdout.split())
    assert "smoothed training loss over the body's learning rate" in plain
    assert "*" in found.stdout
    facts = json.loads((tmp_path / "lr" / "lr-find.json").read_text())
    assert {"lr", "head_lr", "reason", "curve"} <= facts.keys()
    assert facts["reason"] in plain
    assert (tmp_path / "lr" / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["lr"]  # no run folder, no checkpoint


def test_preflight_that_passes(picture_folder: Path) -> None:
    found = call("preflight", "--data", picture_folder, "--strategy", "partial", *SMALL, "--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert [c["name"] for c in report["checks"]][-1] == "overfitting"
    assert all(c["status"] in ("ok", "warning") for c in report["checks"]), report


def failing(scene: Scene) -> Check:
    return Check("labels", "failure", "all wrong.", "Turn them round.")


def test_preflight_that_fails(picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKS", (failing,))
    words = ("--data", picture_folder, "--strategy", "partial", *SMALL)
    found = call("preflight", *words)
    assert found.exit_code == 1
    assert "labels" in found.stdout
    assert "all wrong. Turn them round." in found.stdout
    stopped = call("run", *words, "epochs=1", "--out", tmp_path / "a")
    assert stopped.exit_code == 2
    assert "Preflight found 1 problem before phase" in stopped.stderr
    assert "labels: all wrong. Turn them round." in stopped.stderr
    trained = call(
        "run", *words, "epochs=1", "refit=false", "--out", tmp_path / "b", "--no-preflight", "--quiet"
    )
    assert trained.exit_code == 0, trained.output


@pytest.mark.parametrize("command", ["lr-find", "preflight"])
def test_a_strategy_without_gradient_steps(command: str, picture_folder: Path) -> None:
    found = call(command, "--data", picture_folder, "--strategy", "linear", *SMALL)
    assert found.exit_code == 2
    assert "Strategy linear solves its head and trains nothing by gradient steps" in found.stderr


def test_lr_auto_in_a_run(picture_folder: Path, tmp_path: Path) -> None:
    from finetune.api import run

    keys: dict[str, Any] = {
        "backbone": "test_resnet", "pretrained": False, "strategy": "partial", "out": str(tmp_path / "r"),
        "data": {"path": str(picture_folder), "image_size": 32},
        "train": {"lr": "auto", "epochs": 1, "precision": "fp32", "channels_last": False, "avoid": [],
                  "augment": "none", "preflight": False},
    }  # fmt: skip
    found = run(keys, figures=False)
    facts = json.loads((found.path / "training.json").read_text())
    (kept,) = [v for k, v in facts.items() if k.startswith("learning rates of ")]
    groups = [p["groups"] for p in facts["phases"].values() if "groups" in p]
    assert groups  # two, where the safety net leaves the refit something to do
    assert all(g[-1]["lr"] == kept["used"]["head_lr"] for g in groups)
    assert "Learning rate by a range test when phase" in (found.path / "decision.json").read_text()


def test_chart_holds_every_point() -> None:
    xs = [10.0**-k for k in range(5, 0, -1)]
    lines = chart(xs, [5, 4, 3, 2, 1], {1e-3: "here"}, width=41, height=5)
    assert [line.index("*") for line in lines[:5]] == [6, 16, 26, 36, 46]
    assert lines[-1].index("^") == 26
    assert len(chart([1.0, 10.0], [math.pi, math.pi])) == 12
