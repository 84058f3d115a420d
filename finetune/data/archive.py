"""Zip and tar archives read in place: an index of their members, and each member's bytes when they are asked for.

Nothing is unpacked to the disk. A member is read with an open of its own, so that threads and processes share
nothing; of a compressed tar, which has no beginning but the first byte, see ``finetune.data.gzipped``.
"""

from __future__ import annotations

import bz2
import errno
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from finetune.data.decode import IMAGE_SUFFIXES
from finetune.data.gzipped import gzip_file
from finetune.data.imageset import Quarantined
from finetune.data.memory import MEBI
from finetune.data.place import BETWEEN, Inside
from finetune.errors import DataError, must

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_FOREIGN = (
    ".tar.bz2",
    ".tbz2",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
    ".7z",
    ".rar",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
)
MOST_BYTES = 1024 * MEBI
"""A larger member is set aside; no photo is."""
BOMB_RATIO, BOMB_BYTES = 200, 1024 * MEBI
"""What unpacks to this many times its size, and to more than so many bytes, is a bomb: images hardly shrink."""
_STORED, _DEFLATED, _BZIP2, _GZIPPED = 0, 8, 12, -1
_ENCRYPTED = 0x1
_LOCAL = struct.Struct(
    "<4s22xHH"
)  # of a member's header before its bytes: mark, lengths of name and extra field


def is_archive(path: str | Path) -> bool:
    """Whether the name is that of an archive, also of one that cannot be read in place.

    >>> is_archive("photos.tar.gz"), is_archive("photos.RAR"), is_archive("photos")
    (True, True, False)
    """
    return Path(path).name.lower().endswith((*SUFFIXES, *_FOREIGN))


def is_shard(path: str | Path) -> bool:
    """Whether the name is that of a tar.

    >>> is_shard("000.tar"), is_shard("000.zip")
    (True, False)
    """
    return Path(path).name.lower().endswith(SUFFIXES[1:])


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
    method: int = _STORED
    checksum: int | None = None

    def within(self) -> Path:
        return self.archive

    def read_bytes(self) -> bytes:
        if self.method == _GZIPPED:
            try:
                return _whole(gzip_file(self.archive).read(self.offset, self.size), self.size)
            except (EOFError, zlib.error):
                raise _unreadable("the archive is cut short or damaged") from None
        with self.archive.open("rb") as file:
            if self.checksum is None:  # of a tar
                return self.read_from(file)
            return self._unzip(file)

    def read_from(self, file: IO[bytes]) -> bytes:
        """The same from its plain tar, which is open."""
        file.seek(self.offset)
        return _whole(file.read(self.size), self.size)

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
            if self.method == _DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, self.size + 1)
            elif self.method == _BZIP2:
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

    root: Branch
    members: tuple[Member, ...]
    """Those that may be read, in the order in which they lie there."""
    aside: tuple[Quarantined, ...] = ()
    """Those that may not, and why: names that lead out of the archive, links, devices, bombs."""
    cut: str | None = None
    """How the archive ends too early; what lies before that is here."""


def read_archive(path: Path) -> Contents:
    """The index of an archive. Raises DataError for a file that is none, and for one cut short, encrypted or a bomb."""
    return whole(path, index(path))


def whole(path: Path, found: Contents) -> Contents:
    """An index, where it is that of a whole archive. Raises DataError."""
    if found.cut is not None:
        raise _no(path, f"a whole archive. Got one that {found.cut} instead. Fetch or pack it again.")
    if not found.members and not found.aside:
        raise _no(path, "an archive with images. Got an empty one instead.")
    return found


def index(path: Path) -> Contents:
    """Like ``read_archive``, but a tar that ends too early gives the members before that, and says so."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise _no(
            path,
            f"one of {', '.join(SUFFIXES)}. Got another kind of archive instead. Unpack it, or pack it so.",
        )
    try:
        size = path.stat().st_size
        if size == 0:
            raise _no(path, "an archive. Got an empty file (0 bytes) instead.")
        entries, cut = list[_Entry](), None
        for entry in _zip(path) if name.endswith(".zip") else _tar(path, name):
            if isinstance(entry, str):
                cut = entry
            else:
                entries.append(entry)
    except OSError as error:
        got = error.strerror or str(error)
        raise DataError(must(f"Archive {str(path)!r}", "a readable file", got)) from None
    total = sum(member.size for member, _ in entries)
    if total > max(BOMB_BYTES, BOMB_RATIO * size):
        raise _bomb(path, f"{total:,}", size)
    return _arranged(path, entries, cut)


_Entry = tuple[Member, str | None]
"""A member, and why it may not be read."""


def _zip(path: Path) -> Iterator[_Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, struct.error, NotImplementedError) as error:
        with path.open("rb") as file:
            begins = file.read(4) == b"PK\x03\x04"
        what = "ends too early or is damaged" if begins else f"is no zip ({error})"
        raise _no(
            path, f"a whole zip archive. Got one that {what} instead. Fetch or pack it again."
        ) from None
    if any(info.flag_bits & _ENCRYPTED for info in listed):
        raise _no(path, "an archive without a password. Got an encrypted one instead. Unpack it first.")
    for info in listed:
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        why = "is a link in the archive, which is not followed" if mode & 0o170000 == 0o120000 else None
        if info.compress_type not in (_STORED, _DEFLATED, _BZIP2):
            why = why or "is compressed in a way that cannot be read in place: pack it with deflate"
        # orig_filename is what the archive says; filename has lost what follows a NUL. Old Windows tools wrote "\\".
        inner = info.orig_filename.replace("\\", "/")
        yield Member(path, inner, info.file_size, info.header_offset, info.compress_size, info.compress_type,
                     info.CRC), why  # fmt: skip


def _tar(path: Path, name: str) -> Iterator[_Entry | str]:
    zipped = not name.endswith(".tar")
    if zipped:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise _no(path, "a tar.gz archive. Got a file that is not gzipped instead.")
    try:
        with gzip_file(path).open() if zipped else path.open("rb") as file:
            yield from members_of_tar(path, file, None if zipped else path.stat().st_size)
    except _Swollen:
        raise _bomb(path, f"more than {BOMB_BYTES:,}", path.stat().st_size) from None
    except EOFError:
        yield "ends too early"
    except zlib.error as error:
        raise _no(
            path, f"a whole tar.gz archive. Got damaged bytes instead ({error}). Pack it again."
        ) from None


def members_of_tar(path: Path, file: IO[bytes], size: int | None) -> Iterator[_Entry | str]:
    """The files of an open tar in their order, and last of all how it ends too early, where it does.

    ``size`` is that of the tar in bytes; None where it is gzipped, and its end shows by reading on.
    """
    offset = 0
    try:
        while True:
            file.seek(offset)
            block = file.read(tarfile.BLOCKSIZE)
            plain = _plain_header(block)
            if plain is not None:
                name, length, why, start = *plain, None, offset + tarfile.BLOCKSIZE
                after = start + -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            else:
                file.seek(offset)
                with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="replace") as archive:
                    info = archive.next()
                    after = archive.offset
                if info is None:
                    break
                if info.isdir():
                    offset = after
                    continue
                name, length, why, start = info.name, info.size, _not_a_file(info), info.offset_data
            end = start + length
            if size is not None and why is None and end > size:
                yield f"ends in the middle of {name!r}"
                return
            if size is None:
                _within_reason(path, end)
            method = _STORED if size is not None else _GZIPPED
            yield Member(path, name, length, start, length, method), why
            offset = after
        if size is not None and (how := _ends(file, offset)):
            yield how
    except tarfile.ReadError as error:
        if "unexpected end" in str(error) or "zlib error" in str(error):
            yield "ends too early or is damaged"
        elif offset == 0:
            raise _no(path, f"a tar archive. Got a file that is none instead ({error}).") from None
        elif size is None:
            yield "is damaged behind its last member"
        elif how := _ends(file, offset):
            yield how
    except tarfile.TarError as error:
        yield f"is damaged ({error})"


def _plain_header(block: bytes) -> tuple[str, int] | None:
    """Name and size, of a header that says no more: of a regular file with a short name. tarfile reads all others, at a
    tenth of the speed."""
    if len(block) < tarfile.BLOCKSIZE or block[156] not in b"0\0" or block[257:262] != b"ustar":
        return None
    length = _octal(block[124:136])
    if length < 0 or block[345] or sum(block) - sum(block[148:156]) + 256 != _octal(block[148:156]):
        return None
    name = block[:100].split(b"\0", 1)[0]
    return (name.decode("utf-8", "replace"), length) if name and name[-1:] != b"/" else None


def _octal(digits: bytes) -> int:
    text = digits.strip(b" \0")
    return int(text, 8) if text.isdigit() and b"8" not in text and b"9" not in text else -1


class _Swollen(Exception):
    """A compressed tar has given more than is reasonable."""


def _within_reason(path: Path, unpacked: int) -> None:
    if unpacked > max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size):
        raise _Swollen


def _ends(file: IO[bytes], offset: int) -> str | None:
    """How a tar ends too early; None where a block of zeros ends it, as every tar should."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "ends in the middle of a header" if block else "ends without the mark at its end"
    return "is damaged behind its last member" if block.strip(b"\0") else None


def _not_a_file(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "is a link in the archive, which is not followed"
    if info.issparse():
        return "is a sparse file, which cannot be read in place"
    return None if info.isreg() else "is a device in the archive"


def _arranged(path: Path, entries: list[_Entry], cut: str | None) -> Contents:
    root, aside, members = Branch(path.stem, str(path)), [], dict[str, Member]()
    for member, why in entries:
        unsafe = _why_not(member)
        if unsafe is None and why is not None and Path(member.name).suffix.lower() not in IMAGE_SUFFIXES:
            continue  # a link that does not claim to be an image
        if why := unsafe or why:
            aside.append(Quarantined(f"{path.name}{BETWEEN}{member.inner}", why))
            continue
        members.pop(
            plain := plain_name(member.inner), None
        )  # the later one of two, as unpacking would leave it
        members[plain] = member
    for plain, member in members.items():
        *folders, name = plain.split("/")
        here = root
        for part in folders:
            if part not in here.folders:
                here.folders[part] = Branch(part, f"{here.shown}{'/' if here is not root else BETWEEN}{part}")
            here = here.folders[part]
        here.files[name] = member
    return Contents(root, tuple(members.values()), tuple(aside), cut)


def plain_name(inner: str) -> str:
    """A member's path without what says nothing.

    >>> plain_name("./ants//1.jpg")
    'ants/1.jpg'
    """
    if "//" not in inner and "./" not in inner:
        return inner
    return "/".join(part for part in inner.split("/") if part not in ("", "."))


_LEADS_OUT = re.compile(r"^/|^[A-Za-z]:/|\0|(^|/)\.\.(/|$)")


def _why_not(member: Member) -> str | None:
    if _LEADS_OUT.search(member.inner):
        return "has a path that leads out of the archive"
    if member.size > MOST_BYTES:
        return f"is larger than {MOST_BYTES // MEBI} MiB"
    return None


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise _unreadable("the archive ends before it does, or says another size")
    return data


def _unreadable(why: str) -> OSError:
    return OSError(errno.EIO, why)


def _no(path: Path, rest: str) -> DataError:
    return DataError(f"Archive {str(path)!r} must be {rest}")


def _bomb(path: Path, unpacked: str, size: int) -> DataError:
    return _no(
        path, f"an archive of images. Got {unpacked} bytes out of {size:,} instead: a decompression bomb."
    )
