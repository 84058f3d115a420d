"""sweep.yaml: what a sweep is about. It is written once; the same command, and every worker, reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import RunError, must
from finetune.files import atomic_write_text
from finetune.recipe import Recipe, read_yaml
from finetune.search.dimension import Dimension
from finetune.search.measure import SCORES
from finetune.search.space import parse_space

FILE = "sweep.yaml"
COARSE_EPOCHS = 0.3
"""Share of its epochs that a trial of the coarse stage gets."""
COARSE_TRIALS = 0.6
"""Share of the trials that belong to the coarse stage."""
FEWEST = 4
"""With fewer trials there is one stage."""


@dataclass(frozen=True)
class Stage:
    """Some of the trials: over the whole space on short schedules, or near the best on whole ones."""

    name: str
    trials: int
    share: float
    """Of the plan's epochs."""


@dataclass(frozen=True)
class Settings:
    """Everything that the trials of one sweep have in common."""

    recipe: Recipe
    """The default: strategy, threads, precision and left-out augmentations settled, validation images held out."""
    space: tuple[Dimension, ...]
    start: dict[str, Any]
    """Where the default stands in the space; empty where it stands outside."""
    epochs: int
    """Of the default's gradient phase; 0 where it has none."""
    lr: float | None
    """Learning rate of the default's plan: what ratios refer to where ``train.lr`` is not searched."""
    seconds: float
    """Estimated cost of a trial on whole schedules."""
    test_seconds: float
    """Estimated cost of testing."""
    metric: str
    sampler: str
    pruner: str
    storage: str
    """File of the trials."""
    final: dict[str, Any]
    """Keys that the final training has as the user asked for them: ``train.refit``, ``probe.fit_on``."""
    asked: dict[str, Any]
    """The question as it was put, to know the same command by."""

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric in SCORES

    def stages(self, trials: int) -> tuple[Stage, ...]:
        """How so many trials are divided."""
        if trials < FEWEST:
            return (Stage("coarse", trials, 1.0),)
        coarse = round(COARSE_TRIALS * trials)
        return Stage("coarse", coarse, COARSE_EPOCHS), Stage("fine", trials - coarse, 1.0)

    def save(self, folder: Path) -> None:
        """Write sweep.yaml. Raises RunError."""
        tree = {
            "recipe": self.recipe.model_dump(mode="json", exclude_unset=True),
            "space": {d.key: str(d) for d in self.space},
            **{key: getattr(self, key) for key in _PLAIN},
        }
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        atomic_write_text(folder / FILE, "# What this sweep searches; its trials go on with it.\n" + text)

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Read sweep.yaml. Raises RunError."""
        tree = read_yaml(folder / FILE, "Sweep")
        missing = sorted({"recipe", "space", *_PLAIN} - set(tree))
        if missing:
            raise RunError(must(str(folder / FILE), "as finetune wrote it", f"one without {missing[0]}"))
        plain = {key: tree[key] for key in _PLAIN}
        return cls(
            recipe=Recipe.from_mapping(tree["recipe"], FILE), space=parse_space(tree["space"]), **plain
        )

    def require_same(self, asked: Mapping[str, Any], folder: Path) -> None:
        """Raises RunError where another question is put to the folder of this one."""
        differs = [key for key in asked if asked[key] != self.asked.get(key)]
        if differs:
            raise RunError(
                must(
                    f"The sweep in {folder}",
                    "gone on with by the command that began it",
                    f"another {', '.join(differs)}",
                    "Choose another --out, or remove it.",
                )
            )


_PLAIN: Sequence[str] = (
    "start", "epochs", "lr", "seconds", "test_seconds", "metric", "sampler", "pruner", "storage", "final", "asked"
)  # fmt: skip
