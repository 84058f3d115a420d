"""The optimizers and schedules by name, and what must be known of them before any of their code is imported."""

from __future__ import annotations

import importlib.util
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, create_model

from finetune.errors import did_you_mean, missing_extra
from finetune.registry import Registry

OPTIMIZERS: Registry[Any] = Registry("optimizer")
"""Functions ``(groups, phase) -> torch.optim.Optimizer``."""
for _name, _does in {
    "sgd": "stochastic gradient descent with (Nesterov) momentum; momentum=0 is plain SGD",
    "adagrad": "AdaGrad: each number's rate falls with the sum of its squared gradients",
    "rmsprop": "RMSProp: AdaGrad that forgets",
    "adam": "Adam, weight decay as L2 in the gradient",
    "adamw": "Adam with decoupled weight decay",
    "amsgrad": "Adam whose second moment never falls",
    "radam": "rectified Adam: needs no warm-up",
    "nadam": "Adam with Nesterov momentum",
    "adabelief": "Adam scaled by how far gradients are from their mean",
    "diffgrad": "Adam slowed where the gradient does not change (extra `optimizers`)",
    "lion": "signs of momentum only",
    "muon": "orthogonal steps for the hidden kernels, SGD for the rest",
    "adam-then-sgd": "AdamW for a share of the steps, then SGD",
}.items():
    _target = "finetune.training.optim" if _name in ("sgd", "adamw") else "finetune.training.optimizers"
    _target = "finetune.training.muon" if _name == "muon" else _target
    OPTIMIZERS.add(_name, f"{_target}:{_name.replace('-', '_')}", _does)

SCHEDULES: Registry[Any] = Registry("schedule")
"""Functions ``(steps, warmup, **arguments) -> (step -> factor on the peak learning rate)``."""
for _name, _does in {
    "cosine": "linear warm-up, then half a cosine down to 0",
    "constant": "linear warm-up, then the peak",
    "step": "times gamma at each milestone",
    "exponential": "the same factor each step, down to `end`",
    "inverse-time": "1 / (1 + k t), down to `end`",
    "linear-to-tau": "linearly down to `end` at the share `tau` of the steps, then level",
    "one-cycle": "up for the share `rise`, then down to almost nothing",
    "cyclic": "triangles between `low` and the peak (CLR)",
    "sgdr": "cosines with warm restarts, each `multiplier` times as long as the one before",
    "plateau": "times `factor` after `patience` epochs without improvement",
}.items():
    SCHEDULES.add(_name, f"finetune.training.schedule:{_name.replace('-', '_')}", _does)

RISES_BY_ITSELF = frozenset({"one-cycle", "cyclic"})
"""Schedules that begin low, so that a warm-up is only added where it is asked for."""

_EXTRAS = {"diffgrad": ("pytorch_optimizer", "pytorch-optimizer", "optimizers")}
"""optimizer -> (module, package, extra) of those that are not in torch or timm."""


@dataclass(frozen=True)
class Kind:
    """What an optimizer is like. The defaults are those of Adam's kin, and of plugins."""

    below_sgd: float = 100.0
    """SGD's usual learning rate over this one's."""
    betas: bool = True
    """Whether it has two decay rates."""
    eps: bool = True
    """Whether it adds a small number to a denominator."""
    decay: Literal["l2", "decoupled", "either"] = "either"
    """How weights can decay: added to the gradient, apart from it, or both ways."""
    decoupled: bool = True
    """The way where both exist and the recipe is silent."""


_KINDS = {
    "sgd": Kind(1, betas=False, eps=False, decoupled=False),
    "adagrad": Kind(10, betas=False, decay="l2", decoupled=False),
    "rmsprop": Kind(betas=False, decay="l2", decoupled=False),
    "adam": Kind(decoupled=False),
    "adamw": Kind(decay="decoupled"),
    "lion": Kind(1000, eps=False, decay="decoupled"),
    "muon": Kind(1, betas=False, eps=False, decay="l2", decoupled=False),
    "adam-then-sgd": Kind(decay="decoupled"),
}


def kind(optimizer: str) -> Kind:
    """What is known of an optimizer; Adam's kin where nothing is.

    >>> kind("lion").below_sgd, kind("radam").decoupled
    (1000, True)
    """
    return _KINDS.get(optimizer, Kind())


def translated_lr(lr: float, source: str, target: str) -> float:
    """A learning rate of one optimizer as another's: Adam's are about a hundredth of SGD's, Lion's a tenth of Adam's.

    >>> translated_lr(0.1, "sgd", "adamw"), translated_lr(0.1, "sgd", "lion"), translated_lr(1e-3, "adamw", "sgd")
    (0.001, 0.0001, 0.1)
    """
    return lr * kind(source).below_sgd / kind(target).below_sgd


def default_weight_decay(optimizer: str, decoupled: bool | None) -> float:
    """1e-4 as L2; decoupled .05 at Adam's rates, and in proportion where rates are smaller.

    A decoupled decay shrinks a weight by the learning rate times this, so it grows as rates fall.

    >>> [default_weight_decay(name, None) for name in ("sgd", "adamw", "lion", "adam", "radam")]
    [0.0001, 0.05, 0.5, 0.0001, 0.05]
    """
    return 0.05 * kind(optimizer).below_sgd / 100 if is_decoupled(optimizer, decoupled) else 1e-4


def is_decoupled(optimizer: str, asked: bool | None) -> bool:
    """Whether weights decay apart from the gradient (arXiv 1711.05101): as asked, else the optimizer's own way."""
    return kind(optimizer).decoupled if asked is None else asked


def optimizer_problems(
    optimizer: str, betas: object = None, eps: object = None, decoupled: bool | None = None
) -> list[tuple[str, str, object]]:
    """(key, what it must be, what was given) of each key that does not suit the optimizer."""
    has, found = kind(optimizer), list[tuple[str, str, object]]()
    if betas is not None and not has.betas:
        found.append(("betas", f"left out: {optimizer} has no betas", betas))
    if eps is not None and not has.eps:
        found.append(("eps", f"left out: {optimizer} has no eps", eps))
    if decoupled is not None and has.decay != "either" and decoupled is not (has.decay == "decoupled"):
        way = {"l2": "as L2 in the gradient", "decoupled": "decoupled"}[has.decay]
        found.append(("decoupled", f"left out: weight decay of {optimizer} is {way} only", decoupled))
    return found


def missing_package(optimizer: str) -> str | None:
    """The message for an optimizer whose package is not installed, or None."""
    module, package, extra = _EXTRAS.get(optimizer, ("", "", ""))
    if not module or importlib.util.find_spec(module) is not None:
        return None
    return missing_extra(f"The optimizer {optimizer}", package, extra)


def schedule_problems(schedule: str, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(argument, what is wrong) of each argument that the schedule does not take as it is.

    >>> schedule_problems("step", {"gama": 0.1})
    [('gama', 'unknown argument of step, which takes milestones, gamma. Did you mean "gamma"?')]
    >>> schedule_problems("exponential", {"end": 2})
    [('end', 'must be less than 1. Got 2 instead.')]
    """
    takes = _arguments(schedule)
    fields = {name: (annotation, default) for name, (annotation, default) in takes.items()}
    model = create_model(schedule, __config__=ConfigDict(extra="forbid"), **fields)  # type: ignore[call-overload]
    try:
        model.model_validate(dict(arguments))
    except ValidationError as error:
        # Where every item of a list is wrong, pydantic counts the right ones and finds too few.
        items = [i for i in error.errors() if not (i["type"] == "too_short" and i["input"])]
        return [_problem(schedule, list(takes), item) for item in items]
    return []


def schedule_arguments(schedule: str) -> dict[str, Any]:
    """The arguments that a schedule takes, with their defaults."""
    return {name: default for name, (_, default) in _arguments(schedule).items()}


def _arguments(schedule: str) -> dict[str, tuple[Any, Any]]:
    function = SCHEDULES.get(schedule)
    hints = typing.get_type_hints(function, include_extras=True)
    return {
        name: (hints[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _problem(schedule: str, takes: list[str], item: Any) -> tuple[str, str]:
    name = str(item["loc"][0])
    if item["type"] == "extra_forbidden":
        known = f"takes {', '.join(takes)}" if takes else "takes none"
        return name, f"unknown argument of {schedule}, which {known}.{did_you_mean(name, takes)}"
    message = item["msg"].replace("Input should be", "must be").rstrip(".")
    return name, f"{message}. Got {item['input']!r} instead."
