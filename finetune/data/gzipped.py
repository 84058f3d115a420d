"""Any part of a gzipped file, without unpacking the whole of it to the disk.

While the file is first read the state of the decompressor is kept every mebibyte or so (32 KiB of it is history); what
is asked for later is decompressed from the state before it. zlib's own zran.c example does the same.
"""

from __future__ import annotations

import functools
import io
import os
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from finetune.data.memory import MEBI

_READ = 1 << 14
_RECENT = 16
_MOST_STATES = 1024


class GzipFile:
    """Random access to the unpacked bytes. Safe for threads; each process has its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._block = max(MEBI, 2 * path.stat().st_size // _MOST_STATES)
        self._lock = threading.Lock()
        self._states: list[tuple[int, Any, bytes]] = [(0, _new(), b"")]
        """At the start of each block: place in the file, decompressor, input that it has not taken yet."""
        self._recent: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` unpacked bytes; fewer at the end. Raises EOFError for a file cut short, zlib.error."""
        parts = []
        with self._lock:
            while size > 0:
                number, skip = divmod(offset, self._block)
                part = self._unpacked(number)[skip : skip + size]
                if not part:
                    break
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def open(self) -> io.BufferedReader:
        """The unpacked bytes as a file that can be read and sought forward."""
        return io.BufferedReader(_Unpacked(self), _READ)

    def _unpacked(self, number: int) -> bytes:
        if number in self._recent:
            self._recent.move_to_end(number)
            return self._recent[number]
        while len(self._states) <= number:
            if len(self._make(len(self._states) - 1)) < self._block:
                return b""
        return self._make(number)

    def _make(self, number: int) -> bytes:
        """Block ``number``; the state after it is kept."""
        place, kept, pending = self._states[number]
        unzip, out = kept.copy(), bytearray()
        with self.path.open("rb") as file:
            file.seek(place)
            while len(out) < self._block:
                if not pending:
                    pending = file.read(_READ)
                    place += len(pending)
                    if not pending and not unzip.eof:
                        rest = unzip.decompress(b"", self._block - len(out))
                        if not rest and not unzip.eof:
                            raise EOFError
                        out += rest
                        continue
                    if not pending:
                        break
                if unzip.eof:  # another gzip follows; zeros or others' bytes end the file, as gunzip has it
                    if not pending.startswith(b"\x1f"):
                        break
                    unzip = _new()
                out += unzip.decompress(pending, self._block - len(out))
                pending = unzip.unused_data if unzip.eof else unzip.unconsumed_tail
        block = bytes(out)
        if number == len(self._states) - 1 and len(block) == self._block:
            self._states.append((place, unzip.copy(), pending))
        self._recent[number] = block
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return block


class _Unpacked(io.RawIOBase):
    def __init__(self, source: GzipFile) -> None:
        self._source, self._place = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + (self._place if whence == os.SEEK_CUR else 0)
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._source.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _new() -> Any:
    return zlib.decompressobj(31)  # with gzip's header and checksum


@functools.lru_cache(maxsize=8)
def _opened(path: Path, process: int, stamp: tuple[int, int]) -> GzipFile:
    return GzipFile(path)


def gzip_file(path: Path) -> GzipFile:
    """The file's states in this process, for as long as the file stays as it is. Raises OSError."""
    stat = path.stat()
    return _opened(path, os.getpid(), (stat.st_size, stat.st_mtime_ns))
