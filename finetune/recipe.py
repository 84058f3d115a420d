"""The Recipe: everything the user asked for, validated, frozen, saved with the run.

Unknown or mistyped keys are reported all at once, each with the nearest known key. Overrides are
``key=value`` with a dotted key (``train.epochs=5``) or a bare one where it is unique (``epochs=5``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError
from typing_extensions import Self

from finetune.averaging import averaging_problems
from finetune.errors import ConfigError, must
from finetune.recipe_sections import (
    AtLeastOne,
    DataRecipe,
    ProbeRecipe,
    Section,
    TrainRecipe,
)
from finetune.recipe_text import (
    apply_overrides,
    joined,
    known_keys,
    problem_lines,
    problems_of,
    read_yaml,
    unknown_strategy,
)
from finetune.recipe_values import seconds_of


class Recipe(Section):
    """What the user asked for. ``finetune run --recipe FILE`` reads it; the run folder keeps it."""

    name: str | None = None
    """Name of the run folder; default: data set, strategy and time."""
    data: DataRecipe = DataRecipe()
    backbone: str = "embedded"
    """A zoo name, any timm/torchvision name, hf-hub:OWNER/NAME or a weight file."""
    pretrained: bool = True
    """False starts from random weights (tests and baselines)."""
    norm_layers: Literal["own", "group"] = "own"
    """own: as the backbone has them. group: group norms in the place of its batch norms, with their scale and shift,
    for batches too small to take statistics from (arXiv 1803.08494); nearly everything has to train then."""
    strategy: str = "auto"
    """auto, linear, multistage, norm-bias, lora, partial, lp-ft, full or scratch."""
    probe: ProbeRecipe = ProbeRecipe()
    train: TrainRecipe = TrainRecipe()
    seed: int = Field(0, ge=0, lt=2**32)
    """Seeds splits, augmentation, order and initialisation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: AtLeastOne | Literal["auto"] = "auto"
    """Compute threads on the CPU; auto counts the idle cores."""
    budget: Annotated[float, BeforeValidator(seconds_of), Field(gt=0)] | None = None
    """Time for a race of `auto`'s choice against its neighbours: seconds, or 90s, 10m, 1.5h; default: no race."""
    out: str | None = None
    """The run folder; default: runs/NAME."""

    @classmethod
    def from_mapping(
        cls, tree: Mapping[str, Any], source: str = "recipe", strategies: Iterable[str] = ()
    ) -> Self:
        """Validate; raises ConfigError listing every problem with its key.

        ``strategies`` are the names that ``strategy`` may take, where the caller knows them.
        """
        if not isinstance(tree, Mapping):
            raise ConfigError(must(source, "a mapping of recipe keys", type(tree).__name__))
        problems = unknown_strategy(tree.get("strategy"), list(strategies))
        try:
            recipe = cls.model_validate(tree)
        except ValidationError as error:
            problems = problem_lines(cls, error) + problems
        train = tree.get("train")
        problems += averaging_problems(train, "train.") if isinstance(train, Mapping) else []
        if problems:
            raise ConfigError(joined(problems, source))
        return recipe

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = (), strategies: Iterable[str] = ()) -> Self:
        """Read YAML, apply ``key=value`` overrides, validate. Raises ConfigError."""
        path = Path(path)
        return cls.from_mapping(apply_overrides(read_yaml(path), overrides, cls), path.name, strategies)

    def override(self, *assignments: str, **keys: Any) -> Self:
        """A new recipe with ``key=value`` strings and top-level keywords applied. Raises ConfigError."""
        # What was left out stays left out: a strategy may choose it.
        tree = {**self.model_dump(exclude_unset=True), **keys}
        return type(self).from_mapping(apply_overrides(tree, assignments, type(self)))

    def to_yaml(self) -> str:
        """The fully resolved recipe; loading it gives an equal recipe."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


__all__ = [
    "DataRecipe",
    "ProbeRecipe",
    "Recipe",
    "TrainRecipe",
    "apply_overrides",
    "known_keys",
    "problems_of",
    "read_yaml",
    "seconds_of",
]
