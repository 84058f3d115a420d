"""Rows of benchmarks/cells.py as trials of the regret benchmark."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.regret.from_cells import arms_of, read_cells
from benchmarks.regret.report import render
from benchmarks.regret.results import collect
from finetune.errors import RunError

COLUMNS = ("case", "cell", "backbone", "strategy", "chosen", "seed", "accuracy", "low", "high", "test_n", "train_n",
           "seconds", "trained_parameters", "image_size", "limit", "epochs", "settings", "plan", "version",
           "machine", "date")  # fmt: skip


def row(case: str, strategy: str, accuracy: float, seed: int = 0, **other: object) -> dict[str, object]:
    return {"case": case, "backbone": "net", "strategy": strategy, "seed": seed, "accuracy": accuracy,
            "test_n": 500, "train_n": 100, "seconds": 2.0, "image_size": 48, "settings": "a=1",
            "version": "1", "machine": "m", "date": "d", **other}  # fmt: skip


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        file.write("# a command\n")
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_cells_become_trials(tmp_path: Path) -> None:
    rows = [row(case, name, 0.5 + 0.1 * i + 0.01 * seed, seed)
            for case in ("ants, by nest", "bees, 10 a class")
            for i, name in enumerate(("linear", "full", "auto"))
            for seed in range(2)]  # fmt: skip
    rows += [
        row("ants, by nest", "lp-ft", 0.9),
        row("ants, by nest", "linear", 0.1, settings="a=2"),
    ]
    cells = read_cells(write(tmp_path / "cells.csv", rows))
    assert arms_of(cells) == ["full", "linear"]
    found = collect(cells, {}, {}, arms=arms_of(cells), own_rates=True)
    assert [(t.data, t.size, t.seed) for t in found.trials] == [
        ("ants", "all", "0"), ("ants", "all", "1"), ("bees", "10", "0"), ("bees", "10", "1")]  # fmt: skip
    first = found.trials[1]
    assert {name: outcome.accuracy for name, outcome in first.arms.items()} == {"linear": 0.51, "full": 0.61}
    assert first.auto is not None
    assert (first.auto.accuracy, first.auto.seconds, first.test_n) == (0.71, 2.0, 500)
    text, pictures = render(found, found, whole=found)
    begin = text.index("### net, whole data sets")
    assert "| auto, as run | -10.00 |" in text[begin:]  # 71% and 61% of the oracle, chosen on the other seed
    assert {name for name in pictures if "whole" in name} == {
        "net--whole-data-sets-rules.png",
        "net--whole-data-sets-sizes.png",
    }


def test_another_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="must be a CSV that benchmarks/cells.py wrote"):
        read_cells(tmp_path / "x.csv")
    assert arms_of([]) == []
