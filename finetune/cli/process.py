"""How the process of a command begins and ends: what takes seconds there, and gives a program that ends nothing."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

_THRESHOLDS = (20_000, 10, 10)
"""New objects before the garbage collector looks again. torch, timm and torchvision bring a million that stay, and
with Python's 700 a quarter of the time in which they are imported goes to looking at them."""
_KEPT = 1 << 30
"""Bytes that the C library keeps for the next step instead of giving them back, and asking for them anew."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of these settings in glibc's malloc.h."""


def carry_out(command: Callable[[], object]) -> NoReturn:
    """Call ``command``, then end this process with its exit code, as ``multiprocessing`` ends its own.

    Threads are waited for and what was registered with ``atexit`` is run, but objects are not taken down one by one:
    with torch loaded that takes over a second of a processor, and the system takes the memory anyway.
    """
    gc.set_threshold(*_THRESHOLDS)
    keep_memory()
    code: object = 0
    try:
        command()
    except SystemExit as ended:
        code = ended.code
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if not isinstance(code, int | None):  # a message, as sys.exit takes it
        print(code, file=sys.stderr)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # nobody reads, or there is none
            code = code or 1
    os._exit(code or 0)


def keep_memory() -> bool:
    """Large blocks stay with the process when they are freed; whether the C library (glibc) can be told so.

    A training step frees all that it computed and the next one wants it again: as it is, each time pages are
    handed back, asked for and filled with zeros, which takes a twentieth of a step on a processor. Whoever sets
    ``MALLOC_`` variables or loads another allocator has decided otherwise.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - others take other numbers
        return bool(library.mallopt(_MMAP_THRESHOLD, _KEPT) and library.mallopt(_TRIM_THRESHOLD, _KEPT))
    except (AttributeError, OSError, TypeError):
        return False
