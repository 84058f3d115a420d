"""curves.jsonl.gz: a line a curve, numbers to four digits, so that the whole suite is a small file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.coach.settings import Setting

FILE = Path(__file__).parent / "curves.jsonl.gz"
COLUMNS = ("kind", "epoch", "step", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "contradicted")
STEP = (*COLUMNS[:6], "update")
_OF = {"epoch": COLUMNS, "step": STEP, "first": COLUMNS[:6], "diverged": COLUMNS[:6]}


@dataclass(frozen=True)
class Curve:
    """A curve of the suite."""

    setting: Setting
    facts: dict[str, Any]
    rows: list[dict[str, Any]]


def pack(setting: Setting, rows: Iterable[dict[str, Any]], facts: dict[str, Any]) -> str:
    """A line of the file."""
    rows = list(rows)
    packed = []
    for row in rows:
        columns = _OF[row["kind"]][1:]
        packed.append([row["kind"][0], *(_short(row.get(column)) for column in columns)])
    top = {key: rows[-1][key] for key in ("epochs", "steps")}
    return json.dumps(
        {"setting": asdict(setting), "facts": facts, **top, "rows": packed}, separators=(",", ":")
    )


def write(lines: Iterable[str], path: Path = FILE) -> None:
    """The whole file; the same lines give the same bytes."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write("".join(line + "\n" for line in lines).encode())


def read(path: Path = FILE) -> list[Curve]:
    """Every curve, its rows as metrics.jsonl has them."""
    kinds = {kind[0]: kind for kind in _OF}
    found = []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        tree = json.loads(line)
        top = {"phase": "finetune", "phase_index": 0, "epochs": tree["epochs"], "steps": tree["steps"]}
        rows = [
            {**top, **dict(zip(_OF[kinds[values[0]]], [kinds[values[0]], *values[1:]], strict=False))}
            for values in tree["rows"]
        ]
        found.append(Curve(Setting(**tree["setting"]), tree["facts"], rows))
    return found


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
