"""What a source lists before anything is opened: files with their label, split and group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.data.imageset import Quarantined
from finetune.data.layout import Layout
from finetune.data.place import Inside, Place, called, place_of
from finetune.errors import DataError, must

UNLABELLED = "has no "
"""How the reason begins for which an entry without a path or a label is set aside."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image that a source names."""

    at: Place
    """The folder that the name begins at, or the place inside an archive."""
    name: str
    """What it is called in messages and prediction tables."""
    label: str
    split: str = "all"
    """all, train, val or test."""
    group: str | None = None
    """Images of one group (a patient, a track, a video) are never divided between splits."""

    @property
    def path(self) -> Place:
        """Where its bytes are."""
        return place_of(self.at, self.name)


@dataclass(frozen=True)
class Listing:
    """Everything a source names, in its order."""

    rows: tuple[Row, ...]
    called: Mapping[str, str]
    """Split -> what the user calls it, for messages."""
    notes: tuple[str, ...] = ()
    aside: tuple[Quarantined, ...] = ()
    """Entries that name no usable image."""
    by_value: bool = False
    """Whether labels that are whole numbers are ordered by value: 9 before 10."""
    label_name: str = "value"
    """The column of labels; what a number is called."""
    lists: bool = False
    """Whether labels came as lists, now joined by the separator."""

    @property
    def splits(self) -> list[str]:
        """Splits that have rows, in order of appearance."""
        return list(dict.fromkeys(row.split for row in self.rows))

    def class_order(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The different labels, sorted.

        >>> Listing((), {}, by_value=True).class_order(["10", "9", "9"]), Listing((), {}).class_order(["10", "9"])
        (('9', '10'), ('10', '9'))
        """
        different = set(labels)
        numbers = self.by_value and all(name.lstrip("-").isdecimal() for name in different)
        return tuple(sorted(different, key=int if numbers else None))


def of_layout(layout: Layout) -> Listing:
    """The files of a folder tree, labelled by their class folder."""
    root = layout.root if isinstance(layout.root, Path) else None
    rows = tuple(
        Row(path if isinstance(path, Inside) else root or Path(), called(path, root), name, split)
        for split, classes in layout.splits.items()
        for name, files in classes.items()
        for path in files
    )
    return Listing(rows, layout.folders, tuple(layout.notes))


def grouped(listing: Listing, pattern: str) -> Listing:
    """Groups by what the first parenthesis of a regular expression finds in each image's name.

    An image whose name does not match is a group of its own, and a note says how many there are. Raises
    DataError for a pattern that is none, has no parenthesis, or matches nothing.

    >>> row = Row(Path("a/00012_00003.png"), "a/00012_00003.png", "a")
    >>> grouped(Listing((row,), {}), r"(\\d+)_\\d+").rows[0].group
    '00012'
    """
    expected = "a regular expression with one part in parentheses, searched in each image's name"
    example = r"For example '(patient\d+)_' or '([^/]+/\d+)_\d+\.png'."
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(must("data.group_by", expected, f"{pattern!r} ({error})", example)) from None
    if compiled.groups < 1:
        raise DataError(must("data.group_by", expected, repr(pattern), example))
    found = [compiled.search(row.name) for row in listing.rows]
    missed = [row.name for row, match in zip(listing.rows, found, strict=True) if match is None]
    if listing.rows and len(missed) == len(listing.rows):
        raise DataError(f"data.group_by: {pattern!r} matches no image's name. The first is {missed[0]!r}.")
    rows = tuple(
        replace(row, group=match.group(1) if match else None)
        for row, match in zip(listing.rows, found, strict=True)
    )
    notes = listing.notes
    if missed:
        which = "1 image" if len(missed) == 1 else f"{len(missed)} images"
        notes += (f"data.group_by does not match {which} ({missed[0]!r}): each is a group of its own.",)
    return replace(listing, rows=rows, notes=notes)


def groups_of(rows: Sequence[Row]) -> list[str] | None:
    """The group of each row, where any has one; an image without gets one of its own."""
    if all(row.group is None for row in rows):
        return None
    called = {
        row.group: f"group {row.group}" for row in rows if row.group is not None
    }  # one text for all that have it
    return [f"image {row.name}" if row.group is None else called[row.group] for row in rows]
