"""Where the bytes of an image lie: in a file of its own, or inside of something larger that is read in place."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

BETWEEN = "!/"
"""What stands between an archive and the path inside of it: ``photos.zip!/ants/1.jpg``."""


class Inside(ABC):
    """A file inside of something larger, with what is asked of a ``Path`` here; may be sent to other processes."""

    __slots__ = ()

    inner: str
    """The path inside, with ``/`` between its parts."""
    size: int
    """Bytes; 0 where that is not known before they are read."""
    known_image: ClassVar[bool] = False
    """Whether it is meant to be an image, whatever its name says."""

    @abstractmethod
    def read_bytes(self) -> bytes:
        """All bytes, from any thread. Raises OSError where they cannot be had, with the reason in its strerror."""

    @abstractmethod
    def within(self) -> Path:
        """The file or folder on the disk that holds it."""

    @property
    def name(self) -> str:
        """The last part of the path inside."""
        return self.inner.rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on, as pathlib has it."""
        return PurePosixPath(self.name).suffix

    def __str__(self) -> str:
        return f"{self.within()}{BETWEEN}{self.inner}"


Place = Path | Inside
"""A file on the disk, or inside of something."""

Found = str | Inside
"""The same from a walk over many: a million texts are a third of a million Paths."""


def place_of(at: Place, name: str) -> Place:
    """The file called ``name`` below the folder ``at``; or ``at`` itself where it is inside of something.

    >>> place_of(Path("photos"), "ants/1.jpg").as_posix()
    'photos/ants/1.jpg'
    """
    return at if isinstance(at, Inside) else at / name


def called(found: Found, root: Path | None = None) -> str:
    """What to call an image in messages and tables: its path below ``root``, or that in its archive.

    >>> called(os.path.join("data", "cats", "1.png"), Path("data"))
    'cats/1.png'
    """
    if isinstance(found, Inside):
        return f"{found.within().name}{BETWEEN}{found.inner}"
    above = "" if root is None or root == Path() else f"{root}".rstrip(os.sep) + os.sep
    if root is not None and not found.startswith(above):
        return Path(found).relative_to(root).as_posix()
    return found[len(above) :].replace(os.sep, "/")


def cell_image(cell: Any, base: Path | None) -> bytes:
    """The bytes of the image in a cell of a table: themselves, or what ``datasets`` makes of one, a struct of bytes and
    path. ``base``: where such paths begin; None: they lead nowhere. Raises OSError."""
    fields = cell if isinstance(cell, Mapping) else {"bytes": cell}
    if fields.get("bytes") is not None:
        return bytes(fields["bytes"])
    if base is not None and fields.get("path"):
        return (base / str(fields["path"])).read_bytes()
    raise OSError(errno.ENOENT, "the row has no image")


def is_file(path: Path) -> bool:
    """Whether a file is there; not where the text is none that a file can have: too long, or with a NUL."""
    return os.path.isfile(path)  # noqa: PTH113  pathlib's raises for some of those


def is_dir(path: Path) -> bool:
    """The same of a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """The same of either."""
    return os.path.exists(path)  # noqa: PTH110


def size_of(place: Place) -> int:
    """Bytes of the file. Raises OSError."""
    return place.size if isinstance(place, Inside) else place.stat().st_size
