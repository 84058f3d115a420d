"""One small forward pass, written down: which module ran when, what went in and what came out.

Everything that this room must know about an architecture (its stages, which parameters belong to which,
where it can be cut, which batch norm follows which convolution) is read from that record, so that no
architecture needs code of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Call:
    """The first call of one module."""

    name: str
    module: nn.Module
    start: int
    """Time of entry; entries and exits share one clock, so that all times differ."""
    end: int
    """Time of exit."""
    input: Tensor | None
    output: Tensor | None
    simple: bool = True
    """Ran once, with one tensor in and one tensor out: it can be called again on its own."""


def first_tensor(value: Any) -> Tensor | None:
    """The tensor itself, or the first one of a tuple or list."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    return None


def trace(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> dict[str, Call]:
    """Run ``run(x)`` in eval mode without gradients; calls by module name, in order of entry.

    Modules that did not run are absent. The root is there under the name "". Training modes are restored.
    """
    calls: dict[str, Call] = {}
    clock = 0
    modes = {module: module.training for module in model.modules()}
    handles = []

    def tick() -> int:
        nonlocal clock
        clock += 1
        return clock

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name in calls:
                calls[name].simple = False
                return
            given = [*args, *(v for v in kwargs.values() if v is not None and v is not False)]
            simple = len(given) == 1 and isinstance(given[0], Tensor) and bool(args)
            calls[name] = Call(name, module, tick(), -1, first_tensor(given), None, simple)

        return hook

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if calls[name].end < 0:
                calls[name].end, calls[name].output = tick(), first_tensor(output)
                calls[name].simple &= isinstance(output, Tensor)

        return hook

    calls[""] = Call("", model, 0, -1, x, None)
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(leave(name)))
    try:
        model.eval()
        with torch.no_grad():
            calls[""].output = first_tensor(run(x))
        calls[""].end = tick()
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return {name: call for name, call in calls.items() if call.end > 0}


def flat_chain(model: nn.Module, calls: dict[str, Call]) -> list[Call]:
    """The calls one level below the root, with Sequentials and uncalled containers opened, in order."""
    found: list[Call] = []

    def descend(module: nn.Module, prefix: str) -> None:
        for child_name, child in module.named_children():
            name = f"{prefix}{child_name}"
            plain = type(child).forward is nn.Sequential.forward
            if plain or (name not in calls and any(True for _ in child.children())):
                descend(child, f"{name}.")
            elif name in calls:
                found.append(calls[name])

    descend(model, "")
    return sorted(found, key=lambda call: call.start)
