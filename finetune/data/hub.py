"""Data sets of Hugging Face's ``datasets``: on the Hub (``hf:NAME``), or a folder that ``save_to_disk`` wrote."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from finetune.data.columns import text_of
from finetune.data.imageset import Quarantined
from finetune.data.layout import ROLES
from finetune.data.listing import UNLABELLED, Listing, Row
from finetune.data.place import Inside, called, cell_image, is_file
from finetune.data.table import LABELS
from finetune.errors import DataError, did_you_mean, missing_extra, must
from finetune.recipe import DataRecipe

PREFIX = "hf:"


def is_hub(path: str | Path) -> bool:
    """Whether ``data.path`` is ``hf:NAME`` or a folder that ``save_to_disk`` wrote.

    >>> is_hub("hf:user/birds"), is_hub("photos")
    (True, False)
    """
    if str(path).startswith(PREFIX):
        return True
    folder = Path(path).expanduser()
    return is_file(folder / "dataset_dict.json") or (
        is_file(folder / "state.json") and is_file(folder / "dataset_info.json")
    )


class _Split:
    """One split of a data set. Rows are read one at a time: its authors promise nothing about threads."""

    def __init__(self, rows: Any, column: str) -> None:
        self._rows, self._column, self._lock = rows, column, threading.Lock()

    def image(self, index: int) -> bytes:
        """The bytes of the file that was put into the data set. Raises OSError."""
        with self._lock:
            cell = self._rows[index][self._column]
        return cell_image(cell, Path())


@dataclass(frozen=True, slots=True)
class RowImage(Inside):
    """The image of one row. Its size is not known before it is read."""

    known_image: ClassVar[bool] = True

    source: Path
    inner: str
    index: int
    split: _Split
    size: int = 0

    def within(self) -> Path:
        return self.source

    def read_bytes(self) -> bytes:
        return self.split.image(self.index)


def read_hub(recipe: DataRecipe) -> Listing:
    """The rows of a data set with their labels; no image is read. Raises DataError.

    The image is the column of type Image, the label that of type ClassLabel, or those that the recipe names. Splits
    called train, validation and test are those; others are skipped with a note. Rows without a label (None, or -1
    of a ClassLabel) are set aside.
    """
    text = str(recipe.path)
    found = _loaded(text)
    source = Path(text.removeprefix(PREFIX).partition(":")[0])
    splits, notes = _splits(found, text)
    rows: list[Row] = []
    aside: list[Quarantined] = []
    lists = False
    for name, (split, data) in splits.items():
        image, label = _columns(data.features, recipe, text)
        names = _class_names(data.features[label])
        images = _Split(data.cast_column(image, _library().Image(decode=False)), image)
        groups = _groups(data, recipe, text)
        for index, cell in enumerate(list(data[label])):
            place = RowImage(source, f"{name}/{index}", index, images)
            said, listed = _label(cell, names, recipe.label_separator)
            lists = lists or listed
            if not said and recipe.task != "multi-label":
                aside.append(Quarantined(called(place), f"{UNLABELLED}{label!r} in its row", "unlabelled"))
                continue
            group = None if groups is None else text_of(groups[index]) or None
            rows.append(Row(place, called(place), said, split, group))
    if not rows:
        raise DataError(
            must(text, "a data set of labelled images", f"none of {len(aside)} rows with a label")
        )
    called_by = {split: name for name, (split, _) in splits.items()}
    return Listing(tuple(rows), called_by, tuple(notes), tuple(aside), by_value=names is None, label_name=label,
                   lists=lists)  # fmt: skip


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(missing_extra("A Hugging Face data set", "datasets", "datasets")) from None
    return datasets


def _loaded(text: str) -> Any:
    """A Dataset, or a mapping of them by split."""
    library = _library()
    name, _, part = text.removeprefix(PREFIX).partition(":")
    try:
        if not text.startswith(PREFIX):
            return library.load_from_disk(str(Path(text).expanduser()))
        return library.load_dataset(name, part or None)
    except (
        Exception
    ) as error:  # of many kinds: no such name, no network, a file cut short; its words are kept
        words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(must(text, "a data set that can be loaded", words)) from error


def _splits(found: Any, text: str) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Name of each split used -> (all, train, val or test; its rows), and notes."""
    if not isinstance(found, Mapping):
        return {"all": ("all", found)}, []
    if len(found) == 1:
        ((name, only),) = found.items()
        held = ROLES.get(str(name).lower())
        return {str(name): (held if held in ("val", "test") else "all", only)}, []
    used: dict[str, tuple[str, Any]] = {}
    for name, rows in found.items():
        role = ROLES.get(str(name).lower())
        if role is not None and role not in {taken for taken, _ in used.values()}:
            used[str(name)] = (role, rows)
    if "train" not in {role for role, _ in used.values()}:
        raise DataError(must(text, "a data set with a split called train", ", ".join(map(repr, found))))
    return used, [f"Split {name!r} is not used." for name in found if str(name) not in used]


def _columns(features: Mapping[str, Any], recipe: DataRecipe, text: str) -> tuple[str, str]:
    library = _library()
    images = [name for name, kind in features.items() if isinstance(kind, library.Image)]
    labels = [name for name, kind in features.items() if _class_names(kind) is not None]
    labels += [name for name in LABELS if name in features and name not in labels]
    listed = ", ".join(map(repr, features))
    for asked, what in ((recipe.image_column, "image"), (recipe.label_column, "label")):
        if asked is not None and asked not in features:
            got = f"{asked!r}, and it has {listed}"
            raise DataError(
                must(f"data.{what}_column", f"a column of {text}", got) + did_you_mean(asked, features)
            )
    image = recipe.image_column or (images[0] if len(images) == 1 else None)
    label = recipe.label_column or (labels[0] if labels else None)
    for column, what, kind in ((image, "image", "Image"), (label, "label", "ClassLabel")):
        if column is None or (what == "image" and column not in images):
            raise DataError(
                f"{text} must have a column of type {kind}. Got {listed} instead. Name it: data.{what}_column=NAME."
            )
    return str(image), str(label)


def _class_names(kind: Any) -> Sequence[str] | None:
    """The names behind a ClassLabel or a list of them; None for any other column."""
    inner = getattr(kind, "feature", kind)
    names = getattr(inner, "names", None)
    return names if isinstance(names, (list, tuple)) else None


def _label(cell: Any, names: Sequence[str] | None, separator: str) -> tuple[str, bool]:
    if isinstance(cell, (list, tuple)):
        return separator.join(_label(part, names, separator)[0] for part in cell), True
    if names is None or isinstance(cell, str) or cell is None:
        return text_of(cell), False
    return (str(names[int(cell)]) if 0 <= int(cell) < len(names) else ""), False


def _groups(data: Any, recipe: DataRecipe, text: str) -> Sequence[Any] | None:
    asked = recipe.group_by
    if asked is None or "(" in asked:
        return None
    if asked not in data.features:
        expected = f"a column of {text}, or a pattern with one part in parentheses"
        raise DataError(must("data.group_by", expected, repr(asked)) + did_you_mean(asked, data.features))
    return list(data[asked])
