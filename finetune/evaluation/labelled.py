"""Other labelled images for a finished run: folders named as its classes, or a table with what it learned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.data.archive import is_archive, read_archive
from finetune.data.folder import Checked, Decoded, FolderImages, check_files, default_decoded
from finetune.data.imageset import ImageSet, Quarantined
from finetune.data.layout import Folder, candidates, class_name, not_there, subfolders
from finetune.data.listing import Row
from finetune.data.member import Branch
from finetune.data.place import Inside, called, exists, is_dir, is_file
from finetune.data.reading import Reading, expected_side
from finetune.data.sources import archive_root, is_folder_of_classes, listed
from finetune.data.table import is_table, read_table
from finetune.data.targets import labels_of, multi_hot, number_of
from finetune.data.threads import worker_count
from finetune.errors import DataError, did_you_mean, must
from finetune.recipe import DataRecipe
from finetune.task import REGRESSION, SINGLE_LABEL, Task

_SPLITS = ("test", "testing", "val", "valid", "validation")


@dataclass(frozen=True)
class Labelled:
    """Images whose labels are numbers of the run's own classes."""

    images: ImageSet
    folder: str
    """Where they were found: the data folder or the split below it."""
    quarantined: tuple[Quarantined, ...] = ()


def labelled_images(
    data: str | os.PathLike[str] | ImageSet,
    classes: tuple[str, ...],
    max_pixels: int = 100_000_000,
    task: Task = SINGLE_LABEL,
    recipe: DataRecipe | None = None,
) -> Labelled:
    """A folder per class, or ``test/`` or ``val/`` with such folders; an archive of those; a table; or an image set,
    checked.

    Classes of the run without a folder are allowed; folders that are no class of the run are not. With another task
    than single-label the labels are lists, or numbers; of a table the columns that ``recipe`` names are taken.
    Raises DataError.
    """
    if isinstance(data, ImageSet):
        return Labelled(_renumbered(data, classes, task), "images given")
    path = Path(data).expanduser()
    asked = recipe or DataRecipe()
    flat = is_folder_of_classes(path)
    if is_table(path) and not is_dir(path):
        asked = asked.model_copy(update={"path": str(path), "max_pixels": max_pixels, "task": task.name,
                                         "root": None, "group_by": None, "split_column": None})  # fmt: skip
        rows, where, aside = _rows_of_table(asked)
        if task.plain:
            _require_known([row.label for row in rows], f"Every label of {str(path)!r}", classes)
    elif task.plain and flat:
        top, aside = _opened(path)
        root = _class_root(top, classes)
        rows, where = _rows_of_folder(root, classes), f"Folder {str(root)!r}"
        path = Path(str(root))
    else:
        listing, _ = listed(asked.model_copy(update={"path": str(path), "group_by": None, "task": task.name}))
        split = next((name for name in ("test", "val") if name in listing.splits), listing.splits[0])
        rows = tuple(row for row in listing.rows if row.split == split)
        where, aside = f"Folder {str(path)!r}" if flat else f"{str(path)!r}", listing.aside
        if task.plain:
            _require_known([row.label for row in rows], f"Every label of {str(path)!r}", classes)
    labels, values = _numbered(rows, classes, task, asked.label_separator)
    decoded: Decoded = default_decoded()
    results = check_files(
        [(row.at, row.name) for row in rows],
        max_pixels=max_pixels,
        workers=worker_count("auto"),
        decoded=decoded,
        short=expected_side(asked),
        depth=asked.depth,
    )
    good = [i for i, found in enumerate(results) if isinstance(found, Checked)]
    bad = (*aside, *(found for found in results if isinstance(found, Quarantined)))
    if not good:
        raise DataError(must(where, "one with readable images", f"none ({len(bad)} unreadable)"))
    images = FolderImages(
        [found for found in results if isinstance(found, Checked)],
        labels[good],
        classes,
        max_pixels=max_pixels,
        decoded=decoded,
        task=task,
        values=None if values is None else values[good],
        reading=Reading.of(asked),
    )
    return Labelled(images, str(path), bad)


def _numbered(
    rows: tuple[Row, ...], classes: tuple[str, ...], task: Task, separator: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels and values of an image set from the rows' texts, by the run's classes. Raises DataError."""
    if task.plain:
        return np.array([classes.index(row.label) for row in rows], dtype=np.int64), None
    if task == REGRESSION:
        numbers = np.array([[number_of(row, classes[0])] for row in rows], dtype=np.float32)
        return np.zeros(len(rows), dtype=np.int64), numbers
    lists = [labels_of(row, separator) for row in rows]
    _require_known([name for names in lists for name in names], "Every label", classes)
    return np.zeros(len(rows), dtype=np.int64), multi_hot(lists, classes)


def _opened(path: Path) -> tuple[Folder, tuple[Quarantined, ...]]:
    """The folder, or that inside of an archive, and what may not be read there."""
    if is_dir(path) or not (is_archive(path) and is_file(path)):
        return path, ()
    contents = read_archive(path)
    return archive_root(contents), contents.aside


def _rows_of_folder(root: Folder, classes: tuple[str, ...]) -> tuple[Row, ...]:
    folders = [folder for folder in subfolders(root) if candidates(folder)]
    _require_known([class_name(folder) for folder in folders], f"Every folder of {str(root)!r}", classes)
    below = root if isinstance(root, Path) else None
    return tuple(
        Row(path if isinstance(path, Inside) else below or Path(), called(path, below), class_name(folder))
        for folder in folders
        for path in candidates(folder)
    )


def _rows_of_table(recipe: DataRecipe) -> tuple[tuple[Row, ...], str, tuple[Quarantined, ...]]:
    """The test rows where the table has splits, else the validation rows, else all."""
    listing = read_table(recipe, prefer=True)
    split = next((name for name in ("test", "val") if name in listing.splits), listing.splits[0])
    rows = tuple(row for row in listing.rows if row.split == split)
    return rows, f"Table {str(recipe.path)!r}", listing.aside


def _require_known(names: Sequence[str], what: str, classes: tuple[str, ...]) -> None:
    unknown = [name for name in dict.fromkeys(names) if name not in classes]
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        hint = did_you_mean(unknown[0], classes)
        raise DataError(must(what, f"a class of the run ({_some(classes)})", shown) + hint)


def _class_root(root: Folder, classes: tuple[str, ...]) -> Folder:
    constraint = f"a folder with sub-folders named as the run's classes ({_some(classes)})"
    if not isinstance(root, Branch) and not is_dir(root):
        if not exists(root):
            raise not_there(str(root), "--data")
        got = f"{str(root)!r}, which is a file"
        raise DataError(must("--data", constraint, got))
    found = subfolders(root)
    if any(class_name(folder) in classes for folder in found):
        return root
    inside = {folder.name.lower(): folder for folder in found}
    for split in _SPLITS:
        if split in inside and any(class_name(folder) in classes for folder in subfolders(inside[split])):
            return inside[split]
    names = _some(tuple(folder.name for folder in found)) if found else "no sub-folders"
    raise DataError(must("--data", constraint, f"{str(root)!r} with {names}"))


def _renumbered(images: ImageSet, classes: tuple[str, ...], task: Task) -> ImageSet:
    if images.task != task:
        raise DataError(must("The task of the images", f"that of the run, {task.name}", images.task.name))
    if images.classes != classes:
        raise DataError(
            must("The classes of the images", f"those of the run ({_some(classes)})", _some(images.classes))
        )
    if len(images) == 0:
        raise DataError(must("The images", "at least one", 0))
    return images


def _some(names: tuple[str, ...], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
