"""From a folder or torch Datasets to train, validation and test sets, with everything told that was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune import ranks
from finetune.data import ahead
from finetune.data.arrays import ArrayDataset, paired
from finetune.data.datasets import ReadDataset, class_names, labels_text, number_text
from finetune.data.deep import dark
from finetune.data.folder import Checked, FolderImages, Pixels, check_together, default_decoded
from finetune.data.imageset import DataBundle, ImageSet, Quarantined
from finetune.data.listing import Listing, Row, groups_of
from finetune.data.reading import Reading, expected_side
from finetune.data.samples import ReadSamples, labels_of_dataset, samples_of
from finetune.data.sources import listed
from finetune.data.splitting import split_sets
from finetune.data.targets import encode, task_of
from finetune.data.threads import worker_count
from finetune.errors import DataError, must
from finetune.recipe import DataRecipe
from finetune.task import REGRESSION, TASKS, Task

_SHOWN = 5


@dataclass(frozen=True)
class ReadFolder:
    """A folder or table whose images were all opened once, not yet split: one reading serves many splits."""

    given: Mapping[str, ImageSet]
    """Sets by "all", "train", "val", "test": the splits that the folder itself has."""
    folders: Mapping[str, str]
    """Split -> what the user calls it, for messages."""
    notes: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    source: str
    groups: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Split -> the group of each image, where there are groups."""

    def split(self, recipe: DataRecipe, seed: int) -> DataBundle:
        """Make the missing splits as ``finetune.data.splitting.split_sets`` says. Raises DataError."""
        return split_sets(self.given, recipe, seed, notes=self.notes, quarantined=self.quarantined,
                          source=self.source, names=self.folders, groups=self.groups)  # fmt: skip


def load_data(recipe: DataRecipe, seed: int) -> DataBundle:
    """Open every image of ``recipe.path`` once and split them.

    Folders: ``DIR/<class>/*`` or ``DIR/{train,val,test}/<class>/*``, images at any depth below a class. Tables
    (CSV, TSV, JSON lines, Parquet): see ``finetune.data.table``. Files that cannot be read are set aside in
    ``quarantined``; missing splits are made as ``finetune.data.splitting.split_sets`` says. Raises DataError.
    """
    return (ahead.take(recipe) or read_folder(recipe)).split(recipe, seed)


def read_folder(recipe: DataRecipe, decoded: Pixels | None = None) -> ReadFolder:
    """The first half of ``load_data``; how the images are to be divided does not matter.

    ``decoded`` keeps images that were decoded on the way; default: what ``default_decoded`` has room for.
    """
    listing, mark = ranks.each(lambda: listed(recipe))
    main = "train" if "train" in listing.splits else "all"
    if main not in listing.splits:
        names = " and ".join(repr(listing.called[split]) for split in listing.splits)
        raise DataError(
            f"{str(recipe.path)!r} must hold training images beside {names}. Got none instead. "
            "Call the split with the training images train."
        )
    rows = listing.rows
    decoded = decoded or default_decoded()
    checked = check_together(
        [(row.at, row.name) for row in rows],
        max_pixels=recipe.max_pixels,
        workers=worker_count(recipe.workers),
        decoded=decoded,
        short=expected_side(recipe),
        depth=recipe.depth,
    )
    pairs = list(zip(rows, checked, strict=True))
    good = [(row, file) for row, file in pairs if isinstance(file, Checked)]
    quarantined = (*listing.aside, *(file for file in checked if isinstance(file, Quarantined)))
    notes = [*listing.notes, *_ignored(row.path.suffix for row, file in pairs if file is None)]
    notes += dark((file.info for _, file in good), recipe.depth)

    task, said = task_of(recipe, listing)
    notes += said
    if task.plain:
        classes = listing.class_order(row.label for row, _ in good if row.split == main)
        _require_two(classes, repr(str(recipe.path)), quarantined)
        notes += [f"Class {name!r} has no readable image and is skipped."
                  for name in dict.fromkeys(row.label for row in rows if row.split == main)
                  if name not in classes]  # fmt: skip
        for split, name in listing.called.items():
            found = Counter(row.label for row, _ in good if row.split == split)
            _require_known(found, classes, f"{name}{mark}", f"{listing.called[main]}{mark}")
        number = {name: k for k, name in enumerate(classes)}
        labels, values = np.array([number[row.label] for row, _ in good], dtype=np.int64), None
    else:
        targets = encode(
            task, [row for row, _ in good], listing, recipe.label_separator, main, str(recipe.path)
        )
        classes, labels, values = targets.classes, targets.strata, targets.values
        notes += targets.notes
    everything = FolderImages(
        [file for _, file in good], labels, classes,
        max_pixels=recipe.max_pixels, decoded=decoded, task=task, values=values, reading=Reading.of(recipe),
    )  # fmt: skip
    given, groups = {}, {}
    for split in listing.splits:
        members = [i for i, (row, _) in enumerate(good) if row.split == split]
        given[split] = everything.subset(members)
        found_groups = groups_of([good[i][0] for i in members])
        if found_groups is not None:
            groups[split] = tuple(found_groups)
    return ReadFolder(given, listing.called, tuple(notes), quarantined, str(recipe.path), groups)


def from_datasets(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    classes: Sequence[str] | None = None,
    recipe: DataRecipe | None = None,
    seed: int = 0,
) -> DataBundle:
    """The same from torch Datasets (anything with len and [index]) of (image, label), or from pairs (X, y) of arrays.

    Images: PIL, uint8 arrays or tensors, float ones in [0, 1]. Labels: ints or strings. ``classes`` names the
    int labels; without it the names come from the dataset's ``classes`` or are the labels themselves. Classes
    without a training image are left out. Where the recipe's task is multi-label, labels are lists of names or
    arrays of 0 and 1; where it is regression, numbers. Of torchvision's data sets the labels are looked at before any
    image is loaded, and the files of an ImageFolder without a transform are opened as those of a folder are. Raises
    DataError.
    """
    recipe = recipe or DataRecipe()
    train, val, test = paired(train, val, test, recipe.task)
    source = "arrays" if isinstance(train, ArrayDataset) else type(train).__name__
    if recipe.task in ("multi-label", "regression"):
        return _from_values(
            TASKS[recipe.task], {"train": train, "val": val, "test": test}, classes, recipe, seed
        )
    if train is None:
        raise DataError(must("train", "a dataset of (image, label)", "None"))
    names = list(classes) if classes is not None else list(class_names(train) or [])
    if len(set(names)) < len(names):
        raise DataError(
            must("classes", "different names", str(sorted(n for n in set(names) if names.count(n) > 1)))
        )
    asked = {
        name: part for name, part in (("train", train), ("val", val), ("test", test)) if part is not None
    }
    for split, part in asked.items():  # a wrong label is told before images are loaded
        for i, label in enumerate(labels_of_dataset(part) or ()):
            _named(label, names, f"{split}[{i}]")
    early = labels_of_dataset(train)
    if early is not None:
        _require_two([str(label) for label in dict.fromkeys(early)], "train", ())
    parts = {name: _read(part, name, recipe) for name, part in asked.items()}
    named = {split: [_named(label, names, f"{split}[{i}]") for i, label in enumerate(part.labels)]
             for split, part in parts.items()}  # fmt: skip
    if len({type(label) for labels in named.values() for label in labels}) > 1:
        raise DataError(must("Labels", "all ints or all strings", "a mixture of both"))
    kept = set(named["train"])
    order = sorted(kept, key=lambda n: names.index(n) if n in names else n)
    final = tuple(str(n) for n in order)
    _require_two(final, "train", ())
    notes = [f"Class {n!r} has no training image and is left out." for n in names if n not in kept]
    given: dict[str, ImageSet] = {}
    for split, part in parts.items():
        _require_known(Counter(map(str, named[split])), final, split, "train")
        number = {n: k for k, n in enumerate(order)}
        labels = np.array([number[n] for n in named[split]], dtype=np.int64)
        given[split] = part.image_set(labels, final)
        given[split].reading = Reading.of(recipe)
    if set(given) == {"train"}:
        given = {"all": given["train"]}
    quarantined = tuple(aside for part in parts.values() for aside in part.quarantined)
    return split_sets(given, recipe, seed, notes=notes, quarantined=quarantined, source=source,
                      names={s: s for s in ("all", *parts)})  # fmt: skip


def _read(part: Any, name: str, recipe: DataRecipe) -> ReadDataset | ReadSamples:
    files = samples_of(part)
    return (
        ReadDataset(part, name, depth=recipe.depth)
        if files is None
        else ReadSamples(files[0], name, files[1], recipe)
    )


_BETWEEN = "\x1f"  # the unit separator of ASCII: no name holds it


def _from_values(
    task: Task, given: Mapping[str, Any], classes: Sequence[str] | None, recipe: DataRecipe, seed: int
) -> DataBundle:
    """``from_datasets`` where an image has several labels or a number."""
    if given["train"] is None:
        raise DataError(must("train", "a dataset of (image, label)", "None"))
    names = list(classes) if classes is not None else list(class_names(given["train"]) or [])

    def text(value: Any, where: str) -> str:
        return number_text(value, where) if task == REGRESSION else labels_text(value, where, names, _BETWEEN)

    parts = {split: ReadDataset(part, split, text, recipe.depth) for split, part in given.items()
             if part is not None}  # fmt: skip
    rows = [Row(Path(), f"{split}[{i}]", str(label), split) for split, part in parts.items()
            for i, label in enumerate(part.labels)]  # fmt: skip
    listing = Listing(tuple(rows), {split: split for split in parts}, by_value=True)
    found = encode(task, rows, listing, _BETWEEN, "train", "train")
    sets: dict[str, ImageSet] = {}
    for split, part in parts.items():
        own = np.array([row.split == split for row in rows])
        sets[split] = part.image_set(found.strata[own], found.classes, task, found.values[own])
        sets[split].reading = Reading.of(recipe)
    if set(sets) == {"train"}:
        sets = {"all": sets["train"]}
    return split_sets(sets, recipe, seed, notes=found.notes, source=type(given["train"]).__name__,
                      names={s: s for s in ("all", *parts)})  # fmt: skip


def _named(label: int | str, names: Sequence[str], where: str) -> int | str:
    if not names:
        return label
    if isinstance(label, str):
        if label not in names:
            raise DataError(must(f"The label of {where}", f"one of the {len(names)} classes", repr(label)))
        return label
    if not 0 <= label < len(names):
        span = f"in 0..{len(names) - 1}, one of the {len(names)} classes"
        raise DataError(must(f"The label of {where}", span, label))
    return names[label]


def _ignored(suffixes: Iterable[str]) -> list[str]:
    """One note on files that are no images and do not claim to be (notes.txt, Thumbs.db)."""
    counts = Counter(suffix.lower() or "no extension" for suffix in suffixes)
    if not counts:
        return []
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.most_common(_SHOWN))
    total = counts.total()
    files = (
        "1 file is no image and is skipped" if total == 1 else f"{total} files are no images and are skipped"
    )
    return [f"{files}: {kinds}."]


def _require_two(classes: Sequence[str], where: str, quarantined: Sequence[Quarantined]) -> None:
    if len(classes) >= 2:
        return
    got = f"only {classes[0]!r}" if classes else "none"
    why = ""
    if quarantined:
        first = quarantined[0]
        why = f" {len(quarantined)} files could not be read; the first, {first.path!r}, {first.reason}."
    remedy = "Add images of another class: a classifier needs something to tell apart."
    if quarantined and not classes:
        remedy = "Replace these files with images that can be opened."
    raise DataError(
        f"{where} must hold readable images of at least 2 classes. Got {got} instead.{why} {remedy}"
    )


def _require_known(found: Counter[str], classes: Sequence[str], where: str, main: str) -> None:
    unknown = {name: n for name, n in sorted(found.items()) if name not in classes}
    if unknown:
        shown = ", ".join(f"{name!r} ({n} images)" for name, n in list(unknown.items())[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise DataError(
            f"{where} must only hold classes of {main}. Got {shown}{more} instead. "
            f"Add training images of these classes to {main}, or remove them from {where}."
        )
