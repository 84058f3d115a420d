"""Predictions as a CSV file: one row an image, readable by any spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.data.imageset import ImageSet
from finetune.errors import RunError
from finetune.evaluation.metrics import Floats, Ints
from finetune.files import atomic_write_text
from finetune.task import REGRESSION


def write_predictions(
    path: Path,
    names: Sequence[str],
    probabilities: Floats,
    classes: tuple[str, ...],
    labels: Ints | None = None,
) -> None:
    """Columns image, label (where known), predicted, probability, then one probability a class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["image", *(["label"] if labels is not None else []), "predicted", "probability"]
    writer.writerow([*head, *(f"p:{c}" for c in classes)])
    best = np.asarray(probabilities).argmax(axis=1)
    for i, name in enumerate(names):
        row = [name, *([classes[labels[i]]] if labels is not None else []), classes[best[i]]]
        writer.writerow([*row, f"{probabilities[i, best[i]]:.6g}", *(f"{p:.6g}" for p in probabilities[i])])
    atomic_write_text(path, text.getvalue())


def write_answers(path: Path, images: ImageSet, answers: Floats, classes: tuple[str, ...]) -> None:
    """The answers to images with their truth, as the task has them.

    Classes: see ``write_predictions``. Labels: image, labels (``|`` between them), predicted, a probability each.
    A number: image, value, predicted.
    """
    names = [images.name(i) for i in range(len(images))]
    if images.task.plain:
        write_predictions(path, names, answers, classes, images.labels)
        return
    number = images.task == REGRESSION
    head = [
        "image",
        "value" if number else "labels",
        "predicted",
        *(() if number else [f"p:{c}" for c in classes]),
    ]
    rows = []
    for i, name in enumerate(names):
        if number:
            rows.append([name, images.truth(i), f"{answers[i, 0]:.7g}"])
        else:
            said = "|".join(c for c, p in zip(classes, answers[i], strict=True) if p > 0.5)
            rows.append([name, images.truth(i), said, *(f"{p:.6g}" for p in answers[i])])
    write_rows(path, head, rows)


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Any small table as CSV, written whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


def read_rows(path: Path) -> list[tuple[str, ...]]:
    """What write_rows wrote, without the columns' names. Raises RunError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [tuple(row) for row in csv.reader(file)][1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path} cannot be read: {error}.") from None
