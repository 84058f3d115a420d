"""Killed and resumed runs end like the uninterrupted one: weights bit for bit, metrics row for row."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import Interrupted, RunError
from finetune.events import Listener
from finetune.training.execute import execute
from finetune.training.metrics_log import read_metrics

TIMED = {"images_per_second", "seconds"}


def rows(run: Path) -> list[dict[str, Any]]:
    """Metrics without what the clock decides."""
    return [{k: v for k, v in row.items() if k not in TIMED} for row in read_metrics(run)]


def final(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "final.pt", weights_only=True)
    return state


def assert_same_end(run: Path, reference: Path) -> None:
    assert rows(run) == rows(reference)
    lines = (run / "metrics.csv").read_text().splitlines()
    assert len(lines) == len(rows(run)) + 1
    assert not list(run.rglob("*.tmp"))  # writers were killed too
    ours, theirs = final(run), final(reference)
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []


@pytest.fixture(scope="module")
def reference(runner: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    runner.start(run)
    code, message = runner.finish()
    assert code == 0, message
    return run


def test_reference_logs_every_step_and_epoch(reference: Path) -> None:
    logged = rows(reference)
    assert [r["step"] for r in logged if r["kind"] == "step"] == list(range(1, 13))
    assert [r["epoch"] for r in logged if r["kind"] == "epoch"] == [1, 2, 3]


def test_killed_at_twenty_random_points(runner: Any, reference: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    killed = 0
    for attempt in range(7):
        run = tmp_path / f"run{attempt}"
        options: list[str] = []
        step = 0
        for _ in range(3):  # three kills in one run, each further on
            step = draw.randint(step + 1, step + 4)
            pid = runner.start(run, *options, "--delay", "0.02")
            options = ["--resume"]
            if not runner.wait_for_step(step):
                break
            time.sleep(draw.uniform(0, 0.04))
            os.kill(pid, signal.SIGKILL)
            code, _ = runner.finish()
            assert code in (-signal.SIGKILL, 0)
            killed += code != 0
        runner.start(run, "--resume")
        assert runner.finish() == (0, "")
        assert_same_end(run, reference)
    assert killed >= 18


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_saves_and_says_how_to_go_on(
    runner: Any, reference: Path, tmp_path: Path, number: int
) -> None:
    run = tmp_path / "my run"
    pid = runner.start(run, "--delay", "0.05")
    assert runner.wait_for_step(5)
    os.kill(pid, number)
    code, message = runner.finish()
    assert code == 130
    assert message.startswith("Stopped at epoch 2 step ")
    assert message.endswith(f"state saved. Go on with: finetune resume '{run}'")
    runner.start(run, "--resume")
    assert runner.finish() == (0, "")
    assert_same_end(run, reference)


def test_killed_around_a_rollback(runner: Any, tmp_path: Path) -> None:
    """Step 7 diverges once, and all goes back to step 4: kills before, at and after it change nothing."""
    whole = tmp_path / "whole"
    runner.start(whole, "--diverge", "7")
    assert runner.finish() == (0, "")
    assert [r.get("lr_scale", 1.0) for r in rows(whole) if r["kind"] == "step"] == [1.0] * 4 + [0.5] * 8
    draw, run = random.Random(1), tmp_path / "run"
    options: list[str] = []
    for step in (6, 6, 9):
        pid = runner.start(run, *options, "--diverge", "7", "--delay", "0.02")
        options = ["--resume"]
        if runner.wait_for_step(step):
            time.sleep(draw.uniform(0, 0.04))
            os.kill(pid, signal.SIGKILL)
            runner.finish()
    runner.start(run, "--resume", "--diverge", "7")
    assert runner.finish() == (0, "")
    assert_same_end(run, whole)


def test_resume_with_a_probe_before(runner: Any, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    runner.start(whole, "--probe")
    assert runner.finish() == (0, "")
    pid = runner.start(run, "--probe", "--delay", "0.02")
    assert runner.wait_for_step(3)
    os.kill(pid, signal.SIGKILL)
    runner.finish()
    runner.start(run, "--probe", "--resume")
    assert runner.finish() == (0, "")
    assert_same_end(run, whole)
    assert rows(run)[0]["epoch"] == 0  # the probe's own score, which training has to beat


class StopAt(Listener):
    """Sends this process a signal at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_handlers_are_put_back(tiny: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"Stopped at epoch 1 step 2; state saved\. Go on with: fine"):
        execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path, StopAt(2))
    assert signal.getsignal(signal.SIGTERM) is before


def test_measured_choice_is_kept(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.training import tuning as module

    settings = tiny.recipe(log_every=1, precision="auto", channels_last="auto")
    with pytest.raises(Interrupted):
        execute(tiny.plan(), tiny.backbone(), tiny.bundle(), settings, tmp_path, StopAt(2))

    def measured_again(*_: Any, **__: Any) -> None:
        raise AssertionError("a resumed run must not measure again")

    monkeypatch.setattr(module, "choose_precision", measured_again)
    execute(tiny.plan(), tiny.backbone(), tiny.bundle(), settings, tmp_path, resume=True)


def test_another_plan_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path, StopAt(1))
    other = tiny.plan(tiny.phase(lr=0.5))
    with pytest.raises(RunError, match="belongs to another plan"):
        execute(other, tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path, resume=True)


def test_a_finished_run_resumes_to_its_result(tiny: Any, tmp_path: Path) -> None:
    done = execute(tiny.plan(), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    before = rows(tmp_path)
    again = execute(tiny.plan(), tiny.backbone(seed=99), tiny.bundle(), tiny.recipe(), tmp_path, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(done.state_dict().values(), again.state_dict().values()))
    assert rows(tmp_path) == before
