"""Pooled features on disk and in memory, one row an image, so that no image passes the same network twice.

A folder a network: its name digests the weights, the architecture, the preprocessing and the versions of this
cache and of the libraries that decode and compute. In it are shards,
safetensors files of at most a few thousand rows, each written once and atomically under a name of its own:
processes working at the same time never touch each other's files, at worst they compute a row twice. Rows are
found by the digest of the image's bytes, so any split, subset or order of the same images is served.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from finetune.cache_files import checksum, read_shard, shards_of, touch, write_shard
from finetune.errors import RunError
from finetune.runtime import cache_dir

CACHE_VERSION = 1
"""Raise it when the meaning of a row changes; older folders are then ignored."""

_MEMORY_LIMIT = 512 * 2**20
_DIGEST = 16

_memory: dict[str, dict[bytes, np.ndarray]] = {}


def network_key(backbone: Any) -> str:
    """Names everything but the image that the features depend on: weights without the head, preprocessing."""
    digest = hashlib.sha256()
    skipped = {name for name, _ in backbone.head_parameters()}
    card = backbone.card
    facts = {
        "version": CACHE_VERSION,
        "libraries": _libraries(),
        "name": backbone.name,
        "arch": [card.built_by, card.arch, card.args],
        "stages": list(backbone.stage_names),
        "preprocessing": backbone.preprocessing.to_dict(),
    }
    if getattr(backbone, "pooling", "global") != "global":  # has no weights of its own
        facts["pooling"] = backbone.pooling
    if getattr(backbone, "norm_layers", "own") != "own":
        facts["norm_layers"] = backbone.norm_layers
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        if name in skipped or name.endswith("num_batches_tracked"):
            continue
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


@functools.cache
def _libraries() -> dict[str, str]:
    """Whose next version may decode, resize, build or compute something else from the same bytes."""
    own = {"torch": str(torch.__version__), "pillow": PIL.__version__}
    return own | {name: version(name) for name in ("timm", "torchvision")}


_told: set[tuple[Path, str]] = set()


class FeatureCache:
    """Rows of one network. ``disk=False`` keeps them in this process only, no key as long as the object."""

    def __init__(self, key: str | None, disk: bool, message: Callable[[str], None]) -> None:
        self.folder = cache_dir() / "features" / (key or "")
        self.disk, self.message = disk and key is not None, message
        self.rows: dict[bytes, np.ndarray] = {}
        if key is None:
            return
        if key not in _memory:
            used = sum(row.nbytes for rows in _memory.values() for row in rows.values())
            if used > _MEMORY_LIMIT:
                _memory.clear()
            _memory[key] = {}
        self.rows = _memory[key]

    def find(self, digests: Sequence[bytes]) -> None:
        """Bring the rows of these images into memory where some shard has them."""
        wanted = {d for d in map(shorten, digests) if d not in self.rows}
        if not wanted or not self.disk or not self.folder.is_dir():
            return
        for shard in shards_of(self.folder):
            if not wanted:
                return
            wanted -= self._read(shard, wanted)

    def _read(self, shard: Path, wanted: set[bytes]) -> set[bytes]:
        """Take the wanted rows of one shard."""
        read = read_shard(shard, lambda path: _open(path, wanted), "Cached features", self.message)
        if read is None:
            return set()
        found, rows = read
        for digest, row in found.items():
            self.rows[digest] = rows[row]
        if found:
            touch(shard)
        return set(found)

    def add(self, digests: Sequence[bytes], rows: np.ndarray) -> None:
        """Keep new rows (N, sum of widths) float32; a full disk costs a line, not the run."""
        short = [shorten(d) for d in digests]
        self.rows.update(zip(short, rows, strict=True))
        if not self.disk or not short:
            return
        names = np.frombuffer(b"".join(short), dtype=np.uint8).reshape(len(short), _DIGEST)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_shard(self.folder, {"digests": names, "rows": rows}, {"crc32": checksum(names, rows)})
        except RunError as error:
            self._give_up(str(error))
        except OSError as error:
            why = f"cannot be written ({error.strerror or error}). Set FINETUNE_CACHE to a folder of yours."
            self._give_up(f"{self.folder.parent} {why}")

    def _give_up(self, why: str) -> None:
        """Say why nothing more goes to the disk, once a process: a run opens the cache many times."""
        self.disk = False
        if (self.folder.parent, why) not in _told:
            _told.add((self.folder.parent, why))
            self.message(f"Features are not cached: {why}")

    def get(self, digests: Sequence[bytes]) -> np.ndarray:
        """(N, sum of widths) float32 rows in the order asked for; KeyError for one that was never added."""
        return np.stack([self.rows[shorten(d)] for d in digests])

    def __contains__(self, digest: bytes) -> bool:
        return shorten(digest) in self.rows


def _open(shard: Path, wanted: set[bytes]) -> tuple[dict[bytes, int], np.ndarray]:
    """Where the wanted rows are in a shard, and the rows; raises ValueError where the checksum differs."""
    from safetensors import safe_open

    with safe_open(shard, framework="numpy") as file:
        names = file.get_tensor("digests")
        found = {digest: i for i, row in enumerate(names) if (digest := bytes(row)) in wanted}
        if not found:
            return {}, np.empty((0, 0), dtype=np.float32)
        rows: np.ndarray = file.get_tensor("rows")
        expected = (file.metadata() or {}).get("crc32")
    if expected != checksum(names, rows) or rows.ndim != 2 or len(rows) != len(names):
        raise ValueError("checksum differs")
    return found, rows


def shorten(digest: bytes) -> bytes:
    """Any digest -> one of 16 bytes, the width of the shards' index."""
    return digest if len(digest) == _DIGEST else hashlib.sha256(digest).digest()[:_DIGEST]


def forget() -> None:
    """Drop what this process remembers; the disk keeps its shards."""
    _memory.clear()
