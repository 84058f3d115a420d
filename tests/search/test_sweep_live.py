"""A sweep as a user stops it, and pruning as it happens: real processes, real signals, real trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from finetune.errors import Interrupted
from finetune.search import sweep

pytestmark = pytest.mark.slow


def command(folder: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "finetune", "sweep", "--data", str(folder), "--strategy", "partial", "--trials", "4",
        "--space", "train.lr=log(1e-3,1e-1)", "--pruner", "none", "--out", str(out), "image_size=32", "threads=1",
        "epochs=12", "batch_size=16", "precision=fp32", "val_fraction=0.3",
    ]  # fmt: skip


def test_ctrl_c_and_the_same_command_again(noisy_folder: Path, tmp_path: Path) -> None:
    out, env = tmp_path / "out", os.environ | {"FINETUNE_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        command(noisy_folder, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    until = time.monotonic() + 120
    while not (out / "trials.csv").is_file() and time.monotonic() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == Interrupted.exit_code, said
    assert "Traceback" not in said
    assert "Go on with: finetune sweep --data" in " ".join(said.split())
    earlier = (out / "trials.csv").read_text().splitlines()[1]
    again = subprocess.run(command(noisy_folder, out), capture_output=True, text=True, env=env, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = (out / "trials.csv").read_text().splitlines()[1:]
    assert earlier in rows  # not tried again
    assert sum(",complete," in row for row in rows) == 4, rows
    assert (out / "best.yaml").is_file()


def test_asha_stops_the_trials_that_fall_behind(small: dict[str, Any], tmp_path: Path) -> None:
    small["strategy"] = "scratch"
    small["train"] |= {"epochs": 9}
    rates = "choice(1e-7, 1e-5, 1e-4, 1e-3, 10, 30)"  # none is any good; the default rate, tried first, is
    found = sweep(small, space={"train.lr": rates}, trials=7, sampler="grid", pruner="asha", metric="log-loss",
                  out=tmp_path / "out")  # fmt: skip
    assert found.rows[0].state == "complete"
    pruned = [row for row in found.rows if row.state == "pruned"]
    assert pruned
    assert all(row.reason for row in pruned)
    assert found.best is not None
    assert found.best.default, found.rows
