"""Caches on disk made of shards: safetensors files that are written once, whole, under a name of their own.

Processes working at the same time never touch each other's files; at worst they compute something twice. What
cannot be read is left out with one line, and deleted where it is damaged rather than somebody else's. A shard's
modification time says when it was last of use.
"""

from __future__ import annotations

import contextlib
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from finetune.files import atomic_write_bytes

T = TypeVar("T")
SUFFIX = ".safetensors"
_LEFT_BEHIND = 3600.0
"""Seconds after which a half-written file is nobody's any more."""


@dataclass(frozen=True)
class Shard:
    """A file of a cache, as it was found."""

    path: Path
    bytes: int
    used: float
    """Seconds since the epoch."""


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder by name; none where there is no such folder."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def write_shard(folder: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Path:
    """Write a shard atomically. Raises RunError on a full or read-only disk."""
    from safetensors.numpy import save

    target = folder / f"{uuid.uuid4().hex}{SUFFIX}"
    atomic_write_bytes(target, save(dict(tensors), metadata=dict(metadata)))
    return target


def read_shard(shard: Path, read: Callable[[Path], T], what: str, say: Callable[[str], None]) -> T | None:
    """What ``read`` gives; None where it cannot. ``read`` raises ValueError for contents that are not right.

    A damaged shard is deleted; ``what`` names its contents (a plural) in the line that is said.
    """
    from safetensors import SafetensorError

    try:
        return read(shard)
    except FileNotFoundError:
        return None  # another process found it damaged first, or needed the room
    except OSError as error:  # another user's file, a failing disk: no reason to delete it
        say(f"{what} {shard} cannot be read ({error}); computing them again.")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        say(f"{what} {shard.name} are damaged ({error}); computing them again.")
        with contextlib.suppress(OSError):
            shard.unlink()
    return None


def checksum(*arrays: np.ndarray) -> str:
    """CRC-32 of the bytes of contiguous arrays, one after the other."""
    value = 0
    for array in arrays:
        value = zlib.crc32(array.data, value)
    return str(value)


def touch(shard: Path) -> None:
    """Note that a shard was of use, where that may be written."""
    with contextlib.suppress(OSError):
        os.utime(shard)


def found(root: Path) -> list[Shard]:
    """All shards below a folder, the one that was of use longest ago first."""
    listed = []
    for path in root.rglob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            listed.append(Shard(path, status.st_size, status.st_mtime))
    return sorted(listed, key=lambda shard: (shard.used, shard.path))


def remove(shards: Iterable[Shard], root: Path) -> tuple[int, int]:
    """Delete shards and the folders below ``root`` that they leave empty; how many files and bytes that freed."""
    files = freed = 0
    for shard in shards:
        with contextlib.suppress(OSError):
            shard.path.unlink()
            files, freed = files + 1, freed + shard.bytes
    for folder in {shard.path.parent for shard in shards} - {root}:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return files, freed


def make_room(root: Path, wanted: int, limit: int, keep: Callable[[Path], bool]) -> bool:
    """Delete the shards that were not of use for longest until ``wanted`` more bytes stay below ``limit``.

    Those that ``keep`` names stay. Whether there is room now.
    """
    listed = found(root)
    used = sum(shard.bytes for shard in listed)
    gone = []
    for shard in listed:
        if used + wanted <= limit:
            break
        if not keep(shard.path):
            gone.append(shard)
            used -= shard.bytes
    if used + wanted > limit:
        return False  # what would be deleted is worth more than nothing
    remove(gone, root)
    return True


def leftovers(root: Path, now: float) -> list[Shard]:
    """Files that a killed writer left half-written an hour ago or more."""
    listed = []
    for path in root.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if now - status.st_mtime > _LEFT_BEHIND:
                listed.append(Shard(path, status.st_size, status.st_mtime))
    return listed
