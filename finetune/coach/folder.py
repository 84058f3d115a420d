"""What a run folder tells the coach beside its metrics: the facts of each phase."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.coach.finding import Facts, Finding
from finetune.errors import RunError

FILE = "coach.json"


def phase_facts(folder: Path) -> dict[int, Facts]:
    """Facts by phase index, from training.json. Raises RunError where it cannot be read."""
    found: dict[int, Facts] = {}
    for index, phase in _read(folder / "training.json").get("phases", {}).items():
        if isinstance(phase, dict) and isinstance(phase.get("coach"), dict):
            # The seconds are written when the phase is over.
            found[int(index)] = Facts.from_mapping(
                {
                    **phase["coach"],
                    "finished": "seconds" in phase,
                    "rollbacks": len(phase.get("rollbacks") or ()),
                }
            )
    return found


def counted_facts(folder: Path) -> Facts:
    """For a folder without recorded facts: classes and images from splits.csv."""
    path = folder / "splits.csv"
    if not path.is_file():
        return Facts()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = Counter(row.get("split") for row in rows)
    classes = len({row.get("label") for row in rows})
    return replace(Facts(), classes=classes or None, train_n=images["train"], val_n=images["val"])


def report(findings: list[Finding]) -> dict[str, Any]:
    """The content of coach.json."""
    return {"findings": [finding.to_dict() for finding in findings]}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
    return tree if isinstance(tree, dict) and isinstance(tree.get("phases"), dict) else {}
