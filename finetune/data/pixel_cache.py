"""Decoded and resized images on disk, mapped into memory: what a large photo costs to decode is paid once.

A folder for each way of making pixels: its name digests the settings and the versions of this cache and of Pillow.
Images are found by the digest of their files' bytes, which are read in full anyway to see that they are whole, so
a file that changes under its name is another image. Shards are read through the system's page cache: mapped images
take no memory of their own and give way when memory runs short. Each image has a checksum, tested when it is first
taken; what fails it is decoded again.

``FINETUNE_PIXEL_CACHE`` bounds the pixels of all data sets together (default 20G; 0 turns the cache off); what was
not of use for longest goes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from finetune.cache_files import checksum, make_room, read_shard, shards_of, touch, write_shard
from finetune.errors import ConfigError, RunError, must
from finetune.runtime import cache_dir

CACHE_VERSION = 1
"""Raise it when the meaning of the pixels changes; older folders are then ignored."""
SHARD_BYTES = 64 * 2**20
LIMIT = "FINETUNE_PIXEL_CACHE"
_DEFAULT = "20G"
_FREE_SHARE = 0.5
"""Of the disk's free space at most this share is taken."""
_DIGEST = 16
_HEADER, _INDEX = 1024, 48
"""Bytes of a shard, and of each image in it, beside the pixels; at most."""


_TOLD: set[tuple[Callable[[str], None], str]] = set()


def to_stderr(line: str) -> None:
    """One line for the user."""
    print(line, file=sys.stderr)


def size_limit() -> int:
    """Bytes that the pixels may take on disk. Raises ConfigError where FINETUNE_PIXEL_CACHE is no size."""
    text = os.environ.get(LIMIT) or _DEFAULT
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if parts is None:
        raise ConfigError(must(LIMIT, "a size such as 20G or 500M, or 0 for no cache", repr(text)))
    return int(float(parts[1]) * 1024 ** " KMGT".index(parts[2].upper() or " "))


@dataclass(frozen=True)
class _Place:
    shard: Path
    pixels: np.ndarray
    crc: int


class PixelCache:
    """The pixels that one way of making them has on disk. May be used from several threads.

    Args:
        settings: all that the pixels depend on, but for the image: plain values.
        say: told, once, what is wrong with the disk.
    """

    def __init__(self, settings: Mapping[str, Any], say: Callable[[str], None] = to_stderr) -> None:
        facts = {"version": CACHE_VERSION, "pillow": PIL.__version__, **settings}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        self.root = cache_dir() / "pixels"
        self.folder = self.root / name
        self.say = say
        self.limit = size_limit()
        self._places: dict[bytes, _Place] = {}
        self._checked: set[bytes] = set()
        self._waiting: dict[bytes, np.ndarray] = {}
        self._writing: dict[bytes, np.ndarray] = {}
        self._bytes = 0
        self._own: set[Path] = set()
        self._writes = self.limit > 0
        self._lock = threading.Lock()
        if self.limit > 0:
            for shard in shards_of(self.folder):
                self._open(shard)

    def _open(self, shard: Path) -> None:
        places = read_shard(shard, _mapped, "Cached pixels", self.say)
        for key, place in (places or {}).items():
            self._places.setdefault(key, place)

    def get(self, key: bytes) -> np.ndarray | None:
        """(H, W, 3) uint8, not to be written to; None where it is not there, or damaged."""
        place = self._places.get(key)
        if place is None:
            waiting = self._waiting.get(key)
            return waiting if waiting is not None else self._writing.get(key)
        if key not in self._checked:
            if zlib.crc32(place.pixels.data) != place.crc:
                self._damaged(key, place)
                return None
            self._checked.add(key)
            if place.shard not in self._own:
                self._own.add(place.shard)
                touch(place.shard)
        return place.pixels

    def _damaged(self, key: bytes, place: _Place) -> None:
        """Forget and delete a shard that holds wrong pixels."""

        def refuse(shard: Path) -> None:
            raise ValueError("checksum differs")

        with self._lock:
            if key not in self._places:
                return
            read_shard(place.shard, refuse, "Cached pixels", self.say)
            for other in [k for k, p in self._places.items() if p.shard == place.shard]:
                del self._places[other]

    def __contains__(self, key: bytes) -> bool:
        return key in self._places or key in self._waiting or key in self._writing

    @property
    def filled(self) -> bool:
        """Whether anything is there."""
        return bool(self._places)

    def add(self, key: bytes, pixels: np.ndarray) -> None:
        """Keep (H, W, 3) uint8; written with the others once they make a shard."""
        with self._lock:
            if not self._writes or key in self:
                return
            self._waiting[key] = pixels
            self._bytes += pixels.nbytes
            if self._bytes < SHARD_BYTES:
                return
            ready = self._take()
        self._write(ready)

    def flush(self) -> None:
        """Write what is waiting."""
        with self._lock:
            ready = self._take()
        self._write(ready)

    def _take(self) -> dict[bytes, np.ndarray]:
        ready, self._waiting, self._bytes = self._waiting, {}, 0
        self._writing = {**self._writing, **ready}
        return ready

    def _write(self, ready: dict[bytes, np.ndarray]) -> None:
        """One shard; a disk that is full or cannot be written costs a line, not the run."""
        if ready and self._writes:
            size = _HEADER + sum(pixels.nbytes + _INDEX for pixels in ready.values())
            problem = None
            try:
                self.folder.mkdir(
                    parents=True, exist_ok=True
                )  # where nothing can be written there is no room either
                if not make_room(self.root, size, self._room(), self._own.__contains__):
                    problem = (
                        f"{LIMIT}={os.environ.get(LIMIT) or _DEFAULT} or half of the free disk is used up."
                    )
                else:
                    shard = write_shard(self.folder, *_packed(ready))
                    self._own.add(shard)
                    self._open(shard)
            except RunError as error:
                problem = str(error)
            except OSError as error:
                why = error.strerror or error
                problem = f"{self.root} cannot be written ({why}). Set FINETUNE_CACHE to a folder of yours."
            if problem is not None and self._writes:
                self._writes = False
                if (self.say, problem) not in _TOLD:  # training and validation each have a cache
                    _TOLD.add((self.say, problem))
                    self.say(f"Images are not cached any more: {problem}")
        with self._lock:
            for key in ready:
                del self._writing[key]

    def _room(self) -> int:
        """The limit, or less where the disk is nearly full."""
        folder = self.root
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        used = (
            sum(shard.stat().st_size for shard in self.root.rglob("*.safetensors"))
            if self.root.exists()
            else 0
        )
        return min(self.limit, used + int(_FREE_SHARE * free))


def _packed(images: Mapping[bytes, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a shard."""
    flat = [np.ascontiguousarray(pixels).reshape(-1) for pixels in images.values()]
    index: dict[str, np.ndarray] = {
        "digests": np.frombuffer(b"".join(_short(key) for key in images), np.uint8).reshape(-1, _DIGEST),
        "shapes": np.array([pixels.shape[:2] for pixels in images.values()], np.int64).reshape(-1, 2),
        "crcs": np.array([zlib.crc32(pixels.data) for pixels in flat], np.int64),
    }
    return {**index, "pixels": np.concatenate(flat)}, {"crc32": checksum(*index.values())}


def _short(key: bytes) -> bytes:
    return key if len(key) == _DIGEST else hashlib.sha256(key).digest()[:_DIGEST]


def _mapped(shard: Path) -> dict[bytes, _Place]:
    """Where each image of a shard lies; raises ValueError where the index is not what was written."""
    from safetensors import safe_open

    with safe_open(shard, framework="numpy") as file:  # tests that the file is as long as its header says
        digests, shapes, crcs = (file.get_tensor(name) for name in ("digests", "shapes", "crcs"))
        expected, total = (file.metadata() or {}).get("crc32"), file.get_slice("pixels").get_shape()
    ends = np.cumsum(shapes.prod(axis=1) * 3)
    if expected != checksum(digests, shapes, crcs) or total != [int(ends[-1])]:
        raise ValueError("checksum differs")
    with shard.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        start = 8 + length + json.loads(opened.read(length))["pixels"]["data_offsets"][0]
    # Copy on write: nothing can change the file through this view, and torch takes only arrays it may write to.
    data = np.memmap(shard, np.uint8, "c", start, (int(ends[-1]),))
    places = {}
    for digest, (height, width), end, crc in zip(digests, shapes, ends, crcs, strict=True):
        size = int(height * width * 3)
        pixels = np.asarray(data[end - size : end]).reshape(int(height), int(width), 3)
        places[bytes(digest)] = _Place(shard, pixels, int(crc))
    return places
