"""Draws a run folder's pictures from the files that lie in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.evaluation.metrics import Scores
from finetune.files import atomic_write_bytes
from finetune.report import figures
from finetune.training.metrics_log import read_metrics


def draw_figures(folder: Path, scores: Scores, stage_names: Sequence[str]) -> list[str]:
    """confusion.png always; curves.png where steps were trained; stages.png where stages were measured."""
    drawn = {"confusion.png": figures.confusion(scores.matrix, [c.name for c in scores.classes])}
    rows = read_metrics(folder)
    if rows:
        drawn["curves.png"] = figures.curves(rows)
    evidence = _evidence(folder)
    measured = evidence.get("stages") or []
    if len(measured) == len(stage_names):
        values, errors = [s["value"] for s in measured], [s["se"] for s in measured]
        lines = {"nearest neighbours": evidence["knn"], "stages joined": evidence["concat"]["value"]}
        drawn["stages.png"] = figures.stages(stage_names, values, errors, lines)
    for name, png in drawn.items():
        atomic_write_bytes(folder / name, png)
    return list(drawn)


def _evidence(folder: Path) -> dict[str, Any]:
    """What decision.json says was measured; empty where nothing was, or where the file was damaged since.

    A result that took hours is worth more than one of its pictures.
    """
    path = folder / "decision.json"
    try:
        decision: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = decision.get("evidence") if isinstance(decision, dict) else None
    return found if isinstance(found, dict) else {}
