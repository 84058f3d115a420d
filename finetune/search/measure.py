"""What trials are compared by: the held-out loss of the task, or its score."""

from __future__ import annotations

from finetune.errors import ConfigError, must
from finetune.task import TASKS, Task


def loss_of(task: Task) -> str:
    """What ``--metric`` calls the task's loss.

    >>> loss_of(TASKS["regression"]), loss_of(TASKS["multi-label"])
    ('squared-error', 'log-loss')
    """
    return task.loss_name.replace(" ", "-")


LOSSES = tuple(dict.fromkeys(loss_of(task) for task in TASKS.values()))
SCORES = tuple(task.score for task in TASKS.values())
METRICS = (*LOSSES, *SCORES)
"""All that there are; each task has one loss and one score."""


def metric_for(asked: str | None, task: Task) -> str:
    """The metric that was asked for, or the task's loss. Raises ConfigError for that of another task."""
    own = (loss_of(task), task.score)
    if asked is None:
        return own[0]
    if asked not in own:
        said = f"The task is {task.name}."
        raise ConfigError(must("--metric", f"one of {', '.join(own)}", repr(asked), said))
    return asked


def column(metric: str) -> str:
    """Its name in tables and JSON.

    >>> column("squared-error")
    'squared_error'
    """
    return metric.replace("-", "_")


def shown(score: float, task: Task, *, digits: int = 1) -> str:
    """A score: shares in per cent; R2, which may lie below 0, as it is.

    >>> shown(0.915, TASKS["multi-label"]), shown(-0.25, TASKS["regression"])
    ('91.5%', '-0.250')
    """
    return f"{score:.3f}" if task.score == "r2" else f"{100 * score:.{digits}f}%"


def named(task: Task) -> str:
    """The score in words.

    >>> [named(task) for task in TASKS.values()]
    ['accuracy', 'F1', 'R2']
    """
    return task.score if task.plain else task.score.upper()
