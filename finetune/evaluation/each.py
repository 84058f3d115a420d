"""The loss and the score of every single answer, by the task: what trials and members are compared by.

Answers are (N, K) float: softmax probabilities, a sigmoid probability a label, or numbers. A lower loss is better; a
score is better the higher, and 1 is perfect.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from finetune.evaluation.metrics import Floats, same_length
from finetune.features.outputs import image_f1, number_losses
from finetune.task import Task

Figures = Callable[[np.ndarray, Floats], np.ndarray]
_SMALLEST = np.finfo(np.float32).eps


def each_loss(task: Task, targets: np.ndarray, answers: Floats) -> np.ndarray:
    """(N,) float64. Of classes -log p(label) in nats; of labels the binary log-loss, the mean over the labels; of a
    number the squared error in units of the variance of these targets. ``targets``: as ``ImageSet.targets``.

    >>> from finetune.task import REGRESSION
    >>> each_loss(REGRESSION, np.array([[1.0], [3.0]]), np.array([[1.0], [4.0]])).tolist()
    [0.0, 1.0]
    """
    return _EACH[task.name][0](targets, answers)


def each_score(task: Task, targets: np.ndarray, answers: Floats) -> np.ndarray:
    """(N,) whose mean is the task's score: bool whether the class is right; F1 of an image's labels; for a number 1
    minus the loss, whose mean is R2 of these images.

    >>> from finetune.task import MULTI_LABEL
    >>> each_score(MULTI_LABEL, np.array([[1, 0], [1, 1]]), np.array([[0.9, 0.8], [0.7, 0.6]])).round(3).tolist()
    [0.667, 1.0]
    """
    return _EACH[task.name][1](targets, answers)


def mean_loss(task: Task, targets: np.ndarray, answers: Floats) -> float:
    """Mean of ``each_loss``. Raises DataError for no or unequally many answers."""
    same_length(targets, answers)
    return float(each_loss(task, targets, answers).mean())


def mean_score(task: Task, targets: np.ndarray, answers: Floats) -> float:
    """Mean of ``each_score``. Raises DataError likewise."""
    same_length(targets, answers)
    return float(each_score(task, targets, answers).mean())


def _class_losses(labels: np.ndarray, probabilities: Floats) -> np.ndarray:
    """As evaluation.metrics.log_loss."""
    p = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray(-np.log(np.clip(p, _SMALLEST, 1)))


def _right(labels: np.ndarray, probabilities: Floats) -> np.ndarray:
    return np.asarray(probabilities.argmax(axis=1) == labels)


def _label_losses(truth: np.ndarray, probabilities: Floats) -> np.ndarray:
    """As evaluation.scores.score_labels."""
    p = np.clip(np.asarray(probabilities, np.float64), _SMALLEST, 1 - _SMALLEST)
    return np.asarray(-np.where(truth > 0.5, np.log(p), np.log1p(-p)).mean(axis=1))


def _label_scores(truth: np.ndarray, probabilities: Floats) -> np.ndarray:
    return image_f1(np.asarray(probabilities) > 0.5, truth)


def _number_losses(truth: np.ndarray, answers: Floats) -> np.ndarray:
    return number_losses(np.asarray(answers, np.float64), truth)


def _number_scores(truth: np.ndarray, answers: Floats) -> np.ndarray:
    return np.asarray(1 - _number_losses(truth, answers))


_EACH: dict[str, tuple[Figures, Figures]] = {
    "single-label": (_class_losses, _right),
    "multi-label": (_label_losses, _label_scores),
    "regression": (_number_losses, _number_scores),
}
"""Task -> its losses and its scores."""
