"""The rows: a CSV that only grows, and beside it the evidence of each decision, a JSON object a line.

A row is one line, written at once and flushed. A process killed between or within writes leaves at worst a torn last
line, which the next one cuts off; evidence is written before its row, so a row never lacks it. One process writes
a ledger at a time; other machines write ledgers of their own, and a report reads as many as it is given.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import RunError, must

KEY = ("data", "size", "seed", "backbone", "arm", "lr", "recipe", "code")
"""What a row is found by: the same key is measured once."""

COLUMNS = (
    *KEY,
    "status",
    "accuracy",
    "val_accuracy",
    "val_loss",
    "test_n",
    "val_n",
    "train_n",
    "classes",
    "seconds",
    "decide_seconds",
    "image_size",
    "trained_parameters",
    "chosen",
    "amount",
    "similarity",
    "expected",
    "plan",
    "commit",
    "machine",
    "date",
    "error",
)

Row = Mapping[str, str]
Key = tuple[str, ...]


def key_of(row: Mapping[str, object]) -> Key:
    """The row's key as text."""
    return tuple(str(row[name]) for name in KEY)


class Ledger:
    """One CSV and its JSONL."""

    def __init__(self, path: Path) -> None:
        self.path, self.evidence_path = path, path.with_suffix(".jsonl")

    def open(self) -> None:
        """Make the file, or cut off what a killed process left half written. Raises RunError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for file in (self.path, self.evidence_path):
            _cut_torn_line(file)
        if not self.path.exists() or not self.path.stat().st_size:
            self._append(self.path, _line(COLUMNS))
        read_rows(self.path)

    def rows(self) -> dict[Key, Row]:
        """Key -> its latest row."""
        return {key_of(row): row for row in read_rows(self.path)}

    def append(self, row: Mapping[str, object], record: Mapping[str, Any] | None = None) -> None:
        """Add a row, its evidence first."""
        if record is not None:
            keyed = {**{name: str(row[name]) for name in KEY}, **record}
            self._append(self.evidence_path, json.dumps(keyed, default=float) + "\n")
        self._append(self.path, _line([_flat(row.get(name, "")) for name in COLUMNS]))

    @staticmethod
    def _append(path: Path, text: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_rows(path: Path) -> list[Row]:
    """All whole rows of a ledger; a torn last line is not one. Raises RunError for another table."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole))
    if whole and tuple(reader.fieldnames or ()) != COLUMNS:
        raise RunError(
            must(f"The columns of {path}", "those of this benchmark", "others", "Choose another --out.")
        )
    return list(reader)


def read_ledgers(paths: Iterable[Path]) -> tuple[list[Row], dict[Key, dict[str, Any]]]:
    """Latest row of each key over several ledgers, and key -> evidence. Raises RunError for a missing one."""
    rows: dict[Key, Row] = {}
    records: dict[Key, dict[str, Any]] = {}
    for path in paths:
        if not path.is_file():
            raise RunError(must("A ledger", "a CSV that `regret run` wrote", repr(str(path))))
        rows |= {key_of(row): row for row in read_rows(path)}
        records |= read_records(path.with_suffix(".jsonl"))
    return list(rows.values()), records


def read_records(path: Path) -> dict[Key, dict[str, Any]]:
    """Key -> latest evidence; a line that is no JSON was torn and is left out."""
    found: dict[Key, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            found[key_of(record)] = record
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _flat(value: object) -> str:
    """A cell without line ends: a row is a line."""
    return " ".join(str(value).split()) if isinstance(value, str) else ("" if value is None else str(value))


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
