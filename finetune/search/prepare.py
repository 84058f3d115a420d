"""Before the first trial: what all of them share is decided once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune import advice
from finetune.advice import Setup
from finetune.errors import ConfigError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.run_folder import repeatable
from finetune.search.dimension import Dimension
from finetune.search.settings import Settings
from finetune.search.space import default_space, values_of
from finetune.search.trial import precision_of
from finetune.strategy.plan import GradientPhase, Plan, join_problems


def prepare(
    asked: Recipe, wanted: tuple[Dimension, ...] | None, setup: Setup, trials: int, question: dict[str, Any],
    metric: str, storage: Path, listener: Listener,
) -> Settings:  # fmt: skip
    """Decide once what all trials share. The default's recipe says everything that was decided or measured.

    Raises ConfigError where the task of the images has no place for a value that trials would take.
    """
    listener.on_message("Deciding what all trials have in common.")
    found = advice.decide(_bold(asked, wanted), setup, listener)
    plan = found.plan
    banned = sorted({f for phase in plan.phases if isinstance(phase, GradientPhase) for f in phase.avoid})
    train: dict[str, Any] = {
        "avoid": asked.train.avoid if asked.train.avoid is not None else banned,
        "refit": False,
    }
    recipe = asked.override(strategy=plan.strategy, threads=setup.threads)
    recipe = repeatable(with_keys(recipe, train={**train, **precision_of(plan, setup, recipe, trials)},
                              probe={"fit_on": "train"}))  # fmt: skip
    base, _ = advice.planned(recipe, setup, listener)
    tuned = next((p for p in base.phases if isinstance(p, GradientPhase)), None)
    faster = next((p for p in plan.phases if isinstance(p, GradientPhase)), None)
    if tuned is not None and faster is not None and tuned.lr != faster.lr:  # auto adapts it to the distance
        recipe = with_keys(recipe, train={"lr": faster.lr, "head_lr": faster.head_lr})
        base, _ = advice.planned(recipe, setup, listener)
        tuned = next(p for p in base.phases if isinstance(p, GradientPhase))
    task = setup.bundle.task
    if wanted and not task.plain:
        _refuse_unsuited(wanted, base, setup)
    space = wanted or default_space(base, task)
    start = values_of(base, recipe, space)
    cost = found.cost
    return Settings(
        recipe=recipe,
        space=space,
        start=start if len(start) == len(space) else {},
        epochs=tuned.epochs if tuned else 0,
        lr=tuned.lr if tuned else None,
        seconds=max(0.1, _trial_seconds(plan, cost.phases) if cost else 0.0),
        test_seconds=cost.test if cost else 0.0,
        metric=metric,
        sampler=question["sampler"],
        pruner=question["pruner"],
        storage=str(storage),
        final={
            "train": asked.train.model_dump(include={"refit"}),
            "probe": asked.probe.model_dump(include={"fit_on"}),
        },
        asked=question,
    )


def _bold(recipe: Recipe, wanted: Sequence[Dimension] | None) -> Recipe:
    """With the strongest augmentation that a trial may use, so that what the labels mind is found for all."""
    searched = wanted is None or any(d.key == "train.augment" for d in wanted)
    return (
        with_keys(recipe, train={"augment": "strong"}) if searched and recipe.train.avoid is None else recipe
    )


def with_keys(recipe: Recipe, **sections: Mapping[str, Any]) -> Recipe:
    """The recipe with some keys of some sections replaced."""
    tree = recipe.model_dump(exclude_unset=True)
    return recipe.override(**{name: {**tree.get(name, {}), **keys} for name, keys in sections.items()})


def _trial_seconds(plan: Plan, phases: Iterable[float]) -> float:
    """Of the plan without its refit."""
    kept = [
        s
        for phase, s in zip(plan.phases, phases, strict=True)
        if phase.fit_on == "train" or len(plan.phases) == 1
    ]
    return sum(kept)


def _refuse_unsuited(space: Sequence[Dimension], plan: Plan, setup: Setup) -> None:
    """Raises ConfigError with every value of the space that the task refuses: no trial could take it."""
    from finetune.training.refusals import refuse_impossible

    problems = []
    for dimension in space:
        section, _, leaf = dimension.key.rpartition(".")
        kind = {"train": "gradient", "probe": "probe"}.get(section)
        for value in dimension.choices or (dimension.low, dimension.high):
            phases = tuple(
                phase.model_copy(update={leaf: value})
                if phase.kind == kind and value is not None and leaf in type(phase).model_fields
                else phase
                for phase in plan.phases
            )
            try:
                refuse_impossible(
                    plan.model_copy(update={"phases": phases}), setup.bundle.classes, setup.bundle.task
                )
            except ConfigError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError(join_problems(list(dict.fromkeys(problems)), "the search space"))
