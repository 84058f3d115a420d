"""Parquet tables: columns as lists; images that lie in the cells stay there until they are asked for."""

from __future__ import annotations

import bisect
import errno
import functools
import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from finetune.data.memory import MEBI, budget
from finetune.data.place import BETWEEN, Inside, Place, cell_image
from finetune.data.refusals import refuse_twins
from finetune.errors import DataError, must

_PEEKED = 16
"""Cells by which bytes are told from text that was written as bytes."""


@dataclass(frozen=True, slots=True)
class CellImage(Inside):
    """The image in a cell: bytes, or what ``datasets`` makes of one. Its size is not known before it is read."""

    known_image: ClassVar[bool] = True

    table: Place
    column: str
    row: int
    inner: str
    stamp: int
    """When the table was written: a table of the same name is another one then."""
    size: int = 0

    def within(self) -> Path:
        return self.table if isinstance(self.table, Path) else self.table.within()

    def read_bytes(self) -> bytes:
        cell = _images(self.table, self.column, self.stamp).cell(self.row)
        return cell_image(cell, self.table.parent if isinstance(self.table, Path) else None)


def read_parquet(table: Place) -> dict[str, list[Any]]:
    """All columns; those of images as ``CellImage``. Raises DataError, and OSError where the file cannot be read."""
    try:
        import pyarrow
    except ImportError:
        raise DataError("Parquet tables need pyarrow: pip install 'finetune[parquet]'.") from None
    try:
        with _opened(table) as file:
            refuse_twins(table, file.schema_arrow.names)
            kinds = {field.name: field.type for field in file.schema_arrow}
            images = [name for name, kind in kinds.items() if _holds_images(file, name, kind)]
            found = file.read(columns=[name for name in kinds if name not in images])
            rows = file.metadata.num_rows
        stamp = table.stat().st_mtime_ns if isinstance(table, Path) else 0
        columns: dict[str, list[Any]] = {}
        for name in kinds:
            if name in images:
                before = "" if isinstance(table, Path) else f"{table.inner}{BETWEEN}"
                columns[name] = [CellImage(table, name, i, f"{before}{i}", stamp) for i in range(rows)]
            else:
                columns[name] = [_text(cell) for cell in found.column(name).to_pylist()]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(must(str(table), "a Parquet file", str(error).splitlines()[0].rstrip("."))) from None
    return columns


def _opened(table: Place) -> Any:
    import pyarrow
    from pyarrow import parquet

    if isinstance(table, Path):
        return parquet.ParquetFile(table)
    return parquet.ParquetFile(pyarrow.BufferReader(table.read_bytes()))


def _holds_images(file: Any, name: str, kind: Any) -> bool:
    """Whether a column is one of images: ``datasets``' structs of bytes and path, or bytes that are no text."""
    from pyarrow import types

    if types.is_struct(kind):
        inner = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
        return "bytes" in inner and _binary(inner["bytes"])
    if not _binary(kind):
        return False
    batch = next(file.iter_batches(batch_size=_PEEKED, columns=[name]), None)
    cells = [cell for cell in (batch.column(0).to_pylist() if batch is not None else []) if cell]
    return any(isinstance(_text(cell), bytes) for cell in cells)


def _binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _text(cell: Any) -> Any:
    """Text that was written as bytes, as some programs do, as text; anything else as it is."""
    if not isinstance(cell, bytes) or b"\0" in cell:
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError:
        return cell


class _Images:
    """A column of images: row groups are read when they are first asked for, and kept while there is room."""

    def __init__(self, table: Place, column: str) -> None:
        self._file, self._column, self._lock = _opened(table), column, threading.Lock()
        facts = self._file.metadata
        sizes = (facts.row_group(i).num_rows for i in range(facts.num_row_groups))
        self._ends = list(itertools.accumulate(sizes))
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._room = budget(2048 * MEBI, 1 / 4)

    def cell(self, row: int) -> Any:
        """Raises OSError where the table is damaged there."""
        import pyarrow

        number = bisect.bisect_right(self._ends, row)
        start = self._ends[number - 1] if number else 0
        with self._lock:
            try:
                group = self._groups.get(number)
                if group is None:
                    group = self._file.read_row_group(number, columns=[self._column]).column(0)
                    self._groups[number] = group
                    while len(self._groups) > 1 and sum(g.nbytes for g in self._groups.values()) > self._room:
                        self._groups.popitem(last=False)
                self._groups.move_to_end(number)
                return group[row - start].as_py()
            except (ValueError, IndexError, pyarrow.ArrowException) as error:
                raise OSError(errno.EIO, f"the table is damaged: {str(error).splitlines()[0]}") from None


_MAKING = threading.Lock()


def _images(table: Place, column: str, stamp: int) -> _Images:
    with _MAKING:  # one for all threads
        return _made(table, column, stamp)


@functools.lru_cache(maxsize=4)
def _made(table: Place, column: str, stamp: int) -> _Images:
    return _Images(table, column)
