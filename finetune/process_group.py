"""The process group: how the processes of one training find each other, part, and end with each other.

What they say to each other in between is in ranks.py. Started by ``finetune run --processes N`` they meet through a
file and end with their launcher; torchrun and ``accelerate launch`` have ways of their own. A process that misses
another one must not wait for it, and of an error that all of them meet one speaks.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from finetune import ranks
from finetune.errors import FinetuneError, ProcessError

if TYPE_CHECKING:
    import torch

STORE = "FINETUNE_STORE"
"""Names the file through which processes find each other; set by ``finetune.launch``, which watches them too."""
NOTE = "FINETUNE_NOTE"
"""Names the file into which the main process writes its run folder, for the launcher's last words."""
LOST = 4
"""Exit code of a process that ends because another one did."""
_PATIENCE = timedelta(hours=6)
"""The longest that processes wait for what the main one does alone, such as solving heads."""
_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset", "socket")
"""In what torch says where another process is gone."""

_lost = threading.Event()
"""Whether another process has gone without a word."""


@contextlib.contextmanager
def session(device: Callable[[], torch.device]) -> Iterator[None]:
    """Inside the block the processes work together, where there are several; they stay joined afterwards.

    ``device`` chooses this process's. Of an error that several processes meet one tells it: the others mark
    theirs as ``told``. A connection that breaks becomes a ProcessError.
    """
    if not ranks.several():
        yield
        return
    try:
        if not ranks.joined():
            _join(device())
        yield
    except FinetuneError as error:
        error.told = error.told or not _speaks()
        raise
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _SIGNS):
            raise
        lost = ProcessError(
            "Another process of this training has ended or cannot be reached: "
            f"{str(error).strip().splitlines()[0]}. Its own message says why; finetune resume goes on from the last "
            "checkpoint."
        )
        _lost.set()
        lost.exit_code, lost.told = LOST, STORE in os.environ or not _speaks()
        raise lost from error


def _join(device: torch.device) -> None:
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        store = os.environ.get(STORE)
        where: dict[str, Any] = {}
        if store:
            from torch.distributed import FileStore  # type: ignore[attr-defined]

            where = {"store": FileStore(store, int(os.environ["WORLD_SIZE"])), "rank": int(os.environ["RANK"]),
                     "world_size": int(os.environ["WORLD_SIZE"])}  # fmt: skip
            _end_with_the_launcher()
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE, **where)
        atexit.register(_leave)
    # What is said in words goes over the processor, so that it never waits for a GPU.
    nccl = dist.get_backend() != "gloo"
    ranks.talk_over(dist.new_group(backend="gloo", timeout=_PATIENCE) if nccl else dist.group.WORLD)


def _leave() -> None:
    import sys

    import torch.distributed as dist

    if _lost.is_set():  # gloo would wait for the others while the interpreter ends
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(LOST)
    # The last reference to the group joins its threads. One that outlives the interpreter aborts the process when it
    # drops a tensor of the last exchange, for which it would need the interpreter's lock.
    ranks.talk_over(None)
    if dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _end_with_the_launcher() -> None:
    """A launcher that is killed closes this process's standard input."""
    import sys

    def watch() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(sys.__stdin__.fileno(), 1):  # type: ignore[union-attr]
                pass
        os._exit(LOST)

    threading.Thread(target=watch, name="finetune-launcher-watch", daemon=True).start()


def _speaks() -> bool:
    """Whether this process is the first that has an error to tell; the main one is given the start."""
    from torch.distributed import distributed_c10d

    try:
        if not ranks.main():
            time.sleep(0.5)
        store = distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=10))
        return str(store.compare_set("finetune/spoken", "", str(ranks.rank())), "ascii") == str(ranks.rank())
    except (RuntimeError, ValueError):  # the store went with the main process
        return ranks.main()
