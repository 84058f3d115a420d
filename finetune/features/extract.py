"""Pooled features of every stage for a set of images: each image passes the network once, ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from finetune import ranks
from finetune.data.reading import needed_side
from finetune.data.threads import worker_count
from finetune.data.transforms import evaluate_pixels
from finetune.errors import DataError, must
from finetune.features.cache import FeatureCache, network_key
from finetune.features.finite import require_finite

if TYPE_CHECKING:
    from finetune.data.imageset import ImageSet
    from finetune.data.preprocessing import Preprocessing
    from finetune.zoo.backbone import Backbone

_SHARD_ROWS = 4096  # a killed extraction loses at most this much work


@dataclass(frozen=True)
class Features:
    """What a frozen backbone makes of some images."""

    taps: list[np.ndarray]
    """Pooled features of each stage, (N, C_i) float32, input to head; only the last where ``taps="last"``."""
    labels: np.ndarray
    """(N,) int64."""
    targets: np.ndarray | None = None
    """(N, K) float32 where values are learned instead of classes."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def last(self) -> np.ndarray:
        """(N, D) the embedding that an ordinary head sees."""
        return self.taps[-1]

    def subset(self, indices: Sequence[int] | np.ndarray) -> Features:
        """Some of the images, in the given order."""
        rows = np.asarray(indices, dtype=np.int64)
        targets = None if self.targets is None else self.targets[rows]
        return Features([tap[rows] for tap in self.taps], self.labels[rows], targets)

    def join(self, other: Features) -> Features:
        """These images, then the others."""
        taps = [np.concatenate(pair) for pair in zip(self.taps, other.taps, strict=True)]
        targets = None
        if self.targets is not None and other.targets is not None:
            targets = np.concatenate([self.targets, other.targets])
        return Features(taps, np.concatenate([self.labels, other.labels]), targets)


def extract(
    backbone: Backbone,
    images: ImageSet,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    cache: bool = True,
    remember: bool = True,
    taps: Literal["all", "last"] = "all",
    threads: int | Literal["auto"] = "auto",
    message: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Pooled features of all stages, from the cache where it has them.

    The rows always hold every stage, whichever are asked for: pooling them costs next to nothing beside the
    convolutions, and the next strategy, seed or split then needs no forward pass. ``cache=False`` leaves the
    disk alone; within the process images are still computed once. ``remember=False`` forgets them with the
    call, for images that never come back. Batch norms are folded and images are
    decoded by ``threads`` background threads while the network computes.

    Raises DataError for an empty set or an image that cannot be decoded, StrategyError for features that are
    not finite.
    """
    if len(images) == 0:
        raise DataError(must("images", "at least one", 0))
    digests = _keys(images, backbone.preprocessing)
    store = FeatureCache(network_key(backbone) if cache or remember else None, cache, message)
    store.find(digests)
    todo = list({d: i for i, d in reversed(list(enumerate(digests))) if d not in store}.values())[::-1]
    if todo:
        _compute(backbone, images, todo, digests, store, batch_size, torch.device(device), threads, progress)
    rows = store.get(digests)
    blocks = np.split(rows, np.cumsum(backbone.widths)[:-1], axis=1)
    chosen = blocks if taps == "all" else blocks[-1:]
    return Features(
        [np.ascontiguousarray(block) for block in chosen],
        np.asarray(images.labels, dtype=np.int64),
        images.values,
    )


def extract_together(
    backbone: Backbone,
    images: ImageSet,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    cache: bool = True,
    threads: int | Literal["auto"] = "auto",
    message: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Let every process compute a share of what the main one has not cached, so that its ``extract`` finds it all.

    Arguments as there. Nothing where there is one process.
    """
    if ranks.alone() or len(images) == 0:
        return
    digests = _keys(images, backbone.preprocessing)
    key = network_key(backbone)

    def missing() -> list[int]:
        store = FeatureCache(key, cache, message)
        store.find(digests)
        return list({d: i for i, d in reversed(list(enumerate(digests))) if d not in store}.values())[::-1]

    todo = ranks.on_main(missing)
    for start in range(0, len(todo), ranks.world() * _SHARD_ROWS):
        block = todo[start : start + ranks.world() * _SHARD_ROWS]
        mine = block[slice(*ranks.rows(len(block)))]
        own = FeatureCache(None, False, message)

        def work(mine: list[int] = mine, own: FeatureCache = own) -> None:
            if mine:
                _compute(
                    backbone, images, mine, digests, own, batch_size, torch.device(device), threads, progress
                )

        ranks.each(work)
        rows = (
            own.get([digests[i] for i in mine]) if mine else np.empty((0, sum(backbone.widths)), np.float32)
        )
        rows = ranks.gather_rows(rows)
        if ranks.main():
            FeatureCache(key, cache, message).add([digests[i] for i in block], rows)


def _keys(images: ImageSet, prep: Preprocessing) -> list[bytes]:
    """What the pixels of each image depend on: its bytes, and the scale that it is decoded at."""
    need = needed_side(prep)
    return [images.key(i, need) for i in range(len(images))]


def _compute(
    backbone: Backbone, images: ImageSet, todo: list[int], digests: list[bytes], store: FeatureCache,
    batch_size: int, device: torch.device, threads: int | Literal["auto"],
    progress: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    """Forward passes over the images that no shard has, written shard by shard."""
    network = backbone.fold().to(device).eval()
    shard: list[np.ndarray] = []
    start = done = 0
    with torch.inference_mode():
        for batch in _decoded(images, todo, backbone.preprocessing, batch_size, threads):
            x = backbone.preprocessing.normalise(batch.to(device)).contiguous(
                memory_format=torch.channels_last
            )
            rows = torch.cat([tap.float() for tap in network.taps(x)], dim=1)  # (B, sum of widths)
            shard.append(rows.cpu().numpy())
            done += len(rows)
            if progress is not None:
                progress(done, len(todo))
            if done - start >= _SHARD_ROWS or done == len(todo):
                found, written = np.concatenate(shard), todo[start:done]
                require_finite(  # before it is kept: a broken row must not come back from the cache
                    np.split(found, np.cumsum(backbone.widths)[:-1], axis=1),
                    partial(_name, images, written),
                    backbone.stage_names,
                )
                store.add([digests[i] for i in written], found)
                shard, start = [], done


def _name(images: ImageSet, rows: list[int], row: int) -> str:
    return images.name(rows[row])


def _decoded(
    images: ImageSet, todo: list[int], prep: Preprocessing, batch_size: int, threads: int | Literal["auto"]
) -> Iterator[torch.Tensor]:
    """uint8 (B, 3, S, S) batches in order, decoded a few batches ahead of their use."""
    batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
    stop, need = threading.Event(), needed_side(prep)

    def decode(indices: list[int]) -> torch.Tensor:
        if stop.is_set():
            return torch.empty(0)
        pixels = torch.from_numpy(np.stack([evaluate_pixels(images.reduced(i, need), prep) for i in indices]))
        return pixels.permute(0, 3, 1, 2)  # (B, S, S, 3) in memory is channels_last already

    workers = worker_count(threads)
    with ThreadPoolExecutor(workers, thread_name_prefix="finetune-decode") as pool:
        waiting: list[Future[torch.Tensor]] = []
        try:
            queue = iter(batches)
            for indices in queue:
                waiting.append(pool.submit(decode, indices))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            stop.set()
            for future in waiting:
                future.cancel()
