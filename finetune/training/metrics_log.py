"""metrics.jsonl and metrics.csv: a row per logging interval and per epoch, readable while training goes on.

A checkpoint remembers how long both files were. Resuming cuts them back to that length, so that a run killed
at any moment ends with neither a doubled nor a missing row.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from finetune import ranks
from finetune.errors import RunError
from finetune.files import disk_error

COLUMNS = (
    "kind",
    "phase",
    "phase_index",
    "epoch",
    "epochs",
    "step",
    "steps",
    "loss",
    "accuracy",
    "lr",
    "head_lr",
    "update",
    "val_loss",
    "val_accuracy",
    "contradicted",
    "images_per_second",
    "seconds",
)
"""Columns of metrics.csv; ``kind`` is first (the loss before the first step), step, epoch or diverged (the loss was no
number); ``update`` is how far the row's last step moved the weights (movement.py), ``contradicted`` the share of an
epoch's images of which the network was surer that they are of another class than of all others together. JSON rows
hold the keys that apply."""


class MetricsLog:
    """Appends rows to both files; each row is handed to the operating system at once. Of several processes only
    the main one has files and a listener."""

    def __init__(
        self,
        folder: Path,
        sizes: dict[str, int] | None = None,
        told: Callable[[dict[str, Any]], None] = lambda row: None,
        score: str = "accuracy",
    ) -> None:
        """Start anew, or go on after the first ``sizes[file]`` bytes; ``told`` gets each row. Where no class is learned
        the columns of accuracies are those of the task's ``score``. Raises RunError."""
        self._told = told
        self._columns = [column.replace("accuracy", score) for column in COLUMNS]
        self._files: dict[str, io.FileIO] = {}
        try:
            for name in ("metrics.jsonl", "metrics.csv") if ranks.main() else ():
                self._files[name] = _open(folder / name, None if sizes is None else sizes.get(name, 0))
        except OSError as error:
            raise disk_error(error, folder / "metrics.jsonl") from error
        self._folder = folder
        if self._files and self._files["metrics.csv"].tell() == 0:
            self._append("metrics.csv", ",".join(self._columns) + "\r\n")
        elif self._files:  # a version with other columns may have begun it
            with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file))

    def write(self, row: dict[str, Any]) -> None:
        """Append one row. Raises RunError where the disk is full."""
        if not self._files:
            return
        self._append("metrics.jsonl", json.dumps(row, allow_nan=False) + "\n")
        line = io.StringIO(newline="")
        csv.DictWriter(line, self._columns, extrasaction="ignore").writerow(row)
        self._append("metrics.csv", line.getvalue())
        self._told(row)

    def _append(self, name: str, text: str) -> None:
        rest = memoryview(text.encode())
        try:
            while rest:  # an unbuffered write may take only a part
                rest = rest[self._files[name].write(rest) :]
        except OSError as error:
            raise disk_error(error, self._folder / name) from error

    def sizes(self, on_disk: bool = True) -> dict[str, int]:
        """Bytes of each file, on disk for certain: what a checkpoint remembers."""
        for file in self._files.values() if on_disk else ():
            os.fsync(file.fileno())
        return {name: file.tell() for name, file in self._files.items()}

    def cut(self, sizes: dict[str, int]) -> None:
        """Remove the rows after the first ``sizes[file]`` bytes."""
        for name, file in self._files.items():
            file.truncate(sizes[name])
            file.seek(sizes[name])

    def close(self) -> None:
        """Close both files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All rows of metrics.jsonl in order; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def cut_back(path: Path, keep: int) -> None:
    """Cut a file to the length that a checkpoint remembers. Raises RunError where it is shorter or cannot be cut."""
    try:
        size = path.stat().st_size if path.exists() else 0
        if size < keep:
            raise RunError(
                f"{path} must be at least {keep} bytes, as the checkpoint left it. It was cut or "
                "removed; start a new run."
            )
        if size > keep:
            os.truncate(path, keep)
    except OSError as error:
        raise disk_error(error, path) from error


def _open(path: Path, keep: int | None) -> io.FileIO:
    if keep is None:
        return path.open("wb", buffering=0)
    cut_back(path, keep)
    return path.open("ab", buffering=0)
