"""Images as uint8 tensors: the evaluation set at once or in batches, the training set in shuffled epochs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from finetune import ranks
from finetune.data import AUGMENTATIONS
from finetune.data.augment import Augmentation
from finetune.data.imageset import ImageSet
from finetune.data.memory import MEBI, budget
from finetune.data.mirroring import flip_safe
from finetune.data.order import balanced_order, returns
from finetune.data.originals import EvaluationPixels, Originals
from finetune.data.preprocessing import Preprocessing
from finetune.data.threads import for_each, submit_chunks

T = TypeVar("T")

_AHEAD = 2
"""Batches being made while the network works on one."""
_ORDER, _SAMPLE = 1, 2


def eval_tensor(images: ImageSet, prep: Preprocessing, threads: int = 1) -> Tensor:
    """All images as evaluation wants them: (N, 3, S, S) uint8, each decoded once. Raises DataError."""
    out = torch.empty((len(images), 3, prep.size, prep.size), dtype=torch.uint8)
    pixels, source = out.numpy(), EvaluationPixels(images, prep)

    def fill(index: int) -> None:
        pixels[index] = source[index].transpose(2, 0, 1)

    for_each(len(images), fill, threads)
    source.flush()
    return out


def eval_batches(
    images: ImageSet, prep: Preprocessing, batch_size: int, threads: int = 1
) -> Iterator[Tensor]:
    """The same in order and in batches (B, 3, S, S) uint8, decoded in threads ahead of the consumer."""
    source = EvaluationPixels(images, prep)

    def make(pool: ThreadPoolExecutor, number: int) -> tuple[Tensor, list[Future[None]]]:
        start = number * batch_size
        count = min(batch_size, len(images) - start)
        out = torch.empty((count, 3, prep.size, prep.size), dtype=torch.uint8)
        pixels = out.numpy()

        def fill(index: int) -> None:
            pixels[index] = source[start + index].transpose(2, 0, 1)

        return out, submit_chunks(pool, count, fill, _chunk(count, threads))

    yield from _ahead(make, 0, -(-len(images) // batch_size), threads)
    source.flush()


def to_device(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """Move tensors; a copy to a GPU overlaps with its computing. Those that are there already stay."""
    if device.type != "cuda":
        return [t.to(device) for t in tensors]
    # Only what lies in the CPU's memory can be pinned.
    pinned = (t.pin_memory() if t.device.type == "cpu" else t for t in tensors)
    return [t.to(device, non_blocking=True) for t in pinned]


class TrainBatches:
    """Shuffled, augmented batches of one training set.

    The order of an epoch comes from (seed, epoch), the augmentation of a sample from (seed, epoch, sample)
    alone: neither the number of threads, nor the memory, nor where an epoch is entered, nor any global
    random state changes a pixel. Originals are decoded once, reduced to what the policy can use, and kept
    while they fit into ``memory`` bytes; the others are decoded again each epoch.

    Args:
        images: the training set.
        prep: the backbone's preprocessing; gives size and interpolation.
        policy: a name in AUGMENTATIONS.
        batch_size: images a batch. A single image that is left over joins the last batch: batch norm cannot
            train on one.
        seed: of order and augmentation.
        threads: that decode and augment, one batch ahead.
        flip: allow left-right flips; None asks the class names (``flip_safe``).
        avoid: families of augmentation (``FAMILIES``) that the policy leaves out.
        balanced: every class equally often, instead of each image once; an image that returns within an epoch
            is augmented anew.
        memory: bytes for originals; None is a quarter of what is free, at most 8 GiB.
        targets: (N,) or (N, K), what comes with the images; default: their labels.

    Raises:
        ConfigError: no such policy.
        DataError: while iterating, where an image can no longer be decoded.
    """

    def __init__(
        self,
        images: ImageSet,
        prep: Preprocessing,
        policy: str,
        batch_size: int,
        seed: int,
        threads: int = 1,
        *,
        flip: bool | None = None,
        avoid: Collection[str] = (),
        balanced: bool = False,
        memory: int | None = None,
        targets: Tensor | None = None,
    ) -> None:
        self.images, self.prep, self.batch_size, self.seed = images, prep, batch_size, seed
        self.threads = max(1, threads)
        self.balanced = balanced
        self.flip = flip_safe(images.classes) if flip is None else flip
        kind = AUGMENTATIONS.get(policy)
        # A policy from elsewhere that knows no families need not know the argument either.
        self.augmentation: Augmentation = kind(prep, self.flip, avoid) if avoid else kind(prep, self.flip)
        self._labels = torch.from_numpy(np.ascontiguousarray(images.labels, dtype=np.int64))
        self._targets = self._labels if targets is None else targets
        self._memory = budget(8192 * MEBI, 1 / 4) if memory is None else memory

    @cached_property
    def _originals(self) -> Originals:
        return Originals(self.images, self.augmentation, self._memory)

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.images), self.batch_size)
        return whole + (rest > 1 or (rest == 1 and whole == 0))

    def order(self, epoch: int) -> np.ndarray:
        """(N,) the sample indices of an epoch in the order in which they come."""
        rng = np.random.default_rng((self.seed, _ORDER, epoch))
        return (
            balanced_order(self._labels.numpy(), rng) if self.balanced else rng.permutation(len(self.images))
        )

    def resident(self) -> float:
        """Share of the originals that need no decoding any more, by the size of those that were read so far."""
        return self._originals.resident()

    def size(self, number: int) -> int:
        """Images in batch ``number`` of an epoch, over all processes."""
        last = number == len(self) - 1
        return len(self.images) - number * self.batch_size if last else self.batch_size

    def epoch(self, epoch: int, start: int = 0, neighbour: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches number ``start`` and on: (B, 3, S, S) uint8 images and (B,) or (B, K) targets.

        Of several processes each gets its share of every batch; with ``neighbour`` the row before it comes first,
        around the batch's end, unless the share is the whole batch or empty.
        """
        order, side = self.order(epoch), self.augmentation.side
        again, originals = returns(order), self._originals

        def make(pool: ThreadPoolExecutor, number: int) -> tuple[tuple[Tensor, Tensor], list[Future[None]]]:
            end = len(order) if number == len(self) - 1 else (number + 1) * self.batch_size
            chosen, seen = order[number * self.batch_size : end], again[number * self.batch_size : end]
            mine = share_rows(len(chosen), neighbour)
            chosen, seen = chosen[mine], seen[mine]
            out = torch.empty((len(chosen), 3, side, side), dtype=torch.uint8)
            pixels = out.numpy()

            def fill(row: int) -> None:
                sample = int(chosen[row])
                # A first time has no number: an epoch without returns keeps its pixels.
                time = (int(seen[row]),) if seen[row] else ()
                rng = np.random.default_rng((self.seed, _SAMPLE, epoch, sample, *time))
                pixels[row] = self.augmentation.pixels(originals[sample], rng).transpose(2, 0, 1)

            labels = self._targets[torch.from_numpy(chosen)]
            return (out, labels), submit_chunks(pool, len(chosen), fill, _chunk(len(chosen), self.threads))

        try:
            yield from _ahead(make, start, len(self), self.threads)
        finally:
            originals.flush()


def share_rows(n: int, neighbour: bool = False) -> np.ndarray:
    """Indices of this process's rows of a batch of ``n``; see ``TrainBatches.epoch``."""
    begin, end = ranks.rows(n)
    first = begin - 1 if neighbour and 0 < end - begin < n else begin
    return np.arange(first, end) % n


def _chunk(count: int, threads: int) -> int:
    return max(1, -(-count // (2 * max(1, threads))))


def _ahead(
    make: Callable[[ThreadPoolExecutor, int], tuple[T, list[Future[None]]]],
    start: int,
    end: int,
    threads: int,
) -> Iterator[T]:
    """Results of ``make`` in order, the next ones being made in threads while the consumer has one."""
    waiting: deque[tuple[T, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="finetune-data")
    try:
        for number in range(start, end):
            waiting.append(make(pool, number))
            if len(waiting) > _AHEAD:
                yield _finished(waiting.popleft())
        while waiting:
            yield _finished(waiting.popleft())
    finally:  # also where the consumer stops half way
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(job: tuple[T, list[Future[None]]]) -> T:
    result, futures = job
    for future in futures:
        future.result()
    return result
