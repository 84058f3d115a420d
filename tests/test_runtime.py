from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import runtime
from finetune.errors import ConfigError
from finetune.version import __version__


def test_seeds_repeat() -> None:
    draws = []
    for _ in range(2):
        runtime.seed_everything(7)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_cache_folder_by_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path))
    assert runtime.cache_dir() == tmp_path
    monkeypatch.delenv("FINETUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_dir() == tmp_path / "finetune"


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ConfigError, match="device must be"):
        runtime.choose_device(name)


def test_threads_leave_busy_cores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runtime, "available_cores", lambda: 4)
    for busy, expected in [(0.0, 4), (1.1, 3), (3.0, 1), (9.0, 1)]:
        monkeypatch.setattr(runtime, "busy_cores", lambda b=busy: b)
        assert runtime.choose_threads("auto") == expected
    assert runtime.choose_threads(3) == 3


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="counts idle ticks in /proc/stat")
def test_busy_cores_sees_another_process() -> None:
    spin = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        assert runtime.busy_cores(0.5) > 0.3
    finally:
        spin.kill()
        spin.wait()


def test_environment_names_the_versions() -> None:
    facts = runtime.environment(torch.device("cpu"))
    assert facts["packages"]["torch"] == torch.__version__.split("+")[0]
    assert facts["packages"]["finetune"] == __version__  # type: ignore[index]
    assert facts["cores"] == runtime.available_cores() <= (os.cpu_count() or 1)
