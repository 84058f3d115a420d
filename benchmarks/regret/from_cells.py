"""The rows of benchmarks/cells.py, whole data sets with three seeds, in the shape of this benchmark's own."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.regret.arms import AUTO, NO_LR
from benchmarks.regret.ledger import COLUMNS, Row
from finetune.errors import RunError, must

_HEADS = ("linear", "multistage")
_SAME = (
    "accuracy",
    "test_n",
    "train_n",
    "seconds",
    "image_size",
    "trained_parameters",
    "machine",
    "date",
    "seed",
)


def read_cells(path: Path) -> list[Row]:
    """Rows of the setting that most of the file's rows share. Raises RunError for another table."""
    lines = path.read_text(encoding="utf-8").splitlines()
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    if not {"case", "strategy", "settings", *_SAME} <= set(reader.fieldnames or ()):
        raise RunError(must(str(path), "a CSV that benchmarks/cells.py wrote", "another table"))
    found = list(reader)
    setting = Counter(map(_setting, found)).most_common(1)[0][0] if found else None
    return [_as_row(row) for row in found if _setting(row) == setting]


def arms_of(rows: list[Row]) -> list[str]:
    """The strategies that were measured everywhere."""
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for row in rows:
        seen[row["data"], row["size"], row["seed"]].add(row["arm"])
    everywhere = set.intersection(*seen.values()) if seen else set()
    return sorted(everywhere - {AUTO})


def _setting(row: dict[str, str]) -> tuple[str, ...]:
    return row["backbone"], row["settings"], row["image_size"], row["epochs"]


def _as_row(cell: dict[str, str]) -> Row:
    """``case`` is "gtsrb, by track" or "tinyimagenet_target25, 10 a class"."""
    data, _, rest = cell["case"].partition(", ")
    row = dict.fromkeys(COLUMNS, "")
    return row | {key: cell[key] for key in _SAME} | {
        "data": data, "size": next((word for word in rest.split() if word.isdigit()), "all"),
        "backbone": cell["backbone"], "arm": cell["strategy"],
        "lr": NO_LR if cell["strategy"] in (*_HEADS, AUTO) else "1",
        "recipe": cell["settings"], "code": cell["version"], "status": "ok", "classes": "2",
        "chosen": cell["chosen"] if cell["strategy"] == AUTO else "",
    }  # fmt: skip
