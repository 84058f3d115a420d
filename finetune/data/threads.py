"""Work over many images in a few threads. Pillow decodes and resizes without holding Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from finetune import ranks
from finetune.runtime import available_cores

CHUNK = 32
"""Images a task: large enough that handing over tasks costs nothing against decoding."""


def worker_count(workers: int | Literal["auto"] = "auto") -> int:
    """How many threads decode: the recipe's number, or one a core this process may use, at most 8; several
    processes on one machine divide the cores."""
    if workers == "auto":
        return min(8, max(1, available_cores() // ranks.local_world()))
    return max(1, workers)


def submit_chunks(
    pool: ThreadPoolExecutor, count: int, work: Callable[[int], None], chunk: int = CHUNK
) -> list[Future[None]]:
    """Queue ``work(0) .. work(count - 1)`` in chunks; the order between chunks is not defined."""

    def run(start: int) -> None:
        for index in range(start, min(start + chunk, count)):
            work(index)

    return [pool.submit(run, start) for start in range(0, count, chunk)]


def for_each(count: int, work: Callable[[int], None], workers: int) -> None:
    """Do ``work(i)`` for every i below count; the first error stops the rest and is raised here."""
    if workers <= 1 or count <= CHUNK:
        for index in range(count):
            work(index)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="finetune-data") as pool:
        futures = submit_chunks(pool, count, work)
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()
