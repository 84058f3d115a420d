from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.files import atomic_path, atomic_write_json, atomic_write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic_write_text(target, "old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="The disk is full: .*a.txt could not be written"):
        atomic_write_text(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        atomic_write_text(tmp_path / "file" / "a.txt", "x")


def test_json_has_no_nan_and_takes_numpy(tmp_path: Path) -> None:
    import numpy as np

    atomic_write_json(
        tmp_path / "a.json", {"a": float("nan"), "b": np.float32(0.5), "c": (np.int64(3), float("inf"))}
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": 0.5, "c": [3, None]}


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    code = (
        "import os, signal, sys\nfrom finetune.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as p:\n    p.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert target.read_text() == "old"
