"""A table file as columns: CSV, TSV, JSON lines or Parquet, from the disk or out of an archive."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.data.parquet import read_parquet
from finetune.data.place import Place
from finetune.data.refusals import refuse_twins
from finetune.errors import DataError, must

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_DIFFERENT = 10_000
"""So many different texts of a column are kept once instead of once a row."""

Columns = dict[str, list[Any]]
"""Name -> a cell for each row, None where a row has none."""


def is_table(path: str | Path) -> bool:
    """Whether the name is that of a table.

    >>> is_table("labels.csv"), is_table("photos")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def read_columns(table: Place) -> Columns:
    """All columns, of equal length. Raises DataError, naming the line, for a file that is none of the kind."""
    suffix = table.suffix.lower()
    try:
        if suffix == ".parquet":
            return read_parquet(table)
        data = table.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as spreadsheets save "Unicode text"
            data = data.decode("utf-16").encode()
        text = data.decode("utf-8-sig")
        if suffix not in (".jsonl", ".ndjson"):
            header = text.split("\n", 1)[0]
            del text
            return _csv(table, data, header, suffix)
    except UnicodeDecodeError as error:
        raise DataError(
            must(str(table), "text in UTF-8", f"byte {error.start} of another encoding",
                 "Save it again in UTF-8; spreadsheets call that CSV UTF-8.")
        ) from None  # fmt: skip
    except OSError as error:
        raise DataError(must(str(table), "a readable file", error.strerror or str(error))) from None
    return _json_lines(table, text)


def _csv(table: Place, data: bytes, header: str, suffix: str) -> Columns:
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
    # Strict, or a quote that is never closed would swallow the rest of the rows.
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")  # decoded piece by piece
    lines = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
    found: list[list[str | None]] = []
    once: list[dict[str, str]] = []
    names: list[str] = []
    try:
        for cells in lines:
            if not cells:
                continue
            if not names:
                names, found, once = cells, [[] for _ in cells], [{} for _ in cells]
                refuse_twins(table, names)
                continue
            if len(cells) > len(names):
                raise DataError(
                    f"Line {lines.line_num} of {str(table)!r} must have {len(names)} fields. "
                    f"Got {len(cells)} instead. Quote fields that contain {delimiter!r}."
                )
            for column, seen, cell in zip(found, once, cells, strict=False):
                column.append(seen.setdefault(cell, cell) if len(seen) < _DIFFERENT else cell)
            for column in found[len(cells) :]:
                column.append(None)
    except csv.Error as error:
        raise DataError(f"Line {lines.line_num} of {str(table)!r} is not CSV: {error}.") from None
    return dict(zip(names, found, strict=True))


def _json_lines(table: Place, text: str) -> Columns:
    columns: Columns = {}
    rows = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"Line {number} of {str(table)!r} is not JSON: {error.msg}.") from None
        except (ValueError, RecursionError):
            raise DataError(
                f"Line {number} of {str(table)!r} must be plain JSON. Got a number of thousands of digits, or lists in "
                "lists a thousand deep, instead."
            ) from None
        if not isinstance(record, dict):
            raise DataError(must(f"Line {number} of {str(table)!r}", "a JSON object", type(record).__name__))
        for name, cell in record.items():
            if name not in columns:
                columns[name] = [None] * rows
            columns[name].append(cell)
        rows += 1
        if len(record) < len(columns):
            for column in columns.values():
                column += [None] * (rows - len(column))
    return columns


def text_of(cell: Any) -> str:
    """A cell as text; what stands for nothing is empty. Whole floats, as tables make them, lose their .0.

    >>> text_of(3.0), text_of(" a "), text_of(None)
    ('3', 'a', '')
    """
    if isinstance(cell, str):
        return cell.strip()
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def rows_in(columns: Columns) -> int:
    """Rows of a table."""
    return len(next(iter(columns.values()), ()))


def texts(cells: Sequence[Any]) -> set[str]:
    """The different texts of a column, in small letters."""
    return {text_of(cell).lower() for cell in cells}
