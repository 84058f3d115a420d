"""One file of an archive: where it lies, and its bytes when they are asked for."""

from __future__ import annotations

import bz2
import errno
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from finetune.data.gzipped import gzip_file
from finetune.data.imageset import Quarantined
from finetune.data.place import BETWEEN, Inside

STORED, DEFLATED, BZIP2, GZIPPED = 0, 8, 12, -1
"""How a member is packed: zip's numbers, and one for the members of a tar that is gzipped as a whole."""
_LOCAL = struct.Struct(
    "<4s22xHH"
)  # of a member's header before its bytes: mark, lengths of name and extra field


_NOWHERE = (ValueError, OverflowError, MemoryError)
"""What seeking and reading raise at a negative or huge place."""


@dataclass(frozen=True, slots=True)
class Member(Inside):
    """One file of an archive."""

    archive: Path
    inner: str
    size: int
    offset: int
    """Of its header in a zip, of its bytes in a tar."""
    packed: int
    """Bytes it takes in the archive."""
    method: int = STORED
    checksum: int | None = None

    def within(self) -> Path:
        return self.archive

    def read_bytes(self) -> bytes:
        if self.method == GZIPPED:
            try:
                return _whole(gzip_file(self.archive).read(self.offset, self.size), self.size)
            except (EOFError, zlib.error):
                raise _unreadable("the archive is cut short or damaged") from None
        with self.archive.open("rb") as file:
            if self.checksum is None:  # of a tar
                return self.read_from(file)
            try:
                return self._unzip(file)
            except _NOWHERE:
                raise _unreadable("the archive gives a place that it cannot have") from None

    def read_from(self, file: IO[bytes]) -> bytes:
        """The same from its plain tar, which is open."""
        try:
            file.seek(self.offset)
            return _whole(file.read(self.size), self.size)
        except _NOWHERE:
            raise _unreadable("the archive gives a place that it cannot have") from None

    def _unzip(self, file: IO[bytes]) -> bytes:
        file.seek(self.offset)
        try:
            mark, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        except struct.error:
            raise _unreadable("the archive ends before it") from None
        if mark != b"PK\x03\x04":
            raise _unreadable("the archive is damaged before it")
        file.seek(name + extra, os.SEEK_CUR)
        data = file.read(self.packed)
        try:
            if self.method == DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, self.size + 1)
            elif self.method == BZIP2:
                data = bz2.BZ2Decompressor().decompress(data, self.size + 1)
        except (zlib.error, OSError) as error:
            raise _unreadable(f"its bytes are damaged: {error}") from None
        if zlib.crc32(_whole(data, self.size)) != self.checksum:
            raise _unreadable("its checksum is wrong")
        return data


class Branch:
    """A folder inside an archive."""

    def __init__(self, name: str, shown: str) -> None:
        self.name, self.shown = name, shown
        self.folders: dict[str, Branch] = {}
        self.files: dict[str, Member] = {}

    def find(self, inner: str) -> Member | None:
        """The file at a path below this folder."""
        *folders, name = inner.split("/")
        here = self
        for part in folders:
            if part not in here.folders:
                return None
            here = here.folders[part]
        return here.files.get(name)

    def __str__(self) -> str:
        return self.shown


@dataclass(frozen=True)
class Contents:
    """What an archive holds."""

    path: Path
    named: Mapping[str, Member]
    """Those that may be read by their plain paths, in the order in which they lie there."""
    aside: tuple[Quarantined, ...] = ()
    """Those that may not, and why: names that lead out of the archive, links, devices, bombs."""
    cut: str | None = None
    """How the archive ends too early; what lies before that is here."""

    @property
    def members(self) -> tuple[Member, ...]:
        """Those that may be read."""
        return tuple(self.named.values())

    @cached_property
    def root(self) -> Branch:
        """The same as a tree."""
        root = Branch(self.path.stem, str(self.path))
        for plain, member in self.named.items():
            *folders, name = plain.split("/")
            here = root
            for part in folders:
                if part not in here.folders:
                    between = BETWEEN if here is root else "/"
                    here.folders[part] = Branch(part, f"{here.shown}{between}{part}")
                here = here.folders[part]
            here.files[name] = member
        return root


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise _unreadable("the archive ends before it does, or says another size")
    return data


def _unreadable(why: str) -> OSError:
    return OSError(errno.EIO, why)
