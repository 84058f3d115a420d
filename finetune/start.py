"""When the command began: what ``--time`` counts from, the imports included."""

from __future__ import annotations

import os
import time

KEY = "FINETUNE_BEGAN"
"""Environment variable by which a command tells the processes that it starts when it began itself."""

_LONGEST = 600.0
"""A process that seems to have waited longer than this before its first line was measured wrongly."""

_marked: float | None = None


def mark() -> None:
    """This process is a command: it began when the system started it, or the command that started it did."""
    global _marked
    given = os.environ.pop(KEY, None)
    try:
        _marked = time.monotonic() - _age() if given is None else float(given)
    except ValueError:
        _marked = time.monotonic()


def began() -> float:
    """The ``time.monotonic()`` at which the command began; now, where this process is none (a notebook)."""
    return time.monotonic() if _marked is None else _marked


def _age() -> float:
    """Seconds since the system started this process; 0 where it does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
    return age if 0 <= age < _LONGEST else 0.0
