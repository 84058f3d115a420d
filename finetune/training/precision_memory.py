"""Speeds of number formats that were measured on this machine, kept between runs.

Two formats may be so close that the clock's noise decides; a second run with the same seed would then compute in
another one than the first and end elsewhere. What was measured once is therefore read back, by everything that a
speed depends on: the network, what of it trains, the batch, the device, the threads and the version of torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from finetune.cache_files import read_shard, shards_of, touch, write_shard
from finetune.errors import RunError
from finetune.runtime import cache_dir

KIND = "formats"
"""The folder of the cache."""


def remembered(
    model: nn.Module, batch: Tensor, device: torch.device, formats: Sequence[str]
) -> dict[str, float] | None:
    """Images per second of each of ``formats``, as an earlier run measured them; None if none did."""
    folder = _folder(model, batch, device, formats)
    for shard in shards_of(folder):
        speeds = read_shard(shard, _read, "Measured speeds of number formats", lambda text: None)
        if speeds is not None and list(speeds) == list(formats):
            touch(shard)
            return speeds
    return None


def remember(model: nn.Module, batch: Tensor, device: torch.device, speeds: dict[str, float]) -> None:
    """Keep what was measured. Where nothing can be written the next run measures again."""
    with contextlib.suppress(RunError):
        write_shard(
            _folder(model, batch, device, list(speeds)),
            {"images_per_second": np.array(list(speeds.values()))},
            {"formats": json.dumps(list(speeds))},
        )


def _read(path: Path) -> dict[str, float]:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names = json.loads((file.metadata() or {})["formats"])
        values = file.get_tensor("images_per_second").tolist()
    if len(names) != len(values) or not all(value > 0 for value in values):
        raise ValueError("a speed for each format was expected")
    return dict(zip(names, values, strict=True))


def _folder(model: nn.Module, batch: Tensor, device: torch.device, formats: Sequence[str]) -> Path:
    network = [(name, list(p.shape), p.requires_grad) for name, p in model.named_parameters()]
    modules = [type(module).__name__ for module in model.modules()]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    told = [network, modules, list(batch.shape), device.type, name, torch.get_num_threads(),
            torch.__version__, list(formats)]  # fmt: skip
    return cache_dir() / KIND / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _processor() -> str:
    """The processor's name: one home folder may serve machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
