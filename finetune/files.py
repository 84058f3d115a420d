"""Files that are either whole or not there: written beside the target, flushed, then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.errors import RunError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces ``path``, on failure it is removed.

    A process killed at any moment leaves the old file or the new one, never half of one. A full or
    read-only disk raises RunError naming the file.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; only for a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def disk_error(error: OSError, path: Path) -> RunError:
    """The message for a write that failed, with the remedy that fits the cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"The disk is full: {path} could not be written. The last good files are intact. "
            "Free some space, or choose another place with --out (or FINETUNE_CACHE for the cache)."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return RunError(
            f"{path} could not be written: {error.strerror}. Choose a writable place with --out (or FINETUNE_CACHE for "
            "the cache)."
        )
    return RunError(f"{path} could not be written: {error.strerror or error}.")


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes atomically. Raises RunError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically. Raises RunError."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically; non-finite numbers become null, so that any reader accepts it."""
    atomic_write_text(path, json_text(value) + "\n")


def json_text(value: Any) -> str:
    """Indented JSON of plain values, NumPy's and torch's; non-finite numbers become null."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not hasattr(value, "__len__"):  # numpy and torch scalars
        return _finite(value.item())
    return value


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
