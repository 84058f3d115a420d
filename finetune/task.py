"""What is learned about an image: its class, any number of labels, or a number.

A Task is a name and the few facts that every layer asks for. What a layer does for a task stands in that layer:
targets in ``data/targets.py``, heads in ``features/outputs.py``, losses in ``training/objectives.py``, figures in
``evaluation/scores.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["single-label", "multi-label", "regression"]


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    name: TaskName
    metric: str
    """Key of the main figure among the test's."""
    score: str
    """What is followed from epoch to epoch beside the loss: 1 is perfect, higher is better."""
    losses: tuple[str, ...]
    """Losses that it can be trained with; the first is taken where none is named."""
    solvers: tuple[str, ...]
    """Heads that are solved for it on cached features."""
    loss_name: str
    """What the held-out loss of such a head is called."""
    lr_factor: float = 1.0
    """Of default learning rates, made for log-loss: its slope changes by at most 1/4 where an output moves by 1, that
    of a squared error by 2."""

    @property
    def plain(self) -> bool:
        """Whether each image has one class of several."""
        return self.name == "single-label"


SINGLE_LABEL = Task(
    "single-label", "accuracy", "accuracy", ("cross-entropy", "focal", "bce"),
    ("logistic", "ridge", "lda", "centroid"), "log-loss",
)  # fmt: skip
MULTI_LABEL = Task("multi-label", "mean_ap", "f1", ("bce", "focal"), ("logistic",), "log-loss")
REGRESSION = Task(
    "regression", "mae", "r2", ("mse", "l1", "huber"), ("ridge",), "squared error", lr_factor=1 / 8
)

TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}
