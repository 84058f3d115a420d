"""Number format and memory layout of training: measured on this machine, then kept for the whole run.

bf16 is up to three times faster than fp32 where the processor has units for it and several times slower where
it has not; channels_last helps most convolutional networks and hurts some. A few forward and backward passes
tell. The choice is saved with the run, because a resumed run must make the same one, and the speeds are kept on this
machine, because a second run with the same seed should.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.errors import ConfigError, must
from finetune.training.precision_memory import remember, remembered

Dtype = Literal["fp32", "bf16", "fp16"]
TORCH_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SHARE = 0.05
"""Measuring may pass at most this share of the images that the training will."""
_PASSES = 3
"""Of which the first is not counted."""
_CPU_IMAGES = (16, 8)
"""A CPU is busy with few images; more would only take longer. The second where the training is short."""
_MARGIN = 1.03
"""A format must be this much faster than the first candidate to be taken: less is noise."""


@dataclass(frozen=True)
class Precision:
    """What the loop computes in."""

    dtype: Dtype
    channels_last: bool
    reason: str = ""
    images_per_second: dict[str, float] = field(default_factory=dict)
    """Forward and backward together, by candidate; empty where nothing was measured."""

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.dtype}, {layout} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the run folder."""
        return asdict(self)

    def arrange(self, x: Tensor) -> Tensor:
        """Images in the layout the network computes in; (B, C, H, W) -> same, other shapes untouched."""
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last and x.ndim == 4 else x


def choose_precision(
    model: nn.Module,
    forward: Callable[[nn.Module, Tensor], Tensor],
    batch: Tensor,
    *,
    device: torch.device,
    wanted: str,
    channels_last: bool | str,
    images: int,
) -> Precision:
    """The fastest allowed format for forward and backward passes on ``batch``.

    ``forward(model, batch)`` gives the logits. ``images`` is how many the whole training will pass: measuring passes
    at most 5% of that, with fewer candidates and images where the training is short, or nothing is measured. What an
    earlier run measured on this machine is taken over. The model and the random state are left as they were. Raises
    ConfigError for fp16 on a CPU.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError(
            must(
                "train.precision",
                "auto, bf16 or fp32 on a CPU",
                "'fp16'",
                "fp16 needs a GPU's loss scaling and units.",
            )
        )
    dtypes = _formats(device) if wanted == "auto" else [wanted]
    layouts = [True, False] if channels_last == "auto" else [bool(channels_last)]
    if batch.ndim != 4 or not any(isinstance(m, nn.Conv2d) for m in model.modules()):
        layouts = layouts[:1] if channels_last != "auto" else [False]
    candidates = [(dtype, layout) for dtype in dtypes for layout in layouts]
    if len(candidates) == 1:
        return _precision(
            candidates[0], "by the recipe" if wanted != "auto" else "the only sensible one here", {}
        )
    affordable = _affordable(candidates, len(batch), device, images)
    if affordable is None:
        return _precision(_unmeasured(candidates, device), "training is too short to measure others", {})
    candidates, count = affordable
    batch = batch[:count]
    speed = remembered(model, batch, device, [_label(candidate) for candidate in candidates])
    if speed is not None:
        return _fastest(candidates, speed, "measured in an earlier run")
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        speed = _measured(candidates, model, forward, batch, device)
    remember(model, batch, device, speed)
    return _fastest(candidates, speed, f"measured in {time.perf_counter() - started:.1f} s")


def likely_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """What a long training will probably compute in, found out in milliseconds: for estimates of time.

    ``wanted``: the recipe's ``train.precision``.
    """
    return TORCH_DTYPES[_formats(device)[-1] if wanted == "auto" else wanted]


def _affordable(
    candidates: list[tuple[str, bool]], batch: int, device: torch.device, images: int
) -> tuple[list[tuple[str, bool]], int] | None:
    """Which candidates are measured on how many images; None where every way takes too much of the training.

    The format matters more than the layout: in a short training it is tried in the first layout alone.

    >>> four, cpu = [("fp32", True), ("fp32", False), ("bf16", True), ("bf16", False)], torch.device("cpu")
    >>> _affordable(four, 64, cpu, 10_000) == (four, 16)
    True
    >>> _affordable(four, 64, cpu, 2_000)
    ([('fp32', True), ('bf16', True)], 16)
    >>> _affordable(four, 64, cpu, 1_000)
    ([('fp32', True), ('bf16', True)], 8)
    >>> _affordable(four, 64, cpu, 900)
    """
    formats = [candidate for candidate in candidates if candidate[1] == candidates[0][1]]
    counts = [min(count, batch) for count in _CPU_IMAGES] if device.type == "cpu" else [batch]
    for tried, count in ((candidates, counts[0]), *((formats, count) for count in counts)):
        if len(tried) > 1 and len(tried) * _PASSES * count <= _SHARE * images:
            return tried, count
    return None


def _measured(
    candidates: list[tuple[str, bool]],
    model: nn.Module,
    forward: Callable[[nn.Module, Tensor], Tensor],
    batch: Tensor,
    device: torch.device,
) -> dict[str, float]:
    """Images per second of each candidate."""
    trial = copy.deepcopy(model).train()
    return {
        _label(candidate): len(batch)
        / _time_step(trial, forward, batch, device, _precision(candidate, "", {}))
        for candidate in candidates
    }


def _fastest(candidates: list[tuple[str, bool]], speed: dict[str, float], how: str) -> Precision:
    """The fastest, but the first where the others are no more than noise faster."""
    best = max(candidates, key=lambda c: speed[_label(c)])
    plain = candidates[0]
    if speed[_label(best)] < _MARGIN * speed[_label(plain)]:
        best = plain
    figures = ", ".join(f"{name} {value:.0f}" for name, value in speed.items())
    return _precision(best, f"{how}, images/s: {figures}", speed)


def _time_step(
    model: nn.Module,
    forward: Callable[[nn.Module, Tensor], Tensor],
    batch: Tensor,
    device: torch.device,
    precision: Precision,
) -> float:
    """Least seconds of a forward and backward pass."""
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    inputs = precision.arrange(batch) if precision.channels_last else batch.contiguous()
    best = float("inf")
    # On a busy machine the wall clock measures the neighbours; processor time does not.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for number in range(_PASSES):
        _synchronise(device)
        started = clock()
        dtype = TORCH_DTYPES[precision.dtype]
        with torch.autocast(device.type, dtype=dtype, enabled=precision.dtype != "fp32"):
            loss = forward(model, inputs).float().square().mean()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        _synchronise(device)
        if number:
            best = min(best, clock() - started)
        model.zero_grad(set_to_none=True)
    return best


def _formats(device: torch.device) -> list[str]:
    """fp32 first; reduced formats that are worth a try on this device."""
    if device.type == "cuda":
        return ["fp32", "bf16" if torch.cuda.is_bf16_supported() else "fp16"]
    if device.type == "mps":
        return ["fp32"]
    return ["fp32", "bf16"] if _bf16_convolution_pays() else ["fp32"]


@functools.cache
def _bf16_convolution_pays() -> bool:
    """One convolution of a usual size in both formats: milliseconds that save seconds of trials."""
    seconds = {}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for dtype in (torch.float32, torch.bfloat16):
            layer = nn.Conv2d(64, 64, 3, padding=1, dtype=dtype).to(memory_format=torch.channels_last)
            x = torch.randn(8, 64, 16, 16).to(dtype).contiguous(memory_format=torch.channels_last)
            times = []
            for _ in range(4):
                started = time.perf_counter()
                layer(x)
                times.append(time.perf_counter() - started)
            seconds[dtype] = min(times)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def _unmeasured(candidates: list[tuple[str, bool]], device: torch.device) -> tuple[str, bool]:
    """On a GPU the reduced format is safe to assume, in the first layout; on a CPU it is not.

    >>> _unmeasured([("fp32", True), ("fp32", False), ("bf16", True), ("bf16", False)], torch.device("cuda"))
    ('bf16', True)
    >>> _unmeasured([("fp32", False), ("bf16", False)], torch.device("cuda"))
    ('bf16', False)
    >>> _unmeasured([("fp32", False), ("bf16", False)], torch.device("cpu"))
    ('fp32', False)
    """
    dtype = candidates[-1 if device.type == "cuda" else 0][0]
    return next(candidate for candidate in candidates if candidate[0] == dtype)


def _precision(candidate: tuple[str, bool], reason: str, speed: dict[str, float]) -> Precision:
    dtype, channels_last = candidate
    return Precision(dtype, channels_last, reason, speed)  # type: ignore[arg-type]


def _label(candidate: tuple[str, bool]) -> str:
    return f"{candidate[0]} {'channels_last' if candidate[1] else 'contiguous'}"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
