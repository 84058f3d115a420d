"""Where the stages of an architecture begin and end, from input to head."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from finetune.errors import ZooError, must
from finetune.zoo.trace import Call, first_tensor, flat_chain

# Architectures of torchvision whose stages do not show as drops in resolution along a chain of modules.
_TORCHVISION_TAPS = (
    (r"vit_.*", r"encoder\.layers\.encoder_layer_\d+"),
    (r"(swin|convnext)_.*", r"features\.[01357]"),
    (r"maxvit_.*", r"blocks\.\d+"),
)
_BLOCK = re.compile(r"(?P<column>.*[a-z])[._]?(?P<index>\d+)")
_STACK = re.compile(r"(stages|layers|blocks|encoder_layer)[._]\d+$")
_GROUPS = 4
"""A plain column of equal blocks (ViT) is cut into as many stages as a convolutional net has."""


@dataclass(frozen=True)
class Tap:
    """Where a stage's feature vector is read."""

    module: str
    side: str
    """"output" of the module, or "input" (the end of a stem that is no module of its own)."""
    layout: str
    """NCHW, NHWC, NLC (tokens) or NC."""
    skip_tokens: int = 0
    """Class and register tokens that lead an NLC sequence."""

    def pool(self, h: Tensor) -> Tensor:
        """(N, C) mean over positions."""
        if self.layout == "NCHW":
            return h.mean((2, 3))
        if self.layout == "NHWC":
            return h.mean((1, 2))
        if self.layout == "NLC":
            return h[:, self.skip_tokens :].mean(1)
        return h


@contextmanager
def captured(model: nn.Module, taps: tuple[Tap, ...], stages: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """Pooled feature vectors, by stage, of whatever runs inside; the last has no tap and is left out."""
    found: dict[int, Tensor] = {}
    handles = []
    for stage in stages:
        if stage < len(taps):
            module = model.get_submodule(taps[stage].module)
            if taps[stage].side == "input":
                handles.append(module.register_forward_pre_hook(_keep_input(found, stage, taps[stage])))
            else:
                handles.append(module.register_forward_hook(_keep_output(found, stage, taps[stage])))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(
    found: dict[int, Tensor], stage: int, tap: Tap
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        found.setdefault(stage, tap.pool(args[0]))

    return hook


def _keep_output(found: dict[int, Tensor], stage: int, tap: Tap) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        tensor = first_tensor(output)
        assert tensor is not None
        found.setdefault(stage, tap.pool(tensor))

    return hook


@dataclass(frozen=True)
class Layout:
    """The stages of one network."""

    names: tuple[str, ...]
    taps: tuple[Tap, ...]
    """One per stage but the last, whose feature vector is the embedding itself."""
    widths: tuple[int, ...]
    """Length of each stage's feature vector."""
    ends: tuple[float, ...]
    """Time at which each stage but the last ends, on the clock of the trace."""
    starts: dict[str, int]
    """Time of entry of every module that ran."""

    def stage_of(self, module: str) -> int:
        """Stage of a module, by the time it first ran; one that never ran goes with its parent."""
        while module not in self.starts:
            module = module.rpartition(".")[0]
        return bisect_right(self.ends, self.starts[module])


@dataclass(frozen=True)
class _Mark:
    """The end of a stage before its tensor has been looked at."""

    name: str
    module: str
    side: str = "output"
    channels: int | None = None

    def time(self, calls: dict[str, Call]) -> int:
        return calls[self.module].end if self.side == "output" else calls[self.module].start

    def tensor(self, calls: dict[str, Call]) -> Tensor | None:
        return calls[self.module].output if self.side == "output" else calls[self.module].input


def find_layout(
    model: nn.Module,
    arch: str,
    calls: dict[str, Call],
    embedding: Tensor,
    override: tuple[str, ...] | None = None,
) -> Layout:
    """Cut the network, traced as ``calls``, into stages. Raises ZooError for an ``override`` that never ran.

    Stage ends are a card's own list, timm's ``feature_info``, or the drops in resolution along the chain of
    modules (torchvision). A column of equal blocks becomes four stages; what runs before the first block is
    the stem. What runs after the last end belongs to the last stage, unless it holds several weight matrices
    (fc6 and fc7 of AlexNet and VGG, attention pooling): then it is a stage of its own.
    """
    marks = _override_marks(calls, override) if override else _group(_found_marks(model, arch, calls), calls)
    if marks and override is None:
        entry = _first_of_group(marks[0], calls)
        if not _STACK.search(entry):  # resnet's act1, densenet's norm0: the stem is a mark already
            marks[0] = replace(marks[0], name="stem")
        elif _matrices(model, calls, 0, calls[entry].start):
            marks.insert(0, _Mark("stem", entry, "input"))
    marks = _with_weights(model, calls, marks)
    last = marks[-1].time(calls) if marks else 0
    names = [mark.name for mark in marks]
    if not marks or _matrices(model, calls, last, math.inf) >= 2:
        names.append("neck" if marks else "body")
    else:
        marks = marks[:-1]
    taps, widths = [], []
    for mark in marks:
        tap, width = _tap(model, mark, calls)
        taps.append(tap)
        widths.append(width)
    ends = tuple(float(mark.time(calls)) for mark in marks)
    starts = {name: call.start for name, call in calls.items()}
    return Layout(tuple(names), tuple(taps), (*widths, embedding.shape[1]), ends, starts)


def _override_marks(calls: dict[str, Call], override: tuple[str, ...]) -> list[_Mark]:
    for module in override:
        if module not in calls:
            raise ZooError(must("stages", "names of modules that run in the forward pass", repr(module)))
    return [_Mark(module, module) for module in override]


def _found_marks(model: nn.Module, arch: str, calls: dict[str, Call]) -> list[_Mark]:
    info = getattr(model, "feature_info", None)
    if isinstance(info, list) and info and isinstance(info[0], dict):
        found = [_Mark(str(i["module"]), str(i["module"]), channels=i.get("num_chs")) for i in info]
        found = [mark for mark in found if mark.module in calls]
        if found:
            return sorted(found, key=lambda mark: mark.time(calls))
    for family, pattern in _TORCHVISION_TAPS:
        if re.fullmatch(family, arch):
            return [_Mark(name, name) for name in calls if re.fullmatch(pattern, name)]
    return _resolution_marks(model, calls)


def _resolution_marks(model: nn.Module, calls: dict[str, Call]) -> list[_Mark]:
    """The last module of the chain at each resolution."""
    chain = [c for c in flat_chain(model, calls) if c.output is not None and c.output.ndim == 4]
    chain = [c for c in chain if not isinstance(c.module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))]
    marks: list[_Mark] = []
    for here, after in zip(chain, [*chain[1:], None], strict=True):
        assert here.output is not None
        if after is None or after.output is None or after.output.shape[2:] != here.output.shape[2:]:
            name = _outermost(here, calls, marks[-1].time(calls) if marks else 0)
            marks.append(_Mark(name, name))
    return marks


def _outermost(call: Call, calls: dict[str, Call], since: float) -> str:
    """layer1 rather than layer1.2 where the container began in this stage and gives the same tensor."""
    name = call.name
    while (parent := calls.get(name.rpartition(".")[0])) and parent.name:
        if parent.start < since or parent.output is not call.output:
            break
        name = parent.name
    return name


def _group(marks: list[_Mark], calls: dict[str, Call]) -> list[_Mark]:
    """Blocks of one column with outputs of one shape become _GROUPS marks at even distances."""
    columns = [_BLOCK.fullmatch(mark.module) for mark in marks]
    same = {c["column"] for c in columns if c} if all(columns) else set()
    outputs = [mark.tensor(calls) for mark in marks]
    shapes = {None if h is None else h.shape for h in outputs}
    if len(marks) <= _GROUPS or len(same) != 1 or len(shapes) != 1:
        return marks
    grouped, start = [], 0
    for group in range(_GROUPS):
        stop = round((group + 1) * len(marks) / _GROUPS)
        first, last = marks[start], marks[stop - 1]
        index = _BLOCK.fullmatch(last.module)
        label = first.module if index is None or stop - start == 1 else f"{first.module}-{index['index']}"
        grouped.append(_Mark(label, last.module, channels=last.channels))
        start = stop
    return grouped


def _first_of_group(mark: _Mark, calls: dict[str, Call]) -> str:
    label = mark.name.rsplit("-", 1)[0]
    return label if label in calls else mark.module


def _with_weights(model: nn.Module, calls: dict[str, Call], marks: list[_Mark]) -> list[_Mark]:
    """Stages without parameters join the one before, whose end moves; the first stage absorbs a bare norm."""
    kept: list[_Mark] = []
    since = 0.0
    for mark in marks:
        end = mark.time(calls)
        if end <= since and kept:
            continue
        if _matrices(model, calls, since, end) or not kept:
            kept.append(mark)
        else:
            kept[-1] = _Mark(kept[-1].name, mark.module, mark.side, mark.channels)
        since = end
    return kept


def _matrices(model: nn.Module, calls: dict[str, Call], after: float, before: float) -> int:
    """Weights with two or more dimensions in modules that start running in the open interval."""
    return sum(
        parameter.ndim >= 2
        for name, call in calls.items()
        if name and after < call.start < before
        for parameter in call.module.parameters(recurse=False)
    )


def _tap(model: nn.Module, mark: _Mark, calls: dict[str, Call]) -> tuple[Tap, int]:
    h = mark.tensor(calls)
    if h is None:
        raise ZooError(must(f"stage {mark.name!r}", "a module with a tensor as output", "none"))
    if h.ndim == 2:
        return Tap(mark.module, mark.side, "NC"), h.shape[1]
    if h.ndim == 3:
        tokens = int(getattr(model, "num_prefix_tokens", 0) or 0)
        if type(model).__module__.startswith("torchvision.models.vision_transformer"):
            tokens = 1
        return Tap(mark.module, mark.side, "NLC", tokens), h.shape[2]
    last = getattr(model, "output_fmt", None) == "NHWC" or type(model).__module__.startswith(
        "torchvision.models.swin"
    )
    if mark.channels is not None and h.shape[1] != h.shape[3]:
        last = h.shape[3] == mark.channels
    return Tap(mark.module, mark.side, "NHWC" if last else "NCHW"), h.shape[3 if last else 1]
