"""``finetune run --processes 2`` and torchrun, whole: like one process, and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from finetune.training.metrics_log import read_metrics

RECIPE = [
    "--backbone=test_resnet", "pretrained=false", "image_size=32", "batch_size=8", "log_every=1", "precision=fp32",
    "channels_last=false", "threads=1", "device=cpu",
]  # fmt: skip
pytestmark = pytest.mark.slow


def start(*words: object, program: tuple[str, ...] = ("-m", "finetune")) -> subprocess.Popen[str]:
    command = [sys.executable, *program, *map(str, words)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )


def finish(process: subprocess.Popen[str]) -> str:
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    return stdout


def children_of(process: int) -> list[int]:
    """Processes that this one started, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == process:
            found += [int(path.parent.name), *children_of(int(path.parent.name))]
    return found


def number_of(process: int) -> str | None:
    """RANK of a process."""
    try:
        words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((word[5:].decode() for word in words if word.startswith(b"RANK=")), None)


def test_sharded_by_two_processes_like_one(picture_folder: Path, tmp_path: Path) -> None:
    """Decision, solved head, training, safety net, refit, test; and plain timm reads the model."""
    words = [
        "run",
        "--data",
        picture_folder,
        "--strategy",
        "full",
        *RECIPE,
        "epochs=2",
        "train.shard=true",
        "--out",
    ]
    told = finish(start(*words, tmp_path / "two", "--processes", 2))
    assert "2 processes, on the CPU with 1 compute thread each." in told
    assert told.count("Test accuracy") == 1
    finish(start(*words, tmp_path / "one"))
    ours, theirs = (
        [r for r in read_metrics(tmp_path / name) if r["kind"] != "diverged"] for name in ("two", "one")
    )
    assert [(r["kind"], r["phase"], r["step"]) for r in ours] == [
        (r["kind"], r["phase"], r["step"]) for r in theirs
    ]
    for key in ("loss", "val_loss"):
        assert [r.get(key) for r in ours] == pytest.approx([r.get(key) for r in theirs], abs=1e-4)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("two", "one")]
    assert results[0]["test"]["n"] == results[1]["test"]["n"]  # no image twice
    assert results[0]["test"]["log_loss"] == pytest.approx(results[1]["test"]["log_loss"], abs=1e-3)

    import timm
    from safetensors.torch import load_file

    network = timm.create_model("test_resnet", num_classes=3)
    network.load_state_dict(load_file(tmp_path / "two" / "model" / "model.safetensors"))
    assert all(torch.isfinite(p).all() for p in network.parameters())


LAUNCHERS = {
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "finetune"),
    "accelerate": (
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "-m", "finetune",
    ),
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_join_and_auto_decides_once(picture_folder: Path, tmp_path: Path, launcher: str) -> None:
    run = LAUNCHERS[launcher]
    words = ["run", "--data", picture_folder, *RECIPE[2:], "epochs=1", "--out", tmp_path / "run"]
    told = finish(start(*words, program=run))
    assert told.count("2 processes, on the CPU") == told.count("Test accuracy") == told.count("Decision") == 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["strategy"] == "auto"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_process_ends_the_run_with_one_message(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["run", "--data", picture_folder, "--strategy", "full", *RECIPE, "epochs=5000", "--no-preflight"]
    process = start(*words, "--out", out, "--processes", 2)
    end = time.monotonic() + 300
    while not (out / "metrics.jsonl").is_file() or len(read_metrics(out)) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    crew = children_of(process.pid)
    victim = next(child for child in crew if number_of(child) == "1")
    os.kill(victim, signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert stderr.strip() == (
        "Error: Process 1 of 2 was killed by SIGKILL; the others were stopped. "
        f"Go on with: finetune resume {out} --processes 2"
    )
    assert not [child for child in crew if Path(f"/proc/{child}").exists()]


def test_one_message_where_all_meet_the_same_mistake(tmp_path: Path) -> None:
    process = start(
        "run", "--data", tmp_path / "nothing", *RECIPE, "--out", tmp_path / "run", "--processes", 2
    )
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 2, stderr
    assert stderr.count("Error:") == 1
    assert not (tmp_path / "run").exists()
