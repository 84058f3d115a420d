"""The search space: recipe keys with ranges or choices, read from text, by default for a plan, and on the grid."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import ConfigError, did_you_mean, must
from finetune.recipe import Recipe, known_keys, read_yaml
from finetune.search.dimension import Dimension, Value, short
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.task import REGRESSION, SINGLE_LABEL, Task

_SPEC = re.compile(r"^\s*(\w+)\s*\((.*)\)\s*$", re.DOTALL)
_KINDS = ("log", "uniform", "int", "choice", "ratio")
_SECTIONS = ("train.", "probe.")
_FIXED = {"train.trackers", "train.avoid", "train.refit", "probe.fit_on", "probe.cache"}
"""Keys of those sections that a sweep sets itself or that change no result."""


def grid(space: Sequence[Dimension], cells: int) -> list[dict[str, Value]]:
    """All combinations of as many points a range as ``cells`` allow, at least two each."""
    choices = math.prod(len(d.choices) for d in space if d.kind == "choice")
    ranges = sum(d.kind != "choice" for d in space)
    count = max(2, math.floor((cells / choices) ** (1 / ranges) + 1e-9)) if ranges else 1
    return [
        dict(zip([d.key for d in space], values, strict=True))
        for values in product(*(d.points(count) for d in space))
    ]


def parse_space(given: str | Path | Mapping[str, Any] | Iterable[str]) -> tuple[Dimension, ...]:
    """From a YAML file, a mapping, or ``KEY=SPEC`` strings and files; a later key replaces an earlier one.

    Raises ConfigError with every problem: keys that no recipe has or that a sweep cannot vary, specs that
    cannot be read, values that the recipe does not allow.
    """
    items: dict[str, Any] = {}
    if isinstance(given, Mapping):
        items = _flat(given)
    else:
        for part in [given] if isinstance(given, (str, Path)) else given:
            text = str(part)
            key, equals, spec = text.partition("=")
            if equals and not Path(text).is_file():
                items[key.strip()] = spec
            else:
                items |= _flat(read_yaml(Path(text), "Search space", "recipe keys with ranges"))
    problems: list[str] = []
    space: dict[str, Dimension] = {}
    for key, spec in items.items():
        try:
            found = _dimension(_full(key), spec)
            _check_values(found)
            space[found.key] = found
        except ConfigError as error:
            problems.append(str(error))
    if not items:
        problems.append(must("The search space", "at least one KEY=SPEC", "nothing"))
    if problems:
        listed = "".join(f"\n  - {p}" for p in problems)
        one = len(problems) == 1
        raise ConfigError(problems[0] if one else f"{len(problems)} problems in the search space:{listed}")
    return tuple(space.values())


def default_space(plan: Plan, task: Task = SINGLE_LABEL) -> tuple[Dimension, ...]:
    """What is worth varying for a plan: rates a decade around its own, regularisation, augmentation; for a head
    alone its kind (where the task has several) and the norms' statistics, and of heads on several stages whether one
    or the mean of the best answers. What the task has no place for is left out."""
    phase = next((p for p in plan.phases if isinstance(p, GradientPhase)), None)
    if phase is None:
        norms = Dimension("probe.norms", "choice", choices=("source", "target"))
        if len(task.solvers) > 1:
            return Dimension("probe.solver", "choice", choices=task.solvers), norms
        several = any(isinstance(p, ProbePhase) and len(p.candidates) > 1 for p in plan.phases)
        combine = Dimension("probe.combine", "choice", choices=("pick", "average"))
        return (norms, combine) if several else (norms,)

    found = [
        Dimension("train.lr", "log", short(phase.lr / 10), short(min(1000.0, phase.lr * 10))),
        Dimension("train.head_lr", "ratio", 1.0, 100.0),
        Dimension("train.weight_decay", "log", 1e-5, 0.1),
        Dimension("train.label_smoothing", "uniform", 0.0, 0.2),
        Dimension("train.augment", "choice", choices=("none", "light", "standard", "strong")),
    ]
    if task == REGRESSION:
        found = [d for d in found if d.key != "train.label_smoothing"]
    if phase.stage_decay < 1:
        found.append(Dimension("train.stage_decay", "uniform", 0.5, 1.0))
    return tuple(found)


def values_of(plan: Plan, recipe: Recipe, space: Sequence[Dimension]) -> dict[str, Value]:
    """Where a recipe and its plan stand in the space: the keys whose value a trial could take."""
    tuned = next((p for p in plan.phases if isinstance(p, GradientPhase)), None)
    head = next((p for p in plan.phases if isinstance(p, ProbePhase)), None)
    found: dict[str, Value] = {}
    for dimension in space:
        section, _, leaf = dimension.key.rpartition(".")
        phase: Any = tuned if section == "train" else head
        value: Any = plan.strategy if dimension.key == "strategy" else getattr(phase, leaf, None)
        if value is None and section:
            value = getattr(getattr(recipe, section), leaf)
        if dimension.kind == "ratio" and tuned is not None:
            value = float(value) / tuned.lr
        if dimension.holds(value):
            found[dimension.key] = value
    return found


def settled(
    recipe: Recipe, values: Mapping[str, Value], space: Sequence[Dimension], lr: float | None
) -> Recipe:
    """The recipe with a trial's values in it. ``lr``: what ratios refer to where no ``train.lr`` is given."""
    tree = recipe.model_dump(exclude_unset=True)
    ratios = {d.key for d in space if d.kind == "ratio"}
    for key in sorted(values, key=lambda key: key in ratios):  # ratios last: they read the learning rate
        section, _, leaf = key.rpartition(".")
        value = values[key]
        if key in ratios:
            given = tree.get("train", {}).get("lr")
            base = lr if given in (None, "auto") else given
            if base is None:
                raise ConfigError(must(f"{key}=ratio(...)", "beside a train.lr", "none"))
            value = float(value) * base  # type: ignore[arg-type]
        if section:
            tree[section] = {**tree.get(section, {}), leaf: value}
        else:
            tree[leaf] = value
    return Recipe.from_mapping(tree, "the trial")


def _full(key: str) -> str:
    """The dotted key. Raises ConfigError for one that there is not or that a sweep cannot vary."""
    known = [k for k in known_keys(Recipe) if k.startswith(_SECTIONS) and k not in _FIXED] + ["strategy"]
    matches = [k for k in known if key in (k, k.rpartition(".")[2])]
    if len(matches) == 1 or key in matches:
        return key if key in matches else matches[0]
    if key in known_keys(Recipe):
        raise ConfigError(
            must(key, "one of the keys of train or probe, or strategy: a sweep cannot vary it", key)
        )
    leaves = [*known, *(k.rpartition(".")[2] for k in known)]
    raise ConfigError(f"{key}: unknown key.{did_you_mean(key, leaves)}")


def _dimension(key: str, spec: Any) -> Dimension:
    if isinstance(spec, (list, tuple)):
        return _choice(key, list(spec))
    match = _SPEC.match(str(spec))
    kind = match.group(1) if match else ""
    if match is None or kind not in _KINDS:
        forms = "log(a,b), uniform(a,b), int(a,b), choice(a,b,...) or ratio(a,b)"
        raise ConfigError(must(key, forms, repr(spec)) + did_you_mean(kind, _KINDS))
    parts = [yaml.safe_load(part) for part in match.group(2).split(",")]
    parts = [_as_number(part) for part in parts]
    if kind == "choice":
        return _choice(key, parts)
    numbers = [p for p in parts if isinstance(p, (int, float)) and not isinstance(p, bool)]
    if len(numbers) != 2 or len(parts) != 2 or not numbers[0] < numbers[1]:
        raise ConfigError(must(key, f"{kind}(a,b) with numbers a < b", repr(spec)))
    if kind in ("log", "ratio") and numbers[0] <= 0:
        raise ConfigError(must(key, f"{kind}(a,b) with a > 0", repr(spec)))
    if kind == "int" and any(n != int(n) for n in numbers):
        raise ConfigError(must(key, "int(a,b) with whole numbers", repr(spec)))
    if kind == "ratio" and not key.endswith("_lr"):
        raise ConfigError(must(key, "a learning rate where ratio(a,b) of train.lr is given", key))
    return Dimension(key, kind, float(numbers[0]), float(numbers[1]))


def _choice(key: str, values: list[Any]) -> Dimension:
    if len(values) < 2 or len({repr(v) for v in values}) < len(values):
        raise ConfigError(must(key, "a choice of at least two different values", values))
    if not all(v is None or isinstance(v, (bool, int, float, str)) for v in values):
        raise ConfigError(must(key, "a choice of numbers, words, true, false or null", values))
    return Dimension(key, "choice", choices=tuple(values))


def _check_values(dimension: Dimension) -> None:
    """Raises ConfigError where the recipe does not allow an end of the range or a choice."""
    if dimension.key == "strategy":
        from finetune.strategy import STRATEGIES

        for name in dimension.choices:
            if name == "auto":
                raise ConfigError(must("strategy", "strategies by name, without auto", "'auto'"))
            STRATEGIES.entry(str(name))
    ends: list[Value] = list(dimension.choices) or [dimension.low, dimension.high]
    if dimension.kind == "int":
        ends = [int(dimension.low), int(dimension.high)]
    if dimension.kind == "ratio":
        return
    for value in ends:
        settled(Recipe(), {dimension.key: value}, (dimension,), None)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys, however the mapping nests them."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _as_number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a word."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
