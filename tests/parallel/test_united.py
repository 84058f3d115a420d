"""Two gloo processes train like one: curves, weights, rollback, early stopping; and they always agree.

One job of two processes carries out several scenarios (worker.py); the tests read what it left.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from finetune.launch import launch
from finetune.training.metrics_log import read_metrics

WORKER, ROOT = Path(__file__).parent / "worker.py", Path(__file__).parents[2]
QUICK = ["plain", "mixed", "norms", "diverges", "memory", "stopped"]
SLOW = [
    "accumulate", "cached", "probe", "patience", "time", "swa", "snapshots", "dropout", "dropout-stopped",
    "shard", "shard-whole", "shard-stopped", "shard-norms", "shares",
    "labels", "number", "shard-number",
]  # fmt: skip
CLOCK = {"images_per_second", "seconds"}
FIGURES = ("loss", "accuracy", "f1", "r2", "val_loss", "val_accuracy", "val_f1", "val_r2", "lr")
Run = Callable[[str], Path]


def two_processes(out: Path, *names: str) -> Path:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("FINETUNE_CACHE", str(out / "cache"))
        launch([sys.executable, str(WORKER), str(out), *names], 2)
    return out


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_processes(tmp_path_factory.mktemp("quick"), *QUICK)


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_processes(tmp_path_factory.mktemp("more"), *SLOW)


@pytest.fixture(scope="module")
def worker() -> Iterator[ModuleType]:
    sys.path.insert(0, str(WORKER.parent))
    import worker

    yield worker
    sys.path.remove(str(WORKER.parent))


def rows(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(run)]


def answers(run: Path, prefix: str = "") -> list[dict[str, Any]]:
    return [json.loads((run / f"{prefix}rank{rank}.json").read_text()) for rank in (0, 1)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "final.pt", weights_only=True)
    return state


def assert_same_curve(ours: Path, theirs: Path, tolerance: float = 1e-5) -> None:
    """Every row in its place, every figure within the tolerance, above 1 (one case diverges) that share of it."""
    one, two = rows(ours), rows(theirs)
    assert [(r["kind"], r["epoch"], r["step"]) for r in one] == [
        (r["kind"], r["epoch"], r["step"]) for r in two
    ]
    for key in FIGURES:
        ours_have, theirs_have = (
            {i: r[key] for i, r in enumerate(x) if r.get(key) is not None} for x in (one, two)
        )
        assert ours_have == pytest.approx(theirs_have, abs=tolerance, rel=tolerance), key
    a, b = weights(ours), weights(theirs)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=10 * tolerance, rtol=10 * tolerance)


def assert_agreed(run: Path) -> None:
    first, second = answers(run)
    assert first["error"] == second["error"]
    assert first["digest"] == second["digest"]


def check(worker: ModuleType, out: Path, name: str, tmp_path: Path) -> None:
    answer = worker.carry_out(name, tmp_path / name)
    assert answer["error"] is None
    assert_agreed(out / name)
    assert answers(out / name)[0]["error"] is None
    assert_same_curve(out / name, tmp_path / name)


@pytest.mark.parametrize("name", ["plain", "mixed", "norms", "diverges", "memory"])
def test_like_one_process(worker: ModuleType, quick: Path, name: str, tmp_path: Path) -> None:
    """Batches of 8, the last one of 3: plain; mixed within batches; with norms that train; gone back after a NaN; out
    of memory in one."""
    check(worker, quick, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["accumulate", "cached", "probe", "patience", "labels", "number", "swa", "snapshots", "shard",
     "shard-whole", "shard-number", "shard-norms"],
)  # fmt: skip
def test_like_one_process_too(worker: ModuleType, more: Path, name: str, tmp_path: Path) -> None:
    """Accumulation, clipping, L1 and class weights; kept activations; a head solved before and the safety net; early
    stopping, at a rate at which rounding grows; and sharded, by SGD after a solved head, and by AdamW."""
    check(worker, more, name, tmp_path)


def test_the_main_process_alone_writes(quick: Path) -> None:
    files = {path.name for path in (quick / "plain").iterdir()}
    ours = {"metrics.jsonl", "metrics.csv", "training.json", "coach.json", "checkpoints", "final.pt"}
    assert files == ours | {"rank0.json", "rank1.json"}
    logged = rows(quick / "plain")
    assert [r["step"] for r in logged if r["kind"] == "step"] == list(range(1, 16))  # none twice
    lines = (quick / "plain" / "metrics.csv").read_text().splitlines()
    assert len(lines) == len(logged) + 1
    assert not list(quick.rglob("*.tmp"))


def test_norms_that_train_say_what_they_see(quick: Path) -> None:
    assert (
        "Batch norms train on whole batches, over all processes (train.sync_norms)."
        in (answers(quick / "norms")[0]["told"])
    )


@pytest.mark.slow
def test_norms_may_see_shares(more: Path) -> None:
    said = "Batch norms train on each process's share of a batch, not on whole batches"
    assert any(text.startswith(said) for text in answers(more / "shares")[0]["told"])


def test_going_back_is_agreed_upon(quick: Path) -> None:
    phase = json.loads((quick / "diverges" / "training.json").read_text())["phases"]["0"]
    assert [(e["step"], e["back_to_step"]) for e in phase["rollbacks"]] == [(7, 5)]
    listed = json.loads((quick / "diverges" / "diverged" / "phase0-step7.json").read_text())
    assert len(listed["images"]) == 8  # the whole batch, not a share


def test_memory_that_runs_out_in_one_process_halves_the_batches_of_all(quick: Path) -> None:
    told = [answer["told"] for answer in answers(quick / "memory")]
    assert any(t.startswith("Out of memory in another process: from here on 2 images") for t in told[0])
    assert any("step 3 of phase" in t and "2 instead of 4 images" in t for t in told[1])
    phase = json.loads((quick / "memory" / "training.json").read_text())["phases"]["0"]
    assert [(e["to"], e["reason"]) for e in phase["out_of_memory"]] == [(2, "in another process")]


def test_a_signal_to_one_process_stops_all_at_the_same_step(quick: Path) -> None:
    first, second = answers(quick / "stopped")
    assert first["error"] == second["error"]
    assert first["error"].startswith("Stopped at epoch 2 step 7; state saved. Go on with: finetune resume")
    assert [r["step"] for r in rows(quick / "stopped") if r["kind"] == "step"] == list(range(1, 8))


@pytest.mark.slow
def test_resumed_by_two_processes_bit_for_bit(more: Path, tmp_path: Path) -> None:
    """Dropout too: each process draws its own, and draws it again."""
    run = tmp_path / "dropout-stopped"
    shutil.copytree(more / run.name, run)
    two_processes(tmp_path, "dropout-stopped+resumed")
    assert [answer["error"] for answer in answers(run, "resumed")] == [None, None]
    assert rows(run) == rows(more / "dropout")
    ours, theirs = weights(run), weights(more / "dropout")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_resumed_by_a_single_process(worker: ModuleType, quick: Path, tmp_path: Path) -> None:
    """The state knows nothing of processes: without dropout the rest is that of an uninterrupted run."""
    shutil.copytree(quick / "stopped", tmp_path / "stopped")
    assert worker.carry_out("stopped", tmp_path / "stopped", resume=True)["error"] is None
    assert_same_curve(tmp_path / "stopped", quick / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["time", "shares"])
def test_processes_agree_where_they_differ_from_one(more: Path, name: str) -> None:
    assert_agreed(more / name)
    assert answers(more / name)[0]["error"] is None
    assert rows(more / name)


@pytest.mark.slow
def test_a_sharded_training_goes_on_with_any_number_of_processes(
    worker: ModuleType, more: Path, tmp_path: Path
) -> None:
    """What it saved is whole: bit for bit with two processes, within rounding with one."""
    two, one = tmp_path / "two" / "shard-stopped", tmp_path / "one" / "shard-stopped"
    for run in (two, one):
        shutil.copytree(more / run.name, run)
    two_processes(two.parent, "shard-stopped+resumed")
    assert [answer["error"] for answer in answers(two, "resumed")] == [None, None]
    assert rows(two) == rows(more / "shard-whole")
    ours, theirs = weights(two), weights(more / "shard-whole")
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert worker.carry_out(one.name, one, resume=True)["error"] is None
    assert_same_curve(one, more / "shard-whole")


@pytest.mark.slow
def test_the_snapshots_of_two_processes(more: Path) -> None:
    assert sorted(p.name for p in (more / "snapshots" / "snapshots").iterdir()) == ["1", "2"]
