"""Rows are added one by one, survive any end, and are never measured twice."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.regret.arms import AUTO, GRID, NO_LR, choose_arms
from benchmarks.regret.cases import Case, size_name
from benchmarks.regret.ledger import COLUMNS, Ledger, key_of, read_ledgers, read_records, read_rows
from benchmarks.regret.order import Cell, plan_cells
from benchmarks.regret.runner import run_cells
from finetune.errors import ConfigError, Interrupted, RunError, TrainingError

BIG, SMALL = Case("big", Path("big"), "big", 500, 900), Case("small", Path("small"), "small", 10, 20)


class Fake:
    """A bench that counts what it measures."""

    def __init__(self, stop_at: int | None = None, broken: str = "") -> None:
        self.measured: Counter[Cell] = Counter()
        self.stop_at, self.broken = stop_at, broken

    def key(self, cell: Cell) -> dict[str, str]:
        return {"data": cell.case.name, "size": size_name(cell.size), "seed": str(cell.seed), "backbone": "net@1",
                "arm": cell.arm, "lr": cell.lr, "recipe": "r", "code": "0"}  # fmt: skip

    def facts(self) -> dict[str, str]:
        return {"commit": "c", "machine": "m", "date": "d"}

    def measure(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Any] | None]:
        if self.stop_at is not None and self.measured.total() == self.stop_at:
            raise Interrupted("Stopped.")
        self.measured[cell] += 1
        if cell.arm == self.broken:
            raise TrainingError("The loss is not a number\nat epoch 1, lr 3")
        row = {**self.key(cell), **self.facts(), "status": "ok", "accuracy": 0.5, "test_n": 9, "seconds": 1.5}
        return row, {"decision": {"chosen": "linear"}} if cell.arm == AUTO else None


def quiet(text: str) -> None:
    pass


@pytest.fixture
def cells() -> list[Cell]:
    return plan_cells([SMALL, BIG], choose_arms(["linear", "partial"]), seeds=2, passes=["coarse", "borders"])


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, cells: list[Cell]) -> None:
    ledger, total = Ledger(tmp_path / "r.csv"), Counter[Cell]()
    for stop in (0, 1, 5, None):
        bench = Fake(stop_at=stop)
        if stop is None:
            run_cells(bench, cells, ledger, say=quiet)
        else:
            with pytest.raises(Interrupted):
                run_cells(bench, cells, ledger, say=quiet)
        total += bench.measured
    assert total == Counter(dict.fromkeys(cells, 1))
    assert [key_of(r) for r in read_rows(ledger.path)] == [key_of(Fake().key(c)) for c in cells]
    assert run_cells(Fake(), cells, ledger, say=quiet) == 0


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_torn_last_line_is_cut_off_and_measured_again(tmp_path: Path, cells: list[Cell], cut: int) -> None:
    ledger = Ledger(tmp_path / "r.csv")
    run_cells(Fake(), cells[:4], ledger, say=quiet)
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole[:-cut])
    ledger.evidence_path.write_bytes(ledger.evidence_path.read_bytes() + b'{"data": "bi')
    assert len(read_rows(ledger.path)) == 3
    assert len(read_records(ledger.evidence_path)) == 2  # the torn row was auto's: its evidence came first
    bench = Fake()
    assert run_cells(bench, cells[:4], ledger, say=quiet) == 1
    assert list(bench.measured) == [cells[3]]
    assert ledger.path.read_bytes() == whole
    assert ledger.evidence_path.read_text().endswith("}\n")


def test_a_torn_header_is_written_again(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path / "r.csv")
    ledger.path.write_text("data,size,se")
    run_cells(Fake(), cells[:1], ledger, say=quiet)
    with ledger.path.open(newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    assert len(read_rows(ledger.path)) == 1


def test_a_failed_cell_is_a_row_and_not_the_end(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path / "r.csv")
    said: list[str] = []
    assert run_cells(Fake(broken="partial"), cells, ledger, say=said.append) == len(cells)
    broken = [r for r in read_rows(ledger.path) if r["status"] == "failed"]
    assert {r["arm"] for r in broken} == {"partial"}
    assert broken[0]["error"] == "TrainingError: The loss is not a number at epoch 1, lr 3"
    assert any("failed, TrainingError" in text for text in said)
    assert run_cells(Fake(), cells, ledger, say=quiet) == 0
    assert run_cells(Fake(), cells, ledger, retry=True, say=quiet) == len(broken)
    assert {r["status"] for r in ledger.rows().values()} == {"ok"}
    assert run_cells(Fake(), cells, ledger, redo=[AUTO], say=quiet) == sum(c.arm == AUTO for c in cells)


def test_a_full_disk_fails_no_cell(
    tmp_path: Path, cells: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, bench = Ledger(tmp_path / "r.csv"), Fake()

    def full(cell: Cell) -> tuple[dict[str, Any], dict[str, Any] | None]:
        raise RunError("The disk is full.")

    monkeypatch.setattr(bench, "measure", full)
    with pytest.raises(RunError, match="The disk is full"):
        run_cells(bench, cells, ledger, say=quiet)
    assert read_rows(ledger.path) == []


def test_the_time_is_up(tmp_path: Path, cells: list[Cell]) -> None:
    times = iter(range(0, 100_000, 30))
    ledger = Ledger(tmp_path / "r.csv")
    added = run_cells(Fake(), cells, ledger, minutes=2, say=quiet, clock=lambda: float(next(times)))
    assert added == 3  # begun after 30, 60 and 90 seconds; at 120 the two minutes are over


def test_evidence_has_the_key_and_comes_first(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path / "r.csv")
    run_cells(Fake(), cells, ledger, say=quiet)
    rows, records = read_ledgers([ledger.path])
    autos = {key_of(r) for r in rows if r["arm"] == AUTO}
    assert set(records) == autos
    assert next(iter(records.values()))["decision"]["chosen"] == "linear"


def test_other_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match="The columns of .* must be those of this benchmark"):
        Ledger(tmp_path / "x.csv").open()
    with pytest.raises(RunError, match="A ledger must be a CSV that `regret run` wrote"):
        read_ledgers([tmp_path / "none.csv"])


# --- the order ------------------------------------------------------------------------------------------------


def test_every_row_is_planned_once() -> None:
    arms = choose_arms()
    planned = plan_cells([SMALL, BIG], arms, seeds=3)
    assert len(set(planned)) == len(planned)
    sizes = len(BIG.sizes()) + len(SMALL.sizes())
    a_trial = 1 + sum(len(arm.rates) if arm.kind != "no net" else 1 for arm in arms)
    assert len(planned) == 3 * sizes * a_trial


def test_the_coarse_pass_is_one_seed_own_rates_over_everything() -> None:
    coarse = plan_cells([SMALL, BIG], choose_arms(), seeds=3, passes=["coarse"])
    assert {c.seed for c in coarse} == {0}
    assert {c.lr for c in coarse} == {"1", NO_LR}
    assert {c.size for c in coarse if c.case is BIG} == {5, 25, 100}
    assert {c.size for c in coarse if c.case is SMALL} == {5, None}
    assert coarse[0].arm == AUTO
    assert not {c.arm for c in coarse} & {"fastai", "bit-hyperrule", "partial, no net"}
    everything = plan_cells([SMALL, BIG], choose_arms(), seeds=3)
    assert everything[: len(coarse)] == coarse


def test_the_borders_come_next_with_every_rate() -> None:
    borders = plan_cells([BIG], choose_arms(["lp-ft"]), seeds=2, passes=["borders"], auto=False)
    assert {c.size for c in borders} == {10, 25}
    assert Counter(c.lr for c in borders) == dict.fromkeys(GRID, 4)
    assert [c.lr for c in borders[:4]] == ["1"] * 4


def test_a_race_is_auto_with_a_time() -> None:
    planned = plan_cells([BIG], choose_arms(["linear"]), seeds=1, passes=["coarse"], race="10m")
    assert [c.arm for c in planned[:3]] == [AUTO, "auto, race 10m", "linear"]


def test_unknown_arm() -> None:
    with pytest.raises(ConfigError, match=r"an arm must be one of linear, .* Did you mean \"partial\""):
        choose_arms(["partal"])
