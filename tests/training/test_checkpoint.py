"""Checkpoints are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import RunError
from finetune.training.checkpoint import Best, Checkpoints, Good, rng_state, set_rng_state


def best(epoch: int, accuracy: float = 0.5) -> Best:
    return Best(
        phase=1, epoch=epoch, accuracy=accuracy, loss=1.0, tensors={"w": torch.full((3,), float(epoch))}
    )


def test_round_trip(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints")
    assert store.load() is None
    store.save({"phase": 1, "model": {"w": torch.arange(3)}}, best(2))
    loaded = store.load()
    assert loaded is not None
    state, found = loaded
    assert state["phase"] == 1
    assert torch.equal(state["model"]["w"], torch.arange(3))
    assert found is not None
    assert (found.epoch, found.accuracy, found.loss) == (2, 0.5, 1.0)
    assert torch.equal(found.tensors["w"], torch.full((3,), 2.0))


def test_only_the_best_that_belongs_to_the_state_is_kept(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save({"phase": 1}, best(1))
    store.save({"phase": 1}, best(4))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-1-4.pt", "last.pt"]
    store.save({"phase": 2}, None)
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("fail_at", [1, 2])
def test_full_disk_leaves_the_last_good_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    store = Checkpoints(tmp_path)
    store.save({"phase": 1, "step": 10}, best(1))
    replace, calls = os.replace, []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) == fail_at:  # 1: the best weights; 2: last.pt
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*args)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        RunError, match=r"The disk is full: .* could not be written\. The last good files are intact"
    ):
        store.save({"phase": 1, "step": 20}, best(2))
    monkeypatch.undo()
    loaded = store.load()
    assert loaded is not None
    assert loaded[0]["step"] == 10
    assert loaded[1] is not None
    assert loaded[1].epoch == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-1-1.pt", "last.pt"]


def test_write_that_fails_half_way_leaves_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    store = Checkpoints(tmp_path)
    store.save({"step": 10}, None)
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return opened(Path("/dev/full") if mode == "wb" else self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="The disk is full"):
        store.save({"step": 20, "w": torch.zeros(100_000)}, None)
    monkeypatch.undo()
    loaded = store.load()
    assert loaded is not None
    assert loaded[0]["step"] == 10
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = Checkpoints(small_disk)
    store.save({"phase": 1, "step": 10}, best(1))
    large = replace(best(2), tensors={"w": torch.zeros(500_000)})  # two megabytes
    good = Good(1, 15, {"progress": {}, "model": {"w": torch.zeros(500_000)}}, best(1))
    for state, scored, kept in [
        ({"w": torch.zeros(500_000)}, best(1), None), ({}, large, None), ({}, best(1), good)
    ]:  # fmt: skip
        with pytest.raises(RunError, match=r"The disk is full: .*The last good files are intact"):
            store.save({"phase": 1, "step": 20, **state}, scored, kept)
        loaded = store.load()
        assert loaded is not None
        assert loaded[0]["step"] == 10
        assert loaded[1] is not None
        assert loaded[1].epoch == 1
        assert sorted(p.name for p in small_disk.iterdir()) == ["best-1-1.pt", "last.pt"]
    store.save({"phase": 1, "step": 20}, best(1))


def test_what_a_killed_writer_left_is_ignored_and_removed(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save({"phase": 1, "step": 10}, None)
    for name in (".last.pt.k2j4.tmp", ".best-1-3.pt.x.tmp"):
        (tmp_path / name).write_bytes((tmp_path / "last.pt").read_bytes()[:100])
    (tmp_path / "best-1-3.pt").write_bytes(b"whole, but last.pt was not written any more")
    (tmp_path / "good-1-9.pt").write_bytes(b"and neither was the one it belongs to")
    loaded = store.load()
    assert loaded is not None
    assert loaded[0]["step"] == 10
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    (tmp_path / ".last.pt.k2j4.tmp").write_bytes(b"")
    store.clear()
    assert not list(tmp_path.iterdir())


def test_good_states_travel_with_the_state(tmp_path: Path) -> None:
    """Each file is written once, its own best weights stay with it, and the next good state replaces both."""
    store = Checkpoints(tmp_path)
    first = Good(1, 4, {"progress": {"step": 4}, "model": {"w": torch.ones(2)}}, best(1))
    store.save({"phase": 1}, best(2), first)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best-1-1.pt", "best-1-2.pt", "good-1-4.pt", "last.pt"
    ]  # fmt: skip
    loaded = store.load()
    assert loaded is not None
    found = loaded[0]["good"]
    assert (found.phase, found.step, found.state["progress"]) == (1, 4, {"step": 4})
    assert torch.equal(found.state["model"]["w"], torch.ones(2))
    assert torch.equal(found.best.tensors["w"], torch.full((3,), 1.0))
    store.save({"phase": 1}, best(2), replace(first, step=8, best=best(2)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-1-2.pt", "good-1-8.pt", "last.pt"]
    store.save({"phase": 1}, best(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-1-2.pt", "last.pt"]
    loaded = store.load()
    assert loaded is not None
    assert loaded[0]["good"] is None


def test_reading_never_runs_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch evil",)

    torch.save({"format": 1, "best": None, "x": Evil()}, tmp_path / "last.pt")
    with pytest.raises(RunError, match=r"last\.pt cannot be read"):
        Checkpoints(tmp_path).load()
    assert not Path("evil").exists()


def test_damage_is_said(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.save({"phase": 1}, best(1))
    (tmp_path / "best-1-1.pt").unlink()
    with pytest.raises(RunError, match=r"best-1-1\.pt is missing, so the run cannot go on"):
        store.load()
    data = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"last\.pt cannot be read"):
        store.load()
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"last\.pt cannot be read: .*Start a new run"):
        store.load()
    torch.save({"format": 99, "best": None}, tmp_path / "last.pt")
    with pytest.raises(RunError, match=r"must be 2\. Got 99 instead"):
        store.load()


def test_best_is_higher_accuracy_then_lower_loss() -> None:
    assert best(1, 0.5).beaten_by(0.6, 9.0)
    assert best(1, 0.5).beaten_by(0.5, 0.9)
    assert not best(1, 0.5).beaten_by(0.5, 1.0)
    assert not best(1, 0.5).beaten_by(0.4, 0.1)


def test_random_state_comes_back() -> None:
    state = rng_state()
    first = torch.rand(3)
    set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
