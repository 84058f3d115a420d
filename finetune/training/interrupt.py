"""Ctrl-C and SIGTERM: a request that the loop answers at the end of its step, after saving, or an exception at once."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from finetune.errors import Interrupted


class StopRequest:
    """Catches SIGINT and SIGTERM inside a ``with`` block.

    While ``immediate`` is true (nothing to save, for example while features are computed) the signal raises
    Interrupted on the spot; otherwise it sets ``requested``. A second signal always raises KeyboardInterrupt:
    the last checkpoint is whole, and waiting was evidently too long. Outside the main thread Python allows no
    handlers and nothing is caught.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.requested = False
        self.immediate = True
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self.immediate:
            self.stop("before the first step")

    def stop(self, where: str) -> NoReturn:
        """Raise Interrupted, saying where and how to go on."""
        command = f"finetune resume {shlex.quote(self.run)}"
        raise Interrupted(f"Stopped {where}; state saved. Go on with: {command}")


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM as KeyboardInterrupt; outside the main thread Python allows no handlers and nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
