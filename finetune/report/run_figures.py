"""Draws a run folder's pictures from the files that lie in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.evaluation.metrics import Scores
from finetune.evaluation.scores import AnyScores, LabelScores, NumberScores
from finetune.files import atomic_write_bytes
from finetune.report import figures
from finetune.report.answers import labels, numbers
from finetune.report.curves import curves
from finetune.report.plane import BENCHMARK, plane
from finetune.training.metrics_log import read_metrics


def draw_figures(
    folder: Path,
    scores: AnyScores,
    stage_names: Sequence[str],
    name: str = "this data set",
    backbone: str = "",
) -> list[str]:
    """confusion.png, of labels labels.png, of numbers numbers.png; curves.png where steps were trained; stages.png
    and, of classes, plane.png where stages were measured. ``name``: what to call this data set on the plane;
    ``backbone``: whose view of other data sets to show there."""
    drawn = _answers(scores)
    rows = read_metrics(folder)
    if rows:
        drawn["curves.png"] = curves(rows)
    decision = _decision(folder)
    found = decision.get("evidence")
    evidence: dict[str, Any] = found if isinstance(found, dict) else {}
    measured = evidence.get("stages") or []
    if len(measured) == len(stage_names):
        values, errors = [s["value"] for s in measured], [s["se"] for s in measured]
        lines = {"nearest neighbours": evidence["knn"], "stages joined": evidence["concat"]["value"]}
        known = {title: value for title, value in lines.items() if value is not None}
        drawn["stages.png"] = figures.stages(
            stage_names, values, errors, known, evidence.get("measure", "accuracy")
        )
    similarity, amount = decision.get("similarity"), evidence.get("median")
    if (
        isinstance(scores, Scores)
        and isinstance(similarity, float)
        and isinstance(amount, float)
        and amount > 0
    ):
        # Similarity depends on the size at which the network sees the images: other sets are known at its own.
        others = BENCHMARK.get(backbone, ()) if evidence.get("scale", 1.0) == 1.0 else ()
        drawn["plane.png"] = plane(name, amount, similarity, len(scores.classes), others)
    for file, png in drawn.items():
        atomic_write_bytes(folder / file, png)
    return list(drawn)


def _answers(scores: AnyScores) -> dict[str, bytes]:
    """The picture of the answers themselves."""
    if isinstance(scores, NumberScores):
        return {"numbers.png": numbers(scores.truth, scores.answers)}
    if isinstance(scores, LabelScores):
        return {"labels.png": labels(scores)}
    return {"confusion.png": figures.confusion(scores.matrix, [c.name for c in scores.classes])}


def _decision(folder: Path) -> dict[str, Any]:
    """decision.json; empty where there is none, or where the file was damaged since.

    A result that took hours is worth more than one of its pictures.
    """
    try:
        found: Any = json.loads((folder / "decision.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
