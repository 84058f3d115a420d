"""A table of images: CSV, TSV, JSON lines or Parquet, with a column of paths and a column of labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

from finetune.data.archive import is_archive, plain_name, read_archive
from finetune.data.columns import Columns, is_table, read_columns, rows_in, text_of, texts
from finetune.data.imageset import Quarantined
from finetune.data.layout import not_there
from finetune.data.listing import UNLABELLED, Listing, Row
from finetune.data.place import BETWEEN, Inside, Place, called, is_file
from finetune.errors import DataError, did_you_mean, must
from finetune.recipe import DataRecipe

_IMAGE = ("path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img")
LABELS = ("label", "class", "target", "category", "y", "label_name", "class_name", "labels")
_SPLIT = ("split", "set", "subset", "fold_name", "partition")
_ROLES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
          "dev": "val", "test": "test", "testing": "test"}  # fmt: skip
_SHOWN = 5
_STATS = 64
"""Files of a folder that are asked for one by one before the folder is listed."""

_OBJECTS = (dict, list, bytes, Inside)
_OBJECTS_CALLED = {dict: "a JSON object", list: "a list in a list"}

Find = Callable[[str], Place | None]
"""From a path in the table to the folder where it begins, or to the member of an archive; None where none is there."""


def read_table(
    recipe: DataRecipe, prefer: bool = False, table: Place | None = None, find: Find | None = None
) -> Listing:
    """The rows of the table ``recipe.path``; no image is opened.

    Columns are those that the recipe names, else the first of the usual names. Relative paths start at
    ``recipe.root``, else at the table's folder; ``photos.zip!/a.jpg`` lies in an archive, and the cells of a Parquet
    table may be images themselves. Entries without a label, and files that are not there, are set aside; but no label
    means none of the labels where the recipe says that the task is multi-label. Lists of labels (JSON, Parquet) are
    joined by the recipe's separator. With ``prefer`` a column that the recipe names may be missing. ``table`` and
    ``find``: a table that lies elsewhere, and its images.
    Raises DataError, naming what is wrong with the table.
    """
    table = table or Path(str(recipe.path)).expanduser()
    root = Path(recipe.root).expanduser() if recipe.root is not None else None
    if isinstance(table, Path):
        if not is_file(table):
            raise not_there(table)
        root = root or table.parent
    columns = read_columns(table)
    if not rows_in(columns):
        raise DataError(f"{str(table)!r} must hold a row per image below its header. Got none instead.")
    asked = [
        None if prefer and name not in columns else name
        for name in (recipe.image_column, recipe.label_column)
    ]
    names = list(columns)
    image = _image_column(table, columns, asked[0])
    label = _column(table, names, asked[1], LABELS, "label")
    split = _split_column(table, names, recipe, columns)
    group = _group_column(table, names, recipe)
    _refuse_objects(table, columns, image, label)
    lists = any(isinstance(cell, list) for cell in columns[label])
    if lists:
        columns[label] = [joined(table, cell, recipe.label_separator) for cell in columns[label]]
    if find is None:
        assert root is not None
        find = OnDisk(root)
    listing = _listing(table, columns, find, root, image, label, split, group, recipe.task == "multi-label")
    return replace(listing, label_name=label.strip() or "value", lists=lists)


class OnDisk:
    """Finds files below a folder, and members of archives there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._asked: dict[str, int] = {}
        self._held: dict[str, frozenset[str]] = {}
        self._archives: dict[Path, Find] = {}

    def __call__(self, name: str) -> Place | None:
        last = name.rpartition("/")[2]
        folder = name[: len(name) - len(last)]
        held = self._held.get(folder)
        if held is not None and last in held:
            return self.root
        if BETWEEN in name:
            outer, _, inner = name.partition(BETWEEN)
            return self._within(self.root / outer, inner)
        if held is None:
            self._asked[folder] = asked = self._asked.get(folder, 0) + 1
            if asked == _STATS:  # one listing is cheaper than so many questions
                self._held[folder] = _files(self.root / folder)
        # A listing may write a name in another way.
        return self.root if is_file(self.root / name) else None

    def _within(self, archive: Path, inner: str) -> Place | None:
        if not is_archive(archive) or not is_file(archive):
            return None
        if archive not in self._archives:
            self._archives[archive] = read_archive(archive).root.find
        return self._archives[archive](plain_name(inner))


def _files(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except (OSError, ValueError):
        return frozenset()


def _listing(
    table: Place, columns: Columns, find: Find, root: Path | None, image: str, label: str, split: str | None,
    group: str | None, unlabelled: bool,
) -> Listing:  # fmt: skip
    rows: list[Row] = []
    first: dict[str, int] = {}
    roles: dict[str, set[str]] = {}
    torn: dict[str, set[str]] = {}
    aside, missing, repeated = [], 0, 0
    count = rows_in(columns)
    nothing = [None] * count
    splits = nothing if split is None else columns[split]
    groups = nothing if group is None else columns[group]
    role_of = {} if split else {"": "all"}
    for cell, given, part, member in zip(columns[image], columns[label], splits, groups, strict=True):
        held = cell if isinstance(cell, Inside) else None
        name, given = text_of(cell) if held is None else called(held), text_of(given)
        if not name:
            aside.append(Quarantined("", f"{UNLABELLED}{image!r} in a row of {table.name}", "missing"))
            continue
        if not given and not unlabelled:
            aside.append(Quarantined(name, f"{UNLABELLED}{label!r} in {table.name}", "unlabelled"))
            continue
        at: Place | None = held or find(name)
        if at is None:
            missing += 1
            aside.append(
                Quarantined(name, f"is listed in {table.name}, but there is no such file", "missing")
            )
            continue
        if isinstance(at, Inside) and BETWEEN not in name:
            name = called(at)
        part = text_of(part)
        role = role_of.get(part) or role_of.setdefault(part, _role(table, part, str(split)))
        place = first.setdefault(name, len(rows))
        if place < len(rows):
            if rows[place].label != given:
                torn.setdefault(name, {rows[place].label}).add(given)
            here = roles.setdefault(name, {rows[place].split})
            if role in here:
                repeated += 1
                continue
            here.add(role)
        rows.append(Row(at, name, given, role, text_of(member) or None))
    if torn:
        name, labels = next(iter(torn.items()))
        raise DataError(
            f"{str(table)!r} must give each image one label. Got {len(torn)} with several instead, as "
            f"{name!r}: {' and '.join(sorted(labels)[:3])}. Remove the wrong rows."
        )
    if not rows:
        entry = next((q for q in aside if q.path), None)
        why = f" The first, {entry.path!r}, {entry.reason}." if entry else ""
        where = (
            f" Relative paths start at {str(root)!r}; data.root=DIR changes that." if missing and root else ""
        )
        raise DataError(f"{str(table)!r} must list images that exist. Got none instead.{why}{where}")
    notes = []
    if repeated:
        notes.append(f"{repeated} rows of {table.name} repeat an image and are skipped.")
    if missing:
        notes.append(f"{missing} of {count} files that {table.name} lists are not there.")
    names = {role: role if split else table.name for role in {row.split for row in rows}}
    return Listing(tuple(rows), names, tuple(notes), tuple(aside), by_value=True)


def _column(table: Place, columns: list[str], asked: str | None, usual: Sequence[str], what: str) -> str:
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


def _image_column(table: Place, columns: Columns, asked: str | None) -> str:
    """The one asked for, else that which holds images itself, else by the usual names."""
    held = [name for name, cells in columns.items() if isinstance(cells[0], Inside)]
    usual = [name for name in held if name.strip().lower() in _IMAGE] or held
    if asked is None and len(usual) == 1:
        return usual[0]
    return _column(table, list(columns), asked, _IMAGE, "image")


def _refuse_objects(table: Place, columns: Columns, image: str, label: str) -> None:
    """Raises DataError for a label that is neither text nor a number, nor a list of those."""
    for number, cell in enumerate(columns[label], 1):
        if isinstance(cell, (str, int, float, NoneType)):
            continue
        odd = [part for part in (cell if isinstance(cell, list) else [cell]) if isinstance(part, _OBJECTS)]
        if odd:
            of = columns[image][number - 1]
            named = "" if isinstance(of, _OBJECTS) else f" ({text_of(of)!r})"
            raise DataError(
                must(f"Label {label!r} of row {number}{named} of {str(table)!r}", "a text, a number or a list of those",
                     _OBJECTS_CALLED.get(type(odd[0]), "bytes"),
                     "Another column: data.label_column=NAME.")
            )  # fmt: skip


def _split_column(table: Place, names: list[str], recipe: DataRecipe, columns: Columns) -> str | None:
    if recipe.split_column is not None:
        return _column(table, names, recipe.split_column, _SPLIT, "split")
    for name in names:
        # One role is enough: a typo in another row must be told, and not put test images into training.
        if name.strip().lower() in _SPLIT and not texts(columns[name]).isdisjoint(_ROLES):
            return name
    return None


def _group_column(table: Place, columns: list[str], recipe: DataRecipe) -> str | None:
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


def _role(table: Place, value: str, column: str) -> str:
    role = _ROLES.get(value.lower())
    if role is None:
        raise DataError(
            must(f"Column {column!r} of {str(table)!r}", "train, val or test in every row", repr(value))
        )
    return role


def joined(where: Place | str, value: Any, separator: str) -> Any:
    """A list of labels as one text; whatever else is there stays as it is."""
    if not isinstance(value, list):
        return value
    texts = [text_of(part) for part in value]
    odd = next((text for text in texts if separator in text), None)
    if odd is not None:
        raise DataError(
            must(f"Labels of {str(where)!r}", f"free of {separator!r}, which is put between them", repr(odd),
                 "Choose another data.label_separator.")
        )  # fmt: skip
    return separator.join(texts)


__all__ = ["LABELS", "Find", "OnDisk", "is_table", "joined", "read_table"]
