"""Ctrl-C and SIGTERM in a real process: state is kept, the exit code is 130, resume goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from finetune.cli.app import LazyGroup


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "finetune", *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stop_while_training_and_resume(number: signal.Signals, picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(
        "run",
        "--data",
        picture_folder,
        "--strategy",
        "full",
        "--out",
        out,
        "image_size=32",
        "epochs=300",
        "log_every=1",
        "precision=fp32",
        "channels_last=false",
        "ema=null",
    )
    wait_for(out / "metrics.jsonl", process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert f"finetune resume {out}" in stderr
    assert "Traceback" not in stderr
    assert not (out / "result.json").exists()
    if number == signal.SIGTERM:
        return  # resuming is the same for both
    # A shorter plan would be another run; the rest of this one is let run only a little.
    process = start("resume", out)
    before = (out / "metrics.jsonl").stat().st_size
    end = time.monotonic() + 120
    while (out / "metrics.jsonl").stat().st_size <= before:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert steps == sorted(set(steps)), "a row is doubled"
    assert steps == list(range(1, len(steps) + 1)), "a row is missing"


def test_stop_before_anything_is_written(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("run", "--data", picture_folder, "--out", out)
    time.sleep(1.0)  # python is up, torch is being imported
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    # CPython dies by the signal itself where it came inside an exec() of a string, as in making a dataclass;
    # a shell shows 130 for both.
    assert process.returncode in (130, -signal.SIGINT), stderr
    assert "Stopped" in stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("swallowed", [True, False])
def test_ctrl_c_during_an_import_is_no_traceback(swallowed: bool) -> None:
    """Libraries catch the interrupt of their own half-done import and stumble over what is missing."""

    @click.command()
    def stumble() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            if not swallowed:
                raise
        raise AttributeError("module 'numpy' has no attribute 'matrix'")

    group = LazyGroup("finetune", lazy={})
    group.get_command = lambda ctx, name: stumble  # type: ignore[method-assign]
    group.lazy = {"stumble": ("", "")}
    before = signal.getsignal(signal.SIGINT)
    result = CliRunner().invoke(group, ["stumble"])
    assert result.exit_code == 130, result.exception
    assert "Stopped" in result.output
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_without_ctrl_c_stays_an_error() -> None:
    @click.command()
    def fail() -> None:
        raise AttributeError("a bug")

    group = LazyGroup("finetune", lazy={"fail": ("", "")})
    group.get_command = lambda ctx, name: fail  # type: ignore[method-assign]
    assert isinstance(CliRunner().invoke(group, ["fail"]).exception, AttributeError)
