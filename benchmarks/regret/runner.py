"""All cells in their order, until they are done or the time is up. A cell that fails is a row, not the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from benchmarks.regret.ledger import Key, Ledger, Row, key_of
from benchmarks.regret.order import Cell
from finetune.errors import Interrupted, RunError


class Measurer(Protocol):
    """What the runner asks of a Bench."""

    def key(self, cell: Cell) -> dict[str, str]:
        """The columns that name a row."""

    def facts(self) -> dict[str, str]:
        """The columns about where and when."""

    def measure(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """The row, and the evidence of a decision."""


def run_cells(
    bench: Measurer,
    cells: Sequence[Cell],
    ledger: Ledger,
    *,
    minutes: float | None = None,
    retry: bool = False,
    redo: Sequence[str] = (),
    say: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Measure what the ledger lacks; the number of rows added.

    No cell is begun after ``minutes``; the one that runs is finished, for a trained network is worth waiting for.
    ``retry`` measures failed cells again, ``redo`` those of the named arms, whatever the ledger has of them.
    Raises Interrupted when stopped, RunError where the disk is full; every finished row is in the ledger.
    """
    ledger.open()
    begun, added = clock(), 0
    todo = missing(bench, cells, ledger.rows(), retry, redo)
    say(f"{len(cells)} rows planned, {len(cells) - len(todo)} of them measured before.")
    for number, cell in enumerate(todo, 1):
        if minutes is not None and clock() - begun >= 60 * minutes:
            say(f"The time is up: {len(todo) - number + 1} rows are left for another run.")
            break
        try:
            row, record = bench.measure(cell)
        except (Interrupted, KeyboardInterrupt, RunError):  # a full disk is no property of the cell
            say(f"Stopped in {cell}; {added} rows were added.")
            raise
        except Exception as error:  # a diverged or impossible cell is a result: the row says which
            row, record = failed(bench, cell, error), None
        ledger.append(row, record)
        added += 1
        say(f"[{number}/{len(todo)}] {cell}: {_told(row)}")
    return added


def missing(
    bench: Measurer, cells: Sequence[Cell], rows: Mapping[Key, Row], retry: bool, redo: Sequence[str]
) -> list[Cell]:
    """Cells without a row, in order."""
    todo = []
    for cell in cells:
        row = rows.get(key_of(bench.key(cell)))
        if row is None or cell.arm in redo or (retry and row["status"] != "ok"):
            todo.append(cell)
    return todo


def failed(bench: Measurer, cell: Cell, error: Exception) -> dict[str, Any]:
    """The row of a cell that gave no network."""
    return {
        **bench.key(cell),
        **bench.facts(),
        "status": "failed",
        "error": f"{type(error).__name__}: {error}"[:500],
    }


def _told(row: Mapping[str, Any]) -> str:
    if row["status"] != "ok":
        return f"failed, {row['error']}"
    return f"{100 * float(row['accuracy']):.1f}% of {row['test_n']} in {row['seconds']} s"
