"""The processes of one training: which of them this is, and the few things that they say to each other.

Started by ``finetune run --processes N``, torchrun or ``accelerate launch``, every process runs the same program on
its share of each batch. Process 0, the main one, alone decides, writes and prints. Every verb here is called by all
processes at the same place, and costs nothing where there is only one. Inside ``solo`` a process counts as the only
one. torch is imported by the verbs only.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.errors import FinetuneError, ProcessError

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")

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

_state: dict[str, Any] = {"chat": None, "solo": 0, "lost": False}


def asked() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK") or 0) if asked() else 0


def local_world() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["WORLD_SIZE"]) if asked() else 1


def rank() -> int:
    """Number of this process, from 0; 0 where it is the only one."""
    return int(os.environ["RANK"]) if asked() and not _state["solo"] else 0


def main() -> bool:
    """Whether this process is the one that decides, writes and prints."""
    return rank() == 0


def world() -> int:
    """How many processes work together; 1 before they have joined."""
    if _state["chat"] is None or _state["solo"]:
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def alone() -> bool:
    """Whether there is nobody to talk to."""
    return world() == 1


@contextlib.contextmanager
def solo() -> Iterator[None]:
    """Inside the block this process counts as the only one, and no verb talks to another."""
    _state["solo"] += 1
    try:
        yield
    finally:
        _state["solo"] -= 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block only the main process prints."""
    if main():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


# --- coming and going -------------------------------------------------------------------------------------


@contextlib.contextmanager
def session(device: Callable[[], torch.device]) -> Iterator[None]:
    """Inside the block the processes work together, where there are several; they stay joined afterwards.

    ``device`` chooses this process's. Of an error that several processes meet one tells it: the others mark
    theirs as ``told``. A connection that breaks becomes a ProcessError.
    """
    if not asked() or _state["solo"]:
        yield
        return
    try:
        if _state["chat"] is None:
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
        _state["lost"] = True
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
    _state["chat"] = dist.new_group(backend="gloo", timeout=_PATIENCE) if nccl else dist.group.WORLD


def _leave() -> None:
    import sys

    import torch.distributed as dist

    if _state["lost"]:  # gloo would wait for the others while the interpreter ends
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(LOST)
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
        if not main():
            time.sleep(0.5)
        store = distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=10))
        return str(store.compare_set("finetune/spoken", "", str(rank())), "ascii") == str(rank())
    except (RuntimeError, ValueError):  # the store went with the main process
        return main()


# --- verbs ------------------------------------------------------------------------------------------------


def rows(n: int) -> tuple[int, int]:
    """Where this process's share of ``n`` rows begins and ends: contiguous shares in the order of the processes.

    No share has a single row where that can be avoided, since batch norms cannot train on one; the last
    processes then have none.
    """
    return share_of(n, rank(), world())


def share_of(n: int, rank: int, world: int) -> tuple[int, int]:
    """See ``rows``.

    >>> [share_of(9, r, 2) for r in range(2)], [share_of(3, r, 2) for r in range(2)]
    ([(0, 5), (5, 9)], [(0, 3), (3, 3)])
    """
    parts = max(1, min(world, n // 2))
    if rank >= parts:
        return n, n
    size, rest = divmod(n, parts)
    start = rank * size + min(rank, rest)
    return start, start + size + (rank < rest)


def spread(value: T) -> T:
    """The main process's value."""
    if alone():
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0, group=_state["chat"])
    return box[0]


def on_main(work: Callable[[], T]) -> T:
    """What ``work`` returns on the main process, which does it alone while the others wait.

    Where it raises a FinetuneError the others raise one too, marked as told.
    """
    if alone():
        return work()
    failed: FinetuneError | None = None
    answer: tuple[bool, Any] = (True, None)
    if main():
        try:
            with solo():
                answer = (True, work())
        except FinetuneError as error:
            failed, answer = error, (False, (str(error), error.exit_code))
    well, value = spread(answer)
    if failed is not None:
        raise failed
    if not well:
        raise _told(*value)
    result: T = value
    return result


def each(work: Callable[[], T]) -> T:
    """What ``work`` returns on each process; where it raises a FinetuneError on one, all end with that error."""
    if alone():
        return work()
    failed: FinetuneError | None = None
    result: Any = None
    try:
        result = work()
    except FinetuneError as error:
        failed = error
    problems = gather((str(failed), failed.exit_code) if failed else None)
    if not any(problems):
        found: T = result
        return found
    number, problem = next((i, problem) for i, problem in enumerate(problems) if problem is not None)
    if number == rank() and failed is not None:
        raise failed
    raise _told(*problem)


def _told(message: str, exit_code: int) -> FinetuneError:
    error = FinetuneError(message)
    error.exit_code, error.told = exit_code, True
    return error


def gather(value: T) -> list[T]:
    """Everybody's value, in the order of the processes, for everybody."""
    if alone():
        return [value]
    import torch.distributed as dist

    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value, group=_state["chat"])
    return found


def gather_rows(mine: np.ndarray) -> np.ndarray:
    """Everybody's rows (n_r, ...) below each other, for everybody."""
    if alone():
        return mine
    import numpy as np

    return np.concatenate([part for part in gather(mine) if len(part)] or [mine])


def numbers(*mine: float) -> list[tuple[float, ...]]:
    """Everybody's numbers, in the order of the processes: ``gather`` for the few of every step."""
    if alone():
        return [mine]
    import torch
    import torch.distributed as dist

    found = [torch.empty(len(mine), dtype=torch.float64) for _ in range(world())]
    dist.all_gather(found, torch.tensor(mine, dtype=torch.float64), group=_state["chat"])
    return [tuple(tensor.tolist()) for tensor in found]


def any_of(*flags: bool) -> tuple[bool, ...]:
    """Of each flag whether any process has it."""
    if alone():
        return flags
    told = numbers(*(float(flag) for flag in flags))
    return tuple(any(each[place] for each in told) for place in range(len(flags)))


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over the processes, in place, on whatever device it is; of one type each."""
    if alone():
        return
    import torch.distributed as dist

    waiting = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in waiting:
        if work is not None:
            work.wait()


def stacked(mine: torch.Tensor) -> torch.Tensor:
    """Everybody's tensor (...), of one shape and type, as (processes, ...), on the device where it is."""
    import torch

    if alone():
        return mine[None]
    import torch.distributed as dist

    found = [torch.empty_like(mine) for _ in range(world())]
    dist.all_gather(found, mine.contiguous())
    return torch.stack(found)


def spread_tensors(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by the main process's, in place."""
    if alone():
        return
    import torch
    import torch.distributed as dist

    with torch.no_grad():
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.broadcast(whole, src=0)
            if whole is not tensor:
                tensor.copy_(whole)
