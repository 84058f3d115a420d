"""Figures of merit of a classifier, in NumPy. Labels and predictions are (N,) integers below K."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import DataError, must
from finetune.interval import wilson

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


def accuracy(labels: Ints, predictions: Ints) -> float:
    """Share of predictions equal to their label. Raises DataError for no or unequally many of them.

    >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 0]))
    0.6666666666666666
    """
    same_length(labels, predictions)
    return float((labels == predictions).mean())


def confusion(labels: Ints, predictions: Ints, num_classes: int) -> Ints:
    """(K, K) counts: rows are the true classes, columns the predicted ones."""
    same_length(labels, predictions)
    cells = np.asarray(labels, np.int64) * num_classes + np.asarray(predictions, np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def log_loss(labels: Ints, probabilities: Floats) -> float:
    """Mean of -log p(label), natural logarithm, p clipped at float32's resolution."""
    same_length(labels, probabilities)
    p = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(p, np.finfo(np.float32).eps, 1)).mean())


def top_k(labels: Ints, probabilities: Floats, k: int = 5) -> float:
    """Share of images whose label is among the k most probable classes; ties go to the lower label."""
    same_length(labels, probabilities)
    k = min(k, probabilities.shape[1])
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((best == np.asarray(labels)[:, None]).any(axis=1).mean())


@dataclass(frozen=True)
class ClassScore:
    """One row of the per-class table."""

    name: str
    support: int
    """Images of this class."""
    precision: float
    """Of the images called this, the share that are; 0 where none was."""
    recall: float
    """Of the images that are this, the share called so; NaN where there are none."""
    f1: float
    """Harmonic mean of the two; 0 where both are."""


def per_class(matrix: Ints, classes: tuple[str, ...]) -> list[ClassScore]:
    """Precision, recall and F1 of every class from a confusion matrix (K, K), in class order."""
    hits = np.diag(matrix).astype(float)
    actual, called = matrix.sum(axis=1), matrix.sum(axis=0)
    rows = []
    for k, name in enumerate(classes):
        precision = hits[k] / called[k] if called[k] else 0.0
        recall = hits[k] / actual[k] if actual[k] else math.nan
        f1 = 2 * hits[k] / (actual[k] + called[k]) if actual[k] + called[k] else math.nan
        rows.append(ClassScore(name, int(actual[k]), float(precision), float(recall), float(f1)))
    return rows


@dataclass(frozen=True)
class Scores:
    """Everything measured on one set of labelled images."""

    n: int
    accuracy: float
    interval: tuple[float, float]
    """95% Wilson interval of the accuracy."""
    log_loss: float
    top5: float
    balanced_accuracy: float
    """Mean recall over the classes that have images."""
    macro_f1: float
    """Mean F1 over the classes that have images."""
    classes: tuple[ClassScore, ...]
    matrix: Ints

    def to_dict(self) -> dict[str, object]:
        """What result.json keeps: plain numbers, the per-class rows, no matrix."""
        rows = [
            {"class": c.name, "n": c.support, "precision": c.precision, "recall": c.recall, "f1": c.f1}
            for c in self.classes
        ]
        return {
            "accuracy": self.accuracy,
            "n": self.n,
            "interval": list(self.interval),
            "log_loss": self.log_loss,
            "top5": self.top5,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "classes": rows,
        }

    def worst_first(self) -> list[ClassScore]:
        """Classes with images, lowest F1 first; the larger class first among equals."""
        present = [c for c in self.classes if c.support]
        return sorted(present, key=lambda c: (c.f1, -c.support))

    def confusions(self, limit: int = 3) -> list[tuple[str, str, int]]:
        """The most frequent mistakes: (true class, called, count), only those seen at least twice."""
        wrong = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        pairs = [divmod(int(i), len(self.classes)) for i in order]
        return [
            (self.classes[a].name, self.classes[b].name, int(wrong[a, b]))
            for a, b in pairs
            if wrong[a, b] > 1
        ]


def score(labels: Ints, probabilities: Floats, classes: tuple[str, ...]) -> Scores:
    """All figures of probabilities (N, K) against labels (N,). Raises DataError for an empty set."""
    same_length(labels, probabilities)
    predictions = probabilities.argmax(axis=1)
    matrix = confusion(labels, predictions, len(classes))
    rows = per_class(matrix, classes)
    present = [r for r in rows if r.support]
    n, correct = len(labels), int(np.trace(matrix))
    return Scores(
        n=n,
        accuracy=correct / n,
        interval=wilson(correct, n),
        log_loss=log_loss(labels, probabilities),
        top5=top_k(labels, probabilities),
        balanced_accuracy=float(np.mean([r.recall for r in present])),
        macro_f1=float(np.mean([r.f1 for r in present])),
        classes=tuple(rows),
        matrix=matrix,
    )


def same_length(labels: NDArray[Any], others: NDArray[Any]) -> None:
    """Raises DataError for no or unequally many of them."""
    if len(labels) == 0 or len(labels) != len(others):
        raise DataError(
            must(
                "labels and predictions", "equally many and at least one", f"{len(labels)} and {len(others)}"
            )
        )
