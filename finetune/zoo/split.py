"""Cutting a network in two at a stage boundary, so that what is frozen below need run only once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from finetune.zoo.stages import Tap
from finetune.zoo.trace import Call, flat_chain

FLATTEN = "<flatten>"


class Reached(Exception):
    """Ends a forward pass early; carries the activations."""

    def __init__(self, value: Tensor) -> None:
        super().__init__("reached")
        self.value = value


@dataclass(frozen=True)
class Cut:
    """The rest of the network after a cut, as a chain of modules."""

    entry: str
    """The module that the activations enter; "" where they leave ``forward_features``."""
    chain: tuple[str, ...]
    """Modules to call one after the other, with FLATTEN between some."""
    timm_style: bool
    """Finish with ``forward_head(pre_logits=True)``."""


def find_cuts(
    model: nn.Module, calls: dict[str, Call], ends: tuple[float, ...], body_output: Any, *, timm_style: bool
) -> dict[int, Cut]:
    """Cuts by stage, where behind the boundary each module takes exactly the output of the one before.

    That is seen in the trace: the very same tensor object leaves one module and enters the next, nothing
    else goes in (no skip connection, no position table), up to the end of the body.
    """
    chain = flat_chain(model, calls)
    if timm_style:
        last = next((i for i, call in enumerate(chain) if call.output is body_output), None)
        if last is None:
            return {}
        chain = chain[: last + 1]
    cuts = {}
    for stage, end in enumerate(ends, start=1):
        if any(call.start < end < call.end for call in chain):
            continue
        rest = [call for call in chain if call.start >= end]
        steps = _linked(rest)
        if timm_style and not rest:
            cuts[stage] = Cut("", (), timm_style)
            continue
        if not rest or steps is None:
            continue
        final = rest[-1].output
        if not timm_style and (final is None or _link(final, body_output) is None):
            continue
        cuts[stage] = Cut(rest[0].name, tuple(steps), timm_style)
    return cuts


def run_tail(model: nn.Module, cut: Cut, h: Tensor) -> Any:
    """Activations entering the cut -> embedding."""
    for name in cut.chain:
        h = h.flatten(1) if name == FLATTEN else model.get_submodule(name)(h)
    if cut.timm_style:
        return model.forward_head(h, pre_logits=True)  # type: ignore[operator]
    return h


def inside(tap: Tap, cut: Cut) -> Tap:
    """The tap on a module that runs behind the cut: the chain calls the parts of a stage, not the stage itself.

    A tap that cannot be read behind the cut comes back as it is.
    """
    if any(step == tap.module or tap.module.startswith(f"{step}.") for step in cut.chain):
        return tap
    parts = [step for step in cut.chain if step.startswith(f"{tap.module}.")]
    return replace(tap, module=parts[0 if tap.side == "input" else -1]) if parts else tap


def _linked(rest: list[Call]) -> list[str] | None:
    steps: list[str] = []
    previous: Tensor | None = None
    for call in rest:
        if not call.simple or call.input is None or call.output is None:
            return None
        if previous is not None:
            link = _link(previous, call.input)
            if link is None:
                return None
            steps.extend(link)
        steps.append(call.name)
        previous = call.output
    return steps


def _link(left: Tensor, right: Tensor) -> list[str] | None:
    """What stands between two tensors: nothing, a flattening, or something that cannot be repeated (None)."""
    if left is right:
        return []
    same = left.data_ptr() == right.data_ptr() and left.numel() == right.numel()
    return [FLATTEN] if same and right.ndim == 2 else None
