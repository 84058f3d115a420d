"""Fully sharded training: each process holds a share of every weight, gradient and optimizer tensor (FSDP).

Zhao et al. 2023, https://arxiv.org/abs/2304.11277; torch's ``fully_shard`` does it. A stage's weights are put
together while the stage computes, so that a process needs room for its share of the network and one stage. What is
saved is whole, and knows nothing of shares: a checkpoint or model of a sharded training is like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finetune import ranks
from finetune.errors import ConfigError, must
from finetune.recipe import Recipe
from finetune.solvers import is_decoupled
from finetune.strategy.plan import GradientPhase, Plan, join_problems
from finetune.training.precision import Precision
from finetune.zoo.backbone import Backbone

_OPTIMIZERS = ("sgd", "adagrad", "rmsprop", "adam", "adamw", "amsgrad", "radam", "nadam")
"""torch's own, which compute with shares."""


def sharding(recipe: Recipe) -> bool:
    """Whether gradient phases are sharded: asked for, and by several processes."""
    return recipe.train.shard and not ranks.alone()


def refuse_with_shard(plan: Plan, recipe: Recipe) -> None:
    """Raises ConfigError with every key that sharded training cannot be combined with, each named once."""
    found = [_problem(key, wanted, got) for key, wanted, got in _of_recipe(recipe)]
    for phase in plan.phases:
        if isinstance(phase, GradientPhase):
            found += [_problem(key, wanted, got) for key, wanted, got in _of_phase(phase)]
    if found:
        raise ConfigError(join_problems(list(dict.fromkeys(found)), "the recipe"))


def _problem(key: str, wanted: str, got: object) -> str:
    return must(key, f"{wanted} with train.shard", repr(got)).rstrip()


def _of_recipe(recipe: Recipe) -> Iterable[tuple[str, str, object]]:
    train = recipe.train
    if train.precision == "fp16":
        yield "train.precision", "auto, fp32 or bf16", train.precision
    if train.channels_last is True:
        yield "train.channels_last", "auto or false", True
    if recipe.budget is not None:
        yield "budget", "left out", recipe.budget


def _of_phase(phase: GradientPhase) -> Iterable[tuple[str, str, object]]:
    for key in ("ema", "swa", "snapshots"):
        if getattr(phase, key) is not None:
            yield f"train.{key}", "null", getattr(phase, key)
    for key in ("l1", "l2_sp"):
        if getattr(phase, key):
            yield f"train.{key}", "0", getattr(phase, key)
    if phase.find_lr:
        yield "train.lr", "a number", "auto"
    if phase.micro_batch is not None:
        yield "train.batch_size", "a number", phase.micro_batch
    if phase.trains == "lora":
        yield "strategy", "another one", "lora"
    if phase.optimizer not in _OPTIMIZERS:
        yield "train.optimizer", f"one of {', '.join(_OPTIMIZERS)}", phase.optimizer
    elif phase.optimizer == "sgd" and is_decoupled("sgd", phase.decoupled):
        yield "train.decoupled", "null or false with sgd and", True


def precision_of(recipe: Recipe, device: torch.device) -> Precision:
    """What a sharded phase computes in; nothing is measured, since the whole network may not fit."""
    wanted = recipe.train.precision
    if wanted == "auto":
        fits = device.type == "cuda" and torch.cuda.is_bf16_supported()
        wanted = "bf16" if fits else "fp32"
    return Precision(wanted, False, "by the recipe" if recipe.train.precision != "auto" else "not measured")


def sharded_copy(backbone: Backbone, device: torch.device) -> Backbone:
    """A copy of the network of which this process holds a share; the original moves to the CPU."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.world(),))
    network = copy.deepcopy(backbone.to("cpu"))  # a device gets one stage after the other, and keeps a share
    names = stage_modules(network)
    for name in names:
        fully_shard(network.model.get_submodule(name), mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


@torch.no_grad()
def stage_modules(backbone: Backbone) -> list[str]:
    """Names in ``model`` of the outermost blocks that lie in a single stage and are called as a whole.

    What is in none of them (a stem's single layers, a class token, the head) is held together by the root.
    """
    called: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: called.add(name))
        for name, module in backbone.model.named_modules()
    ]
    mode, side = backbone.training, backbone.preprocessing.size
    try:
        backbone.eval()(torch.zeros(1, 3, side, side))
    finally:
        backbone.train(mode)
        for handle in handles:
            handle.remove()
    found: list[str] = []
    for name, module in backbone.model.named_modules():  # outer ones first
        if name not in called or not name or not any(True for _ in module.children()):
            continue
        if any(name.startswith(f"{outer}.") for outer in found):
            continue
        places = [f"{name}.{inner}".rpartition(".")[0] for inner, _ in module.named_parameters()]
        if places and len({backbone.stage_of(place) for place in places}) == 1:
            found.append(name)
    return found


def gathered(backbone: Backbone, plain: Backbone, device: torch.device) -> Backbone:
    """The whole network again: ``plain``, with the weights of its sharded copy. All processes must call it."""
    plain.load_state_dict(whole(backbone.state_dict()))
    return plain.to(device)


def whole(tree: Any) -> Any:
    """Nested lists and mappings with every sharded tensor put together, on the CPU; all processes must call it.

    Everything else is the same object as before.
    """
    if _divided(tree):
        return tree.detach().full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {key: whole(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(whole(value) for value in tree)
    return tree


def put(live: Tensor, tensor: Tensor) -> None:
    """Copy a whole tensor into a tensor of which this process may hold a share."""
    if not _divided(live):
        live.copy_(tensor)
        return
    own: Tensor = live.to_local()  # type: ignore[attr-defined]  # fully_shard divides by rows
    start = ranks.rank() * -(-len(tensor) // ranks.world())
    own.copy_(tensor[start : start + len(own)])


def shared_out(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A whole optimizer state, as ``load_state_dict`` wants it where parameters are divided."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not is_sharded(parameters):
        return state

    def divided(parameter: nn.Parameter, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.ndim:
            return value
        like = torch.empty_like(parameter.detach(), dtype=value.dtype)
        put(like, value)
        return like

    places = [i for group in state["param_groups"] for i in group["params"]]
    kept = {
        place: {key: divided(parameter, value) for key, value in state["state"][place].items()}
        for place, parameter in zip(places, parameters, strict=True)
        if place in state["state"]
    }
    return {**state, "state": kept}


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite; of divided tensors, in every process."""
    own = [t.to_local() if _divided(t) else t for t in tensors]  # type: ignore[attr-defined]
    broken = not all(bool(torch.isfinite(t).all()) for t in own)
    return not ranks.any_of(broken)[0]


def is_sharded(tensors: Sequence[Tensor]) -> bool:
    """Whether any is divided."""
    return any(_divided(tensor) for tensor in tensors)


def _divided(value: object) -> bool:
    """Whether it is a DTensor; importing that class takes longer than a small training's first batch."""
    return hasattr(value, "full_tensor")
