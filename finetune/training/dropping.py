"""Parts of the network that are left out at random while it trains: features, head weights, residual blocks.

Nothing of it stays: the modules and hooks that do it are put in for a phase and taken out after it, no name in
the network's state changes, and in eval mode they do nothing. The random numbers are torch's own, whose state
is part of every checkpoint.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from finetune.strategy.plan import GradientPhase

if TYPE_CHECKING:
    from finetune.zoo.backbone import Backbone

_PLACE = re.compile(r"drop_path\d*")
"""What timm calls the place of stochastic depth in a block; an Identity or None where it was built without."""


@contextlib.contextmanager
def dropping(backbone: Backbone, phase: GradientPhase, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block the network drops what the phase asks for; afterwards it is as it was before.

    ``say`` is told where stochastic depth acts, or that the network has no place for it.
    """
    with contextlib.ExitStack() as undo:
        if phase.dropout:
            handle = backbone.head.register_forward_pre_hook(_drop_features(phase.dropout))
            undo.callback(handle.remove)
        if phase.drop_connect:
            for layer in backbone.head.modules():
                if isinstance(layer, nn.Linear):
                    undo.callback(layer.register_forward_hook(_drop_weights(phase.drop_connect)).remove)
        if phase.drop_path:
            places = residual_places(backbone.model)
            undo.callback(_restore, places)
            rates = set_rates(places, phase.drop_path)
            say(_told(backbone, phase.drop_path, len(rates)))
        yield


def residual_places(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """(block, attribute, what is there) of each place where a residual branch may be dropped, input to head."""
    places = []
    for module in model.modules():
        # Blocks that change the size have no path around them, but some have the place all the same.
        if not getattr(module, "has_skip", True) or not getattr(module, "use_res_connect", True):
            continue
        for name in dict.fromkeys([*module._modules, *vars(module)]):
            there = getattr(module, name, None)
            empty = _PLACE.fullmatch(name) and (there is None or isinstance(there, nn.Identity))
            if empty or type(there).__name__ in ("DropPath", "StochasticDepth"):
                places.append((module, name, there))
    return places


def set_rates(places: list[tuple[nn.Module, str, Any]], last: float) -> list[float]:
    """Put stochastic depth into every place, its rate rising linearly from 0 to ``last``; one rate a block.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382, section 3, as timm counts it.
    """
    from timm.layers.drop import DropPath

    blocks = list(dict.fromkeys(id(block) for block, _, _ in places))
    rates = [last * (i / (len(blocks) - 1)) if len(blocks) > 1 else last for i in range(len(blocks))]
    for block, name, there in places:
        rate = rates[blocks.index(id(block))]
        # Also in place of a module that is there already: its own rate need not be remembered.
        made = type(there)(rate, there.mode) if type(there).__name__ == "StochasticDepth" else DropPath(rate)
        setattr(block, name, made.train(block.training))
    return rates


def _restore(places: list[tuple[nn.Module, str, Any]]) -> None:
    for block, name, there in places:
        if there is None:
            delattr(block, name)  # else the module would be hidden behind None
        setattr(block, name, there if there is None else there.train(block.training))


def _drop_features(rate: float) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (F.dropout(args[0], rate, module.training), *args[1:])

    return hook


def _drop_weights(rate: float) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
    """Wan et al. 2013, with one mask for the batch instead of one an image, scaled up while training."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not module.training:
            return None
        assert isinstance(module, nn.Linear)
        return F.linear(args[0], F.dropout(module.weight, rate), module.bias)

    return hook


def _told(backbone: Backbone, rate: float, blocks: int) -> str:
    if not blocks:
        return (
            f"Stochastic depth: {backbone.name} has no residual blocks to skip; train.drop_path does nothing."
        )
    return f"Stochastic depth: {blocks} residual blocks, skipped with probability 0 to {rate:g} from first to last."
