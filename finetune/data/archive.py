"""Zip and tar archives read in place: an index of their members, and each member's bytes when they are asked for.

Nothing is unpacked to the disk. A member is read with an open of its own, so that threads and processes share
nothing; of a compressed tar, which has no beginning but the first byte, see ``finetune.data.gzipped``.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from finetune.data import tar_index
from finetune.data.decode import IMAGE_SUFFIXES
from finetune.data.imageset import Quarantined
from finetune.data.member import BZIP2, DEFLATED, STORED, Contents, Member
from finetune.data.memory import MEBI
from finetune.data.place import BETWEEN
from finetune.data.refusals import bomb, is_bomb, refused
from finetune.data.tar_index import Entry
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
_ENCRYPTED = 0x1


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


def read_archive(path: Path) -> Contents:
    """The index of an archive. Raises DataError for a file that is none, and for one cut short, encrypted or a bomb."""
    return whole(path, index(path))


def whole(path: Path, found: Contents) -> Contents:
    """An index, where it is that of a whole archive. Raises DataError."""
    if found.cut is not None:
        raise refused(path, f"a whole archive. Got one that {found.cut} instead. Fetch or pack it again.")
    if not found.members and not found.aside:
        raise refused(path, "an archive with images. Got an empty one instead.")
    return found


def index(path: Path) -> Contents:
    """Like ``read_archive``, but a tar that ends too early gives the members before that, and says so."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise refused(
            path,
            f"one of {', '.join(SUFFIXES)}. Got another kind of archive instead. Unpack it, or pack it so.",
        )
    try:
        size = path.stat().st_size
        if size == 0:
            raise refused(path, "an archive. Got an empty file (0 bytes) instead.")
        entries, cut = list[Entry](), None
        for entry in _zip(path) if name.endswith(".zip") else tar_index.members(path):
            if isinstance(entry, str):
                cut = entry
            else:
                entries.append(entry)
    except OSError as error:
        got = error.strerror or str(error)
        raise DataError(must(f"Archive {str(path)!r}", "a readable file", got)) from None
    total = sum(member.size for member, _ in entries)
    if is_bomb(total, size):
        raise bomb(path, f"{total:,}", size)
    return _arranged(path, entries, cut)


def _zip(path: Path) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, struct.error, NotImplementedError) as error:
        with path.open("rb") as file:
            begins = file.read(4) == b"PK\x03\x04"
        what = "ends too early or is damaged" if begins else f"is no zip ({error})"
        raise refused(
            path, f"a whole zip archive. Got one that {what} instead. Fetch or pack it again."
        ) from None
    if any(info.flag_bits & _ENCRYPTED for info in listed):
        raise refused(path, "an archive without a password. Got an encrypted one instead. Unpack it first.")
    for info in listed:
        if not info.filename or info.filename.endswith("/"):  # a folder, or nothing that has a name
            continue
        mode = info.external_attr >> 16
        why = "is a link in the archive, which is not followed" if mode & 0o170000 == 0o120000 else None
        if info.compress_type not in (STORED, DEFLATED, BZIP2):
            why = why or "is compressed in a way that cannot be read in place: pack it with deflate"
        # orig_filename is what the archive says; filename has lost what follows a NUL. Old Windows tools wrote "\\".
        inner = info.orig_filename.replace("\\", "/")
        yield Member(path, inner, info.file_size, info.header_offset, info.compress_size, info.compress_type,
                     info.CRC), why  # fmt: skip


def _arranged(path: Path, entries: list[Entry], cut: str | None) -> Contents:
    aside, named = [], dict[str, Member]()
    for member, why in entries:
        unsafe = _why_not(member)
        if unsafe is None and why is not None and Path(member.name).suffix.lower() not in IMAGE_SUFFIXES:
            continue  # a link that does not claim to be an image
        if why := unsafe or why:
            aside.append(Quarantined(f"{path.name}{BETWEEN}{member.inner}", why))
            continue
        plain = plain_name(member.inner)
        named.pop(plain, None)  # the later one of two, as unpacking would leave it
        named[plain] = member
    return Contents(path, named, tuple(aside), cut)


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
