"""The members of a tar, plain or gzipped, in the order in which they lie there."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from finetune.data.gzipped import gzip_file
from finetune.data.member import GZIPPED, STORED, Member
from finetune.data.refusals import bomb, is_bomb, refused

Entry = tuple[Member, str | None]
"""A member, and why it may not be read."""
_ADLER = 65521
_MOST = 1 << 62
"""A tar of more bytes cannot be asked for a place in it."""
_ODD_SIZE = "is damaged: a header gives a size that nothing has"


def members(path: Path) -> Iterator[Entry | str]:
    """Those of the tar, and last of all how it ends too early, where it does."""
    zipped = not path.name.lower().endswith(".tar")
    if zipped:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise refused(path, "a tar.gz archive. Got a file that is not gzipped instead.")
    try:
        with gzip_file(path).open() if zipped else path.open("rb") as file:
            yield from members_of_tar(path, file, None if zipped else path.stat().st_size)
    except EOFError:
        yield "ends too early"
    except zlib.error as error:
        raise refused(
            path, f"a whole tar.gz archive. Got damaged bytes instead ({error}). Pack it again."
        ) from None


def members_of_tar(path: Path, file: IO[bytes], size: int | None) -> Iterator[Entry | str]:
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
                if info.size < 0 or not offset < after <= _MOST:
                    yield _ODD_SIZE
                    return
                if info.isdir():
                    offset = after
                    continue
                name, length, why, start = info.name, info.size, _not_a_file(info), info.offset_data
            end = start + length
            if size is not None and why is None and end > size:
                yield f"ends in the middle of {name!r}"
                return
            if size is None and is_bomb(end, packed := path.stat().st_size):
                raise bomb(path, f"at least {end:,}", packed)
            method = STORED if size is not None else GZIPPED
            yield Member(path, name, length, start, length, method), why
            offset = after
        if size is not None and (how := _ends(file, offset)):
            yield how
    except tarfile.ReadError as error:
        if "unexpected end" in str(error) or "zlib error" in str(error):
            yield "ends too early or is damaged"
        elif offset == 0:
            raise refused(path, f"a tar archive. Got a file that is none instead ({error}).") from None
        elif size is None:
            yield "is damaged behind its last member"
        elif how := _ends(file, offset):
            yield how
    except tarfile.TarError as error:
        yield f"is damaged ({error})"
    except (
        ValueError,
        OverflowError,
        MemoryError,
        RecursionError,
    ):  # out of tarfile, by a header before a member
        yield _ODD_SIZE


def _plain_header(block: bytes) -> tuple[str, int] | None:
    """Name and size, of a header that says no more: of a regular file with a short name. tarfile reads all others, at a
    tenth of the speed."""
    if len(block) < tarfile.BLOCKSIZE or block[156] not in b"0\0" or block[257:262] != b"ustar" or block[345]:
        return None
    length = _octal(block[124:136])
    if length < 0 or (_sum(block) - _octal(block[148:156])) % _ADLER:
        return None
    name = block[:100].split(b"\0", 1)[0]
    return (name.decode("utf-8", "replace"), length) if name and name[-1:] != b"/" else None


def _sum(block: bytes) -> int:
    """A header's checksum modulo ``_ADLER``: the sum of its bytes, the field of the checksum itself counted as spaces.

    The lower half of Adler-32 is that sum and 1, and takes a quarter of the time of ``sum``.
    """
    return (zlib.adler32(block[156:], zlib.adler32(b" " * 8, zlib.adler32(block[:148]))) & 0xFFFF) - 1


def _octal(digits: bytes) -> int:
    text = digits.strip(b" \0")
    try:
        return int(text, 8) if text.isdigit() else -1
    except ValueError:  # an 8 or a 9
        return -1


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
