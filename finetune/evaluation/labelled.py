"""Other labelled images for a finished run: folders named as its classes, or a table."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.folder import Checked, Decoded, FolderImages, check_files, default_decoded
from finetune.data.imageset import ImageSet, Quarantined
from finetune.data.layout import candidates, subfolders
from finetune.data.listing import Row
from finetune.data.table import is_table, read_table
from finetune.data.threads import worker_count
from finetune.errors import DataError, did_you_mean, must
from finetune.recipe import DataRecipe

_SPLITS = ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class Labelled:
    """Images whose labels are numbers of the run's own classes."""

    images: ImageSet
    folder: str
    """Where they were found: the data folder or the split below it."""
    quarantined: tuple[Quarantined, ...] = ()


def labelled_images(
    data: str | os.PathLike[str] | ImageSet, classes: tuple[str, ...], max_pixels: int = 100_000_000
) -> Labelled:
    """A folder per class, or ``test/`` or ``val/`` with such folders; a table; or an image set, checked.

    Classes of the run without a folder are allowed; folders that are no class of the run are not. Raises
    DataError.
    """
    if isinstance(data, ImageSet):
        return Labelled(_renumbered(data, classes), "images given")
    path = Path(data).expanduser()
    if is_table(path) and not path.is_dir():
        rows, where, aside = _rows_of_table(path, classes, max_pixels)
    else:
        root = _class_root(path, classes)
        rows, where, aside = _rows_of_folder(root, classes), f"Folder {str(root)!r}", ()
        path = root
    decoded: Decoded = default_decoded()
    results = check_files(
        [(row.path, row.name) for row in rows],
        max_pixels=max_pixels,
        workers=worker_count("auto"),
        decoded=decoded,
    )
    good = [
        (found, row.label) for found, row in zip(results, rows, strict=True) if isinstance(found, Checked)
    ]
    bad = (*aside, *(found for found in results if isinstance(found, Quarantined)))
    if not good:
        raise DataError(must(where, "one with readable images", f"none ({len(bad)} unreadable)"))
    images = FolderImages(
        [found for found, _ in good],
        np.array([classes.index(label) for _, label in good]),
        classes,
        max_pixels=max_pixels,
        decoded=decoded,
    )
    return Labelled(images, str(path), bad)


def _rows_of_folder(root: Path, classes: tuple[str, ...]) -> tuple[Row, ...]:
    folders = [folder for folder in subfolders(root) if candidates(folder)]
    _require_known([_name(folder) for folder in folders], f"Every folder of {str(root)!r}", classes)
    return tuple(
        Row(path, path.relative_to(root).as_posix(), _name(folder))
        for folder in folders
        for path in candidates(folder)
    )


def _rows_of_table(
    table: Path, classes: tuple[str, ...], max_pixels: int
) -> tuple[tuple[Row, ...], str, tuple[Quarantined, ...]]:
    """The test rows where the table has splits, else the validation rows, else all."""
    listing = read_table(DataRecipe(path=str(table), max_pixels=max_pixels))
    split = next((name for name in ("test", "val") if name in listing.splits), listing.splits[0])
    rows = tuple(row for row in listing.rows if row.split == split)
    _require_known([row.label for row in rows], f"Every label of {str(table)!r}", classes)
    return rows, f"Table {str(table)!r}", listing.aside


def _require_known(names: Sequence[str], what: str, classes: tuple[str, ...]) -> None:
    unknown = [name for name in dict.fromkeys(names) if name not in classes]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        hint = did_you_mean(unknown[0], classes)
        raise DataError(must(what, f"a class of the run ({_some(classes)})", shown) + hint)


def _class_root(root: Path, classes: tuple[str, ...]) -> Path:
    constraint = f"a folder with sub-folders named as the run's classes ({_some(classes)})"
    if not root.is_dir():
        got = f"{str(root)!r}, which {'is a file' if root.exists() else 'does not exist'}"
        raise DataError(must("--data", constraint, got))
    found = subfolders(root)
    if any(_name(folder) in classes for folder in found):
        return root
    inside = {folder.name.lower(): folder for folder in found}
    for split in _SPLITS:
        if split in inside and any(_name(folder) in classes for folder in subfolders(inside[split])):
            return inside[split]
    names = _some(tuple(folder.name for folder in found)) if found else "no sub-folders"
    raise DataError(must("--data", constraint, f"{str(root)!r} with {names}"))


def _renumbered(images: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    if images.classes != classes:
        raise DataError(
            must("The classes of the images", f"those of the run ({_some(classes)})", _some(images.classes))
        )
    if len(images) == 0:
        raise DataError(must("The images", "at least one", 0))
    return images


def _name(folder: Path) -> str:
    return unicodedata.normalize("NFC", folder.name)


def _some(names: tuple[str, ...], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
