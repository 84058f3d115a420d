"""What this machine keeps between runs to compute nothing twice: features, pixels, measured speeds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.cache_files import found, leftovers, remove
from finetune.runtime import cache_dir

KINDS = {
    "features": "pooled features of every stage, by network",
    "pixels": "resized images, by settings",
    "formats": "measured speeds of number formats, by network and machine",
}


@dataclass(frozen=True)
class Entry:
    """One network's features, the pixels of one way to make them, or one network's speeds."""

    kind: str
    name: str
    files: int
    bytes: int
    used: float
    """When any of it was last of use, seconds since the epoch."""


def entries(kinds: Sequence[str] = tuple(KINDS)) -> list[Entry]:
    """Everything there is, the most recently used first."""
    listed = []
    for kind in kinds:
        by_folder: dict[str, list[tuple[int, float]]] = {}
        for shard in found(cache_dir() / kind):
            by_folder.setdefault(shard.path.parent.name, []).append((shard.bytes, shard.used))
        for name, files in by_folder.items():
            sizes, used = zip(*files, strict=True)
            listed.append(Entry(kind, name, len(files), sum(sizes), max(used)))
    return sorted(listed, key=lambda entry: -entry.used)


def clear(kinds: Sequence[str] = tuple(KINDS), older: float = 0.0) -> tuple[int, int]:
    """Delete what was not of use for ``older`` seconds, and what killed runs left half-written; files and bytes freed.

    A run that is using a cache at that moment computes again what it misses.
    """
    now = time.time()
    files = freed = 0
    for kind in kinds:
        root = cache_dir() / kind
        gone = [shard for shard in found(root) if now - shard.used >= older] + leftovers(root, now)
        count, size = remove(gone, root)
        files, freed = files + count, freed + size
    return files, freed
