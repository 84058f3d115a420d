"""The processes of one training: which of them this is, and the few things that they say to each other.

Started by ``finetune run --processes N``, torchrun or ``accelerate launch``, every process runs the same program on
its share of each batch. Process 0, the main one, alone decides, writes and prints. Every verb here is called by all
processes at the same place, and costs nothing where there is only one. Inside ``solo`` a process counts as the only
one. torch is imported by the verbs only. How the processes find each other is in process_group.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from finetune.errors import FinetuneError

if TYPE_CHECKING:
    import numpy as np
    import torch

T = TypeVar("T")

_state: dict[str, Any] = {"chat": None, "solo": 0}


def asked() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def several() -> bool:
    """Whether this process counts as one of several: it was started so, and is not in ``solo``."""
    return asked() and not _state["solo"]


def local_rank() -> int:
    """Number of this process on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK") or 0) if asked() else 0


def local_world() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["WORLD_SIZE"]) if asked() else 1


def rank() -> int:
    """Number of this process, from 0; 0 where it is the only one."""
    return int(os.environ["RANK"]) if several() else 0


def main() -> bool:
    """Whether this process is the one that decides, writes and prints."""
    return rank() == 0


def joined() -> bool:
    """Whether the processes have found each other."""
    return _state["chat"] is not None


def talk_over(chat: object) -> None:
    """From here on the verbs speak over this group of torch.distributed: the processes have joined."""
    _state["chat"] = chat


def world() -> int:
    """How many processes work together; 1 before they have joined."""
    if not joined() or _state["solo"]:
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
