"""How much memory decoded images may take, and making many small objects without a search for garbage."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

from finetune import ranks

MEBI = 2**20
BYTES_A_PIXEL = 4
"""Of a decoded RGB image: Pillow pads every pixel to four bytes."""


def available_memory() -> int:
    """Bytes that can be taken now without swapping, bounded by the container's limit; 2 GiB where unknown."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        found.append(2048 * MEBI)
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        found.append(found[0] if found else 2048 * MEBI)
    return max(64 * MEBI, min(found, default=2048 * MEBI))


def budget(most: int, share: float) -> int:
    """At most ``most`` bytes and at most ``share`` of what is available; processes on one machine divide that."""
    return min(most, int(available_memory() * share)) // ranks.local_world()


@contextlib.contextmanager
def unswept() -> Iterator[None]:
    """No search for cycles of garbage while many small objects are made, none of which is garbage: it would go through
    all of them again and again, for a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
