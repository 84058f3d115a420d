"""A plan that a person gives: read, and held against the backbone it is for, before any image is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune.augment import BATCHED
from finetune.averaging import averaging_problems
from finetune.data import AUGMENTATIONS
from finetune.data.policies import joined_parts, unknown_parts
from finetune.errors import ConfigError, did_you_mean, must
from finetune.recipe import ProbeRecipe, Recipe, TrainRecipe, apply_overrides
from finetune.recipe_values import PARTS
from finetune.registry import Registry
from finetune.solvers import missing_package, optimizer_problems, schedule_problems
from finetune.strategy.plan import Plan, join_problems, read_tree
from finetune.training import OPTIMIZERS, SCHEDULES

PlanLike = Plan | str | os.PathLike[str]

_NAMED: dict[str, Registry[Any]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augment": AUGMENTATIONS,
}
_OF_THE_EXECUTOR = {
    "precision", "channels_last", "rollbacks", "log_every", "save_every", "trackers", "preflight", "shard",
}  # fmt: skip
"""Keys of ``train`` that say how to compute and write, not what to train: a given plan leaves them alone."""


def read_plan(given: PlanLike, num_stages: int, backbone: str) -> tuple[Plan, str]:
    """The plan and the text to keep of it, comments included.

    Raises ConfigError where the file cannot be read or is no YAML, and otherwise one with every problem:
    unknown and missing keys, values out of range, names that no registry has, stages that the backbone
    (``num_stages`` of them) does not have.
    """
    if isinstance(given, Plan):
        text, source = given.to_yaml(), "the given plan"
    else:
        text, source = _text(Path(given).expanduser()), f"Plan {os.fspath(given)!r}"
    tree = read_tree(text, source)
    plan, problems = Plan.examine(tree)
    problems += [
        *_unknown_names(tree),
        *_unsuitable(tree),
        *_missing_stages(tree, num_stages, backbone),
        *_order(tree),
    ]
    for where, phase in _phases(tree):
        problems += averaging_problems(phase, f"{where}.")
    if plan is None or problems:
        raise ConfigError(join_problems(problems, source))
    return plan, text


def decided_by_plan(recipe: Recipe) -> list[str]:
    """The keys set in a recipe that have no effect beside a given plan, which decides them itself."""
    keys = ["strategy"] if recipe.strategy != "auto" else []
    keys += ["budget"] if recipe.budget is not None else []
    keys += of_training(recipe)
    decided = {"solver", "combine", "folds", "fit_on"}
    return keys + [f"probe.{key}" for key in sorted(recipe.probe.model_fields_set & decided)]


def of_training(recipe: Recipe) -> list[str]:
    """The keys set in a recipe that say how to train by gradient steps."""
    return [f"train.{key}" for key in sorted(recipe.train.model_fields_set - _OF_THE_EXECUTOR)]


def refuse_beside_plan(assignments: Iterable[str]) -> None:
    """Raises ConfigError where ``key=value`` arguments ask for what the given plan decides."""
    tree = apply_overrides({}, assignments, Recipe)
    asked: list[str] = [key for key in ("strategy", "budget") if key in tree]
    train, probe = tree.get("train", {}), tree.get("probe", {})
    asked += [f"train.{key}" for key in train if key in TrainRecipe.model_fields.keys() - _OF_THE_EXECUTOR]
    asked += [f"probe.{key}" for key in probe if key in ProbeRecipe.model_fields.keys() - {"cache"}]
    if asked:
        raise ConfigError(
            must(
                f"{', '.join(asked)}",
                "left out where a plan is given, which decides what is trained and how",
                "both",
                "Edit the plan, or leave it out.",
            )
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"Plan {str(path)!r} does not exist. `finetune strategy advise --data DIR --out FILE` writes one."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Plan {str(path)!r} cannot be read: {error}.") from None


def _phases(tree: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(key of the phase, the phase) of those that are mappings; the model reports the others."""
    phases = tree.get("phases")
    for i, phase in enumerate(phases if isinstance(phases, list) else []):
        if isinstance(phase, Mapping):
            yield f"phases.{i}", phase


def _unknown_names(tree: Mapping[str, Any]) -> Iterable[str]:
    for where, phase in _phases(tree):
        for key, registry in _NAMED.items():
            name = joined_parts(phase.get(key)) if key == "augment" else phase.get(key)
            if isinstance(name, str) and (name not in registry or "/" in name):
                known, wrong = registry.names(), name
                if key == "augment" and "+" in name:
                    known, wrong = [*PARTS], unknown_parts(name)[0]
                yield must(f"{where}.{key}", f"one of {', '.join(known)}", repr(wrong)) + did_you_mean(
                    wrong, known
                )


def _unsuitable(tree: Mapping[str, Any]) -> Iterable[str]:
    """Arguments that the phase's schedule does not take, and keys that its optimizer does not know."""
    for where, phase in _phases(tree):
        arguments, schedule = phase.get("schedule_args", {}), phase.get("schedule", "cosine")
        if isinstance(arguments, Mapping) and isinstance(schedule, str) and schedule in SCHEDULES:
            for name, what in schedule_problems(schedule, arguments):
                yield f"{where}.schedule_args.{name}: {what}"
        augment = phase.get("augment", "standard")
        in_loader = {*AUGMENTATIONS.names()} - {"none", *BATCHED.names()}
        if phase.get("augment_on") == "device" and isinstance(augment, str) and augment in in_loader:
            yield must(f"{where}.augment_on", f"loader where augment is {augment!r}", "'device'")
        optimizer = phase.get("optimizer", "sgd")
        if isinstance(optimizer, str) and optimizer in OPTIMIZERS:
            asked = (phase.get("betas"), phase.get("eps"), phase.get("decoupled"))
            for key, constraint, got in optimizer_problems(optimizer, *asked):
                yield must(f"{where}.{key}", constraint, got)
            yield from filter(None, [missing_package(optimizer)])


def _missing_stages(tree: Mapping[str, Any], num_stages: int, backbone: str) -> Iterable[str]:
    has = f"{backbone} has {num_stages} stages"
    for where, phase in _phases(tree):
        start = phase.get("train_from")
        if isinstance(start, int) and not isinstance(start, bool) and start > num_stages:
            yield must(
                f"{where}.train_from", f"at most {num_stages} ({has}; {num_stages} is the head alone)", start
            )
        candidates = phase.get("candidates")
        if candidates == []:
            yield must(f"{where}.candidates", "at least one list of stages", "none")
        for j, taps in enumerate(candidates if isinstance(candidates, list) else []):
            key = f"{where}.candidates.{j}"
            if not isinstance(taps, list):
                continue  # the model says so
            if not taps or len(set(map(str, taps))) < len(taps):
                yield must(key, "a list of stages, each once", taps)
            elif any(_whole(tap) and not 0 <= tap < num_stages for tap in taps):
                yield must(key, f"stage numbers in 0..{num_stages - 1} ({has})", taps)


def _order(tree: Mapping[str, Any]) -> Iterable[str]:
    """Validation images that a head was fitted on cannot choose the best epoch afterwards."""
    phases = list(_phases(tree))
    for i, (where, phase) in enumerate(phases):
        later = any(
            other.get("kind") == "gradient" and other.get("fit_on", "train") == "train"
            for _, other in phases[i + 1 :]
        )
        if later and phase.get("kind", "probe") == "probe" and phase.get("fit_on") == "train+val":
            yield must(
                f"{where}.fit_on",
                "train where a later phase trains by gradient steps and is judged by the validation images",
                "'train+val'",
            )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
