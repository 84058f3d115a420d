"""What a strategy may look at: the recipe, the counts, facts about the backbone, evidence on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from finetune.errors import StrategyError, must
from finetune.recipe import Recipe, TrainRecipe
from finetune.task import MULTI_LABEL, SINGLE_LABEL, Task

if TYPE_CHECKING:
    import numpy as np

    from finetune.strategy.measure import Evidence
    from finetune.zoo.card import ModelCard


@dataclass(frozen=True)
class Context:
    """Everything that a plan depends on. ``evidence`` is only called by strategies that measure."""

    recipe: Recipe
    counts: tuple[int, ...]
    """Training images of each class."""
    card: ModelCard
    num_stages: int
    look: Callable[[], Evidence]
    """Measures; use ``ctx.evidence``, which asks once."""
    n_val: int = 0
    """Validation images."""
    task: Task = SINGLE_LABEL
    images: int | None = None
    """Training images where ``counts`` do not add up to them: those of labels, of which an image may have several."""
    device: str = "cpu"
    """What trains: cpu, cuda or mps."""

    def __post_init__(self) -> None:
        if self.num_stages < 1:
            raise StrategyError(must("the backbone", "at least one stage deep", self.num_stages))
        if not self.task.plain:
            return
        if len(self.counts) < 2:
            raise StrategyError(
                must(
                    "the number of classes", "at least 2", len(self.counts), "Add a folder for another class."
                )
            )
        empty = sum(c == 0 for c in self.counts)
        if sum(self.counts) == 0 or empty == len(self.counts) - 1:
            raise StrategyError(
                must(
                    "the training split",
                    "images of at least 2 classes",
                    f"images of {len(self.counts) - empty}",
                )
            )

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        labels: np.ndarray,
        num_classes: int,
        backbone: Any,
        look: Callable[[], Evidence],
        n_val: int = 0,
        task: Task = SINGLE_LABEL,
        values: np.ndarray | None = None,
        device: str = "cpu",
    ) -> Context:
        """From the training labels, a Backbone and the number of validation images.

        Of another task ``values`` are the (N, K) targets: several labels an image are counted each, of a number the
        tenths of its range (``labels``) stand for classes.
        """
        import numpy as np

        counted = np.bincount(labels, minlength=num_classes)
        if task == MULTI_LABEL and values is not None:
            counted = values.sum(axis=0)
        counts = tuple(int(c) for c in counted)
        images = None if task.plain else len(labels)
        return cls(recipe, counts, backbone.card, backbone.num_stages, look, n_val, task, images, device)

    @property
    def train(self) -> TrainRecipe:
        """The recipe's ``train`` section."""
        return self.recipe.train

    @property
    def asked_lr(self) -> float | None:
        """The body's learning rate where the recipe gives a number."""
        return None if self.train.lr == "auto" else self.train.lr

    @property
    def n_train(self) -> int:
        """Training images."""
        return sum(self.counts) if self.images is None else self.images

    @property
    def num_classes(self) -> int:
        """Classes, those without training images included."""
        return len(self.counts)

    @property
    def median(self) -> float:
        """Median images of the classes that have any."""
        present = sorted(c for c in self.counts if c)
        middle = len(present) // 2
        return float(present[middle]) if len(present) % 2 else (present[middle - 1] + present[middle]) / 2

    @property
    def last(self) -> int:
        """Index of the last stage."""
        return self.num_stages - 1

    @cached_property
    def evidence(self) -> Evidence:
        """What was measured; the features are computed at the first use."""
        return self.look()
