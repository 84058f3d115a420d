"""Images read by a second process while this one still imports torch.

Importing torch and timm takes seconds and holds Python's lock, so that threads gain nothing; a forked process
has a lock of its own. It does what ``read_folder`` does and hands over what it found; pixels come in memory that
both share. Only where a fork is safe and cheap: on Linux, before torch or any thread is there. Everywhere else,
and where the second process fails for whatever reason, the images are read as if nothing had been begun, so that
every message comes from one place.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune import ranks
from finetune.data.hub import is_hub
from finetune.data.place import exists
from finetune.recipe import DataRecipe
from finetune.runtime import available_cores

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from PIL import Image

    from finetune.data.load import ReadFolder

_RGB = 3


class SharedPixels:
    """Decoded images in memory that parent and child share: what ``folder.Decoded`` is within one process."""

    def __init__(self, limit: int) -> None:
        self._memory = mmap.mmap(-1, max(limit, 1))  # a page costs nothing before it is written
        self._size = max(limit, 1)
        self._used = 0
        self._places: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """Pixels that still fit."""
        return (self._size - self._used) // _RGB

    def put(self, name: str, image: Image.Image) -> None:
        """Keep an RGB image if it fits."""
        pixels = image.tobytes()
        with self._lock:
            start, end = self._used, self._used + len(pixels)
            if end > self._size:
                return
            self._used = end
        self._memory[start:end] = pixels
        self._places[name] = (start, image.width, image.height)

    def get(self, name: str) -> Image.Image | None:
        """A copy of the image, or None where it has to be decoded again."""
        from PIL import Image

        place = self._places.get(name)
        if place is None:
            return None
        start, width, height = place
        pixels = memoryview(self._memory)[start : start + width * height * _RGB]
        return Image.frombytes("RGB", (width, height), pixels)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The pixels stay where they are; only who lies where is told."""
        return _arrived, (self._places,)


@dataclass
class _Reading:
    key: tuple[Any, ...]
    pixels: SharedPixels
    child: BaseProcess
    answer: Connection


_begun: _Reading | None = None


def _arrived(places: dict[str, tuple[int, int, int]]) -> SharedPixels:
    """The parent's end of ``SharedPixels``, which lay there before the fork."""
    assert _begun is not None
    _begun.pixels._places = places
    return _begun.pixels


def begin(recipe: DataRecipe) -> bool:
    """Let a second process read the folder; whether it does. The next ``read_folder`` of it takes the result."""
    global _begun
    safe = sys.platform == "linux" and "torch" not in sys.modules and threading.active_count() == 1
    cancel()
    if not safe or available_cores() < 2 or recipe.path is None or not exists(Path(recipe.path)):
        return False
    if ranks.asked() or is_hub(recipe.path):  # opened in shares, or by a library that does not like forks
        return False
    import multiprocessing

    from finetune.data.memory import MEBI, budget

    context = multiprocessing.get_context("fork")
    pixels = SharedPixels(budget(512 * MEBI, 1 / 8))
    answer, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_read, args=(recipe, pixels, theirs), daemon=True)
    child.start()
    theirs.close()  # so that the end of the child is the end of the pipe
    _begun = _Reading(_key(recipe), pixels, child, answer)
    return True


def take(recipe: DataRecipe) -> ReadFolder | None:
    """What the second process found, once; None where none was begun for this folder or it came to nothing."""
    global _begun
    reading = _begun
    if reading is None or reading.key != _key(recipe):
        return None
    try:
        found: ReadFolder | None = reading.answer.recv()
    except (EOFError, OSError):  # killed, or out of memory
        found = None
    _begun = None
    reading.answer.close()
    reading.child.join()
    return found


def cancel() -> None:
    """Stop the second process, if there is one."""
    global _begun
    if _begun is not None:
        _begun.child.terminate()
        _begun.child.join()
        _begun.answer.close()
        _begun = None


def _key(recipe: DataRecipe) -> tuple[Any, ...]:
    """What a reading depends on; how the images are divided comes later."""
    split = {"val_fraction", "test_fraction", "limit_per_class", "image_size", "folds", "fold"}
    return tuple(recipe.model_dump(exclude=split).items())


def _read(recipe: DataRecipe, pixels: SharedPixels, answer: Connection) -> None:
    from finetune.data.load import read_folder
    from finetune.errors import FinetuneError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to both; the parent stops this one
    workers = recipe.workers if recipe.workers != "auto" else max(1, available_cores() - 1)
    found: ReadFolder | None = None
    with contextlib.suppress(FinetuneError):  # the parent will find the same and say it
        found = read_folder(recipe.model_copy(update={"workers": workers}), decoded=pixels)
    try:
        answer.send(found)
    except OSError:  # the parent is gone
        os._exit(1)
