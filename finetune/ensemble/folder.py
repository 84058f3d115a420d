"""The folder of what was made of several runs: what a run's folder holds, as far as it applies."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.api import Run
from finetune.files import atomic_write_bytes
from finetune.run_folder import ROOT, RunFolder, check_free
from finetune.version import __version__

if TYPE_CHECKING:
    import numpy as np

    from finetune.data.imageset import ImageSet
    from finetune.ensemble.candidates import Candidate
    from finetune.evaluation.scores import AnyScores

_MODEL = ("config.json", "model.safetensors")


def new_folder(out: str | os.PathLike[str] | None, kind: str) -> RunFolder:
    """The folder to write, checked and not yet made. Raises RunError if it is in use."""
    path = Path(out).expanduser() if out is not None else ROOT / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    check_free(path, "The output folder")
    return RunFolder(path)


def copy_model(source: Path, target: Path) -> None:
    """The files of a model folder, each whole or not at all. Raises RunError on a full disk."""
    for name in _MODEL:
        atomic_write_bytes(target / name, (source / name).read_bytes())


def judged(scores: AnyScores) -> dict[str, Any]:
    """What is kept of one network's test: the task's main figure, its interval, and the loss (of a number RMSE)."""
    from finetune.evaluation.scores import main_figure

    kept = scores.to_dict()
    (main, value), loss = main_figure(kept), "log_loss" if "log_loss" in kept else "rmse"
    return {main: value, "interval": list(scores.interval), loss: kept[loss]}


def write_result(
    folder: RunFolder, kind: str, candidates: Sequence[Candidate], images: ImageSet, source: str,
    answers: np.ndarray, scores: AnyScores, parts: Sequence[AnyScores], answering: Sequence[Run], seconds: float,
) -> Run:  # fmt: skip
    """predictions.csv, splits.csv, result.json and, last, the recipe.yaml that makes the folder a run.

    ``parts`` are the scores of what it was made of, ``answering`` a run for each network that answers, of its size.
    """
    from finetune.ensemble.candidates import merged_rows
    from finetune.evaluation.table import write_answers, write_rows

    first, runs = candidates[0].run, [candidate.run for candidate in candidates]
    write_answers(folder.path / "predictions.csv", images, answers, first.classes)
    write_rows(
        folder.path / "splits.csv", ("image", "label", "split", "fingerprint"), merged_rows(candidates)
    )
    several = "members" if folder.members() else "ingredients"
    result = {
        **first.result,
        "strategy": kind,
        "chosen": kind,
        "backbone": ", ".join(dict.fromkeys(str(run.result.get("backbone", "")) for run in runs)),
        "data": source,
        "test": {**scores.to_dict(), several: [getattr(part, first.task.metric) for part in parts]},
        "kept": None,
        "seconds": round(sum(run.result["seconds"] for run in runs) + seconds, 3),
        "trained_parameters": sum(run.result["trained_parameters"] for run in answering),
        "parameters": sum(run.result["parameters"] for run in answering),
        "finetune": __version__,
    }
    folder.write_json("result.json", result)
    header = f"# The recipe of {first.path.name}, the first of the {len(runs)} runs that this {kind} was made of.\n"
    recipe = (first.path / "recipe.yaml").read_text(encoding="utf-8")
    own = "".join(line for line in recipe.splitlines(keepends=True) if not line.startswith("#"))
    folder.write_text("recipe.yaml", header + own)
    return Run(folder.path)
