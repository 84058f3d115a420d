"""A table of images: CSV, TSV, JSON lines or Parquet, with a column of paths and a column of labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.data.imageset import Quarantined
from finetune.data.listing import UNLABELLED, Listing, Row
from finetune.errors import DataError, did_you_mean, must
from finetune.recipe import DataRecipe

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

_IMAGE = ("path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img")
_LABEL = ("label", "class", "target", "category", "y", "label_name", "class_name", "labels")
_SPLIT = ("split", "set", "subset", "fold_name", "partition")
_ROLES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
_SHOWN = 5

Record = Mapping[str, Any]


def is_table(path: str | Path) -> bool:
    """Whether the name is that of a table.

    >>> is_table("labels.csv"), is_table("photos")
    (True, False)
    """
    return Path(path).suffix.lower() in SUFFIXES


def read_table(recipe: DataRecipe, prefer: bool = False) -> Listing:
    """The rows of the table ``recipe.path``; no image is opened.

    Columns are those that the recipe names, else the first of the usual names. Relative paths start at
    ``recipe.root``, else at the table's folder. Entries without a label, and files that are not there, are set
    aside; but no label means none of the labels where the recipe says that the task is multi-label. Lists of
    labels (JSON, Parquet) are joined by the recipe's separator. With ``prefer`` a column that the recipe names
    may be missing. Raises DataError, naming what is wrong with the table.
    """
    table = Path(str(recipe.path)).expanduser()
    if not table.is_file():
        raise DataError(
            must("data.path", "an existing folder or table", f"{str(table)!r}, which does not exist")
        )
    records = _records(table)
    if not records:
        raise DataError(f"{str(table)!r} must hold a row per image below its header. Got none instead.")
    columns = list(dict.fromkeys(key for record in records for key in record))
    asked = [
        None if prefer and name not in columns else name
        for name in (recipe.image_column, recipe.label_column)
    ]
    image = _column(table, columns, asked[0], _IMAGE, "image")
    label = _column(table, columns, asked[1], _LABEL, "label")
    split = _split_column(table, columns, recipe, records)
    group = _group_column(table, columns, recipe)
    root = Path(recipe.root).expanduser() if recipe.root is not None else table.parent
    lists = any(isinstance(record.get(label), list) for record in records)
    if lists:
        records = [{**r, label: _joined(table, r.get(label), recipe.label_separator)} for r in records]
    listing = _listing(table, records, root, image, label, split, group, recipe.task == "multi-label")
    return replace(listing, label_name=label.strip() or "value", lists=lists)


def _listing(
    table: Path, records: Sequence[Record], root: Path, image: str, label: str, split: str | None,
    group: str | None, unlabelled: bool,
) -> Listing:  # fmt: skip
    rows: dict[tuple[str, str], Row] = {}
    torn: dict[str, set[str]] = {}
    aside, missing, repeated = [], 0, 0
    for record in records:
        name, given = _text(record.get(image)), _text(record.get(label))
        if not name:
            aside.append(Quarantined("", f"{UNLABELLED}{image!r} in a row of {table.name}"))
            continue
        path = root / name
        if not given and not unlabelled:
            aside.append(Quarantined(name, f"{UNLABELLED}{label!r} in {table.name}"))
            continue
        if not path.is_file():
            missing += 1
            aside.append(Quarantined(name, f"is listed in {table.name}, but there is no such file"))
            continue
        role = _role(table, record.get(split), split) if split else "all"
        row = Row(path, name, given, role, _text(record.get(group)) or None if group else None)
        torn.setdefault(name, set()).add(given)
        repeated += (name, role) in rows
        rows.setdefault((name, role), row)
    conflicts = {name: labels for name, labels in torn.items() if len(labels) > 1}
    if conflicts:
        name, labels = next(iter(conflicts.items()))
        raise DataError(
            f"{str(table)!r} must give each image one label. Got {len(conflicts)} with several instead, as "
            f"{name!r}: {' and '.join(sorted(labels)[:3])}. Remove the wrong rows."
        )
    if not rows:
        first = next((q for q in aside if q.path), None)
        why = f" The first, {first.path!r}, {first.reason}." if first else ""
        where = f" Relative paths start at {str(root)!r}; data.root=DIR changes that." if missing else ""
        raise DataError(f"{str(table)!r} must list images that exist. Got none instead.{why}{where}")
    notes = []
    if repeated:
        notes.append(f"{repeated} rows of {table.name} repeat an image and are skipped.")
    if missing:
        notes.append(f"{missing} of {len(records)} files that {table.name} lists are not there.")
    names = {role: role if split else table.name for role in {row.split for row in rows.values()}}
    return Listing(tuple(rows.values()), names, tuple(notes), tuple(aside), by_value=True)


def _records(table: Path) -> list[Record]:
    suffix = table.suffix.lower()
    try:
        if suffix == ".parquet":
            return _parquet(table)
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            must(str(table), "text in UTF-8", f"byte {error.start} of another encoding")
        ) from None
    except OSError as error:
        raise DataError(must(str(table), "a readable file", error.strerror or str(error))) from None
    return _json_lines(table, text) if suffix in (".jsonl", ".ndjson") else _csv(table, text, suffix)


def _csv(table: Path, text: str, suffix: str) -> list[Record]:
    header = text.split("\n", 1)[0]
    delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    records: list[Record] = []
    try:
        for record in reader:
            if None in record:
                raise DataError(
                    f"Line {reader.line_num} of {str(table)!r} must have {len(reader.fieldnames or ())} fields. "
                    f"Got {len(record) - 1 + len(record[None])} instead. Quote fields that contain {delimiter!r}."
                )
            records.append(record)
    except csv.Error as error:
        raise DataError(f"Line {reader.line_num} of {str(table)!r} is not CSV: {error}.") from None
    return records


def _json_lines(table: Path, text: str) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"Line {number} of {str(table)!r} is not JSON: {error.msg}.") from None
        if not isinstance(record, dict):
            raise DataError(must(f"Line {number} of {str(table)!r}", "a JSON object", type(record).__name__))
        records.append(record)
    return records


def _parquet(table: Path) -> list[Record]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise DataError("Parquet tables need pyarrow: pip install 'finetune[parquet]'.") from None
    try:
        records: list[Record] = parquet.read_table(table).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own errors are ValueErrors
        raise DataError(must(str(table), "a Parquet file", str(error).splitlines()[0])) from None
    return records


def _column(table: Path, columns: list[str], asked: str | None, usual: Sequence[str], what: str) -> str:
    if asked is not None:
        if asked not in columns:
            got = f"{asked!r}, and the table has {', '.join(map(repr, columns))}"
            raise DataError(
                must(f"data.{what}_column", f"a column of {table.name}", got).rstrip()
                + did_you_mean(asked, columns)
            )
        return asked
    lower = {column.strip().lower(): column for column in columns}
    for name in usual:
        if name in lower:
            return lower[name]
    listed = ", ".join(map(repr, columns)) if columns else "none"
    raise DataError(
        f"{str(table)!r} must have a column of {what}s, called {usual[0]!r} or like it. Got {listed} instead. "
        f"Name it: data.{what}_column=NAME."
    )


def _split_column(
    table: Path, columns: list[str], recipe: DataRecipe, records: Sequence[Record]
) -> str | None:
    if recipe.split_column is not None:
        return _column(table, columns, recipe.split_column, _SPLIT, "split")
    for column in columns:
        values = {_text(record.get(column)).lower() for record in records}
        if (
            column.strip().lower() in _SPLIT
            and values <= _ROLES.keys()
            and "train" in {_ROLES[v] for v in values}
        ):
            return column
    return None


def _group_column(table: Path, columns: list[str], recipe: DataRecipe) -> str | None:
    asked = recipe.group_by
    if asked is None or "(" in asked:  # a pattern, which load.py applies to the names
        return None
    if asked in columns:
        return asked
    raise DataError(
        must(
            "data.group_by",
            f"a column of {table.name}, or a pattern with one part in parentheses",
            f"{asked!r}, and the table has {', '.join(map(repr, columns))}",
        ).rstrip()
        + did_you_mean(asked, columns)
    )


def _role(table: Path, value: Any, column: str) -> str:
    role = _ROLES.get(_text(value).lower())
    if role is None:
        raise DataError(
            must(f"Column {column!r} of {str(table)!r}", "train, val or test in every row", repr(value))
        )
    return role


def _joined(table: Path, value: Any, separator: str) -> Any:
    """A list of labels as one text; whatever else is there stays as it is."""
    if not isinstance(value, list):
        return value
    texts = [_text(part) for part in value]
    odd = next((text for text in texts if separator in text), None)
    if odd is not None:
        raise DataError(
            must(f"Labels of {str(table)!r}", f"free of {separator!r}, which is put between them", repr(odd),
                 "Choose another data.label_separator.")
        )  # fmt: skip
    return separator.join(texts)


def _text(value: Any) -> str:
    """A cell as text; what stands for nothing is empty. Whole floats, as tables make them, lose their .0."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
