"""Draws a run folder's pictures from the files that lie in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune.evaluation.metrics import Scores
from finetune.files import atomic_write_bytes
from finetune.report import figures
from finetune.training.metrics_log import read_metrics


def draw_figures(folder: Path, scores: Scores) -> list[str]:
    """confusion.png always; curves.png where steps were trained; stages.png where stages were measured."""
    drawn = {"confusion.png": figures.confusion(scores.matrix, [c.name for c in scores.classes])}
    rows = read_metrics(folder)
    if rows:
        drawn["curves.png"] = figures.curves(rows)
    measured = stage_accuracies(folder)
    if measured is not None:
        drawn["stages.png"] = figures.stages(*measured)
    for name, png in drawn.items():
        atomic_write_bytes(folder / name, png)
    return list(drawn)


def stage_accuracies(folder: Path) -> tuple[list[str], list[float], list[float], dict[str, float]] | None:
    """What decision.json says about each stage: names, chance-normalised accuracies, errors, lines to add."""
    path = folder / "decision.json"
    evidence: Any = json.loads(path.read_text(encoding="utf-8")).get("evidence") if path.is_file() else None
    stages = evidence.get("stages") if isinstance(evidence, dict) else None
    if not stages:
        return None
    return (
        [str(s["name"]) for s in stages],
        [float(s["accuracy"]) for s in stages],
        [float(s["se"]) for s in stages],
        {},
    )
