"""metrics.jsonl and metrics.csv keep exactly the rows they should."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from finetune.errors import RunError
from finetune.training.metrics_log import COLUMNS, MetricsLog, read_metrics


def row(step: int) -> dict[str, object]:
    return {"kind": "step", "phase": "a, b", "step": step, "loss": 0.5 / step}


def test_resuming_cuts_what_the_checkpoint_does_not_know(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(row(1))
        sizes = log.sizes()
        log.write(row(2))
        log.write(row(3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')  # the kill came in mid-write
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 3]
    with MetricsLog(tmp_path, sizes) as log:
        log.write(row(2))
    assert read_metrics(tmp_path) == [row(1), row(2)]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["step"] for line in table] == ["1", "2"]
    assert table[0]["phase"] == "a, b"
    assert tuple(table[0]) == COLUMNS


def test_rows_are_readable_while_the_log_is_open(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(row(1))
        assert len(read_metrics(tmp_path)) == 1


def test_a_new_run_starts_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    for _ in range(2):
        with MetricsLog(tmp_path) as log:
            log.write(row(1))
    assert len(read_metrics(tmp_path)) == 1


def test_a_log_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="must be at least 10 bytes, as the checkpoint left it"):
        MetricsLog(tmp_path, {"metrics.jsonl": 10, "metrics.csv": 0})


def test_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"The disk is full: .*metrics\.jsonl"), MetricsLog(tmp_path) as log:
        log.write(row(1))


def test_a_log_that_another_version_began_keeps_its_columns(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write(row(1))
    old = "kind,phase,step,loss\r\nstep,p,1,0.5\r\n"
    (tmp_path / "metrics.csv").write_text(old, newline="")
    sizes = {"metrics.jsonl": (tmp_path / "metrics.jsonl").stat().st_size, "metrics.csv": len(old)}
    with MetricsLog(tmp_path, sizes) as log:
        log.write({**row(2), "update": 0.1})
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert list(csv.reader(file))[2] == ["step", "a, b", "2", "0.25"]
    assert read_metrics(tmp_path)[1]["update"] == 0.1
