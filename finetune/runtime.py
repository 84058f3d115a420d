"""The machine: device, compute threads, seeds, cache folder. accelerate stays behind this door."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from finetune import ranks
from finetune.errors import ConfigError, must
from finetune.version import __version__

if TYPE_CHECKING:
    import torch


def cache_dir() -> Path:
    """$FINETUNE_CACHE, else $XDG_CACHE_HOME/finetune, else ~/.cache/finetune."""
    chosen = os.environ.get("FINETUNE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "finetune"


def choose_device(wanted: str = "auto") -> torch.device:
    """CUDA before MPS before CPU; a device asked for by name must be there. Raises ConfigError.

    Of several processes each takes a GPU of its own where there are enough, else all take the CPU.
    """
    import torch

    if ranks.asked():
        return _device_of_process(wanted)
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ConfigError(must("device", "auto, cpu, cuda, cuda:N or mps", repr(wanted))) from None
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= present.get(device.type, 0):
        raise ConfigError(must("device", "one that this machine has", repr(wanted), "Use device=auto."))
    return device


def _device_of_process(wanted: str) -> torch.device:
    import torch

    count, gpus = ranks.local_world(), torch.cuda.device_count()
    if wanted not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            must(
                "device",
                "auto, cpu or cuda with several processes",
                repr(wanted),
                "Each takes its own GPU.",
            )
        )
    if wanted == "cuda" and gpus < count:
        raise ConfigError(must("device", f"cpu or auto for {count} processes on {gpus} GPU(s)", repr(wanted)))
    return (
        torch.device("cpu") if wanted == "cpu" or gpus < count else torch.device("cuda", ranks.local_rank())
    )


def processes_line(device: torch.device, threads: int) -> str:
    """What several processes compute on, in a sentence."""
    count, here = ranks.world(), ranks.local_world()
    machines = "" if here == count else f", {here} of them on this machine"
    if device.type == "cuda":
        return f"{count} processes{machines}, a GPU each."
    import torch

    gpus = torch.cuda.device_count()
    few = f" ({gpus} GPU{'s are' if gpus > 1 else ' is'} too few)" if 0 < gpus < here else ""
    return f"{count} processes{machines}, on the CPU with {threads} compute thread{'s' * (threads > 1)} each{few}."


def choose_threads(wanted: int | str = "auto") -> int:
    """Compute threads: as many as there are idle cores, at least one.

    More threads than idle cores are not merely useless: they wait for each other at every barrier, and two
    threads on a busy two-core machine were measured up to nine times slower than one. Several processes on this
    machine divide them.
    """
    if wanted != "auto":
        return max(1, int(wanted))
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    idle = min(available_cores(), round(available_cores() - busy_cores()))
    return max(1, idle // ranks.local_world())


def available_cores() -> int:
    """Cores this process may use: its affinity mask, bounded by the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota))) if quota else cores


def _cgroup_quota() -> float | None:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        return None if limit == "max" else max(1.0, int(limit) / int(period))
    except (OSError, ValueError):
        return None


def busy_cores(interval: float = 0.1) -> float:
    """Cores that other processes kept busy during ``interval`` seconds; 0 where it cannot be known."""
    before, after = _cpu_times(), None
    if before is not None:
        mine = time.process_time()
        time.sleep(interval)
        mine, after = time.process_time() - mine, _cpu_times()
    if before is None or after is None:
        return 0.0
    total, idle = after[0] - before[0], after[1] - before[1]
    if total <= 0:
        return 0.0
    return max(0.0, (1 - idle / total) * (os.cpu_count() or 1) - mine / interval)


def _cpu_times() -> tuple[int, int] | None:
    """Total and idle ticks of all cores since boot, Linux only."""
    try:
        with open("/proc/stat") as stat:
            fields = [int(f) for f in stat.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(fields), fields[3] + fields[4]


def configure_threads(count: int) -> None:
    """Set torch's compute threads."""
    import torch

    torch.set_num_threads(count)
    if ranks.asked():  # accelerate would choose a number of its own
        os.environ.setdefault("OMP_NUM_THREADS", str(count))


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for code outside this package that draws from it
    torch.manual_seed(seed)


def environment(device: torch.device | None = None) -> dict[str, object]:
    """What env.json and ``finetune doctor`` report: versions and the machine."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    packages = {"finetune": __version__}  # a checkout on the path is not installed, but has a version
    for name in ("torch", "torchvision", "timm", "accelerate", "pillow", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": available_cores(),
        "device": str(device) if device is not None else None,
        "packages": packages,
    }
