"""Which data sets, and at which sizes: whatever lies in a root folder with class folders in it.

No data set is known by name. The one table is relatives.yaml, which says who is related to whom: which data sets, so
that nothing fitted on one is judged on its relatives, and within some of them which images.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.layout import Layout, find_layout
from finetune.errors import ConfigError, DataError, did_you_mean, must
from finetune.recipe import DataRecipe, read_yaml

Size = int | None
"""Labelled images a class, training and validation together; None is all of them."""

SIZES: tuple[Size, ...] = (2, 5, 10, 25, 100, None)

DIAL = "~"
"""Parts the name of a data set from what was done to its images: photos~inverted."""

Families = Mapping[str, Sequence[str]]

_RELATIVES = Path(__file__).with_name("relatives.yaml")


@dataclass(frozen=True)
class Case:
    """One data set."""

    name: str
    path: Path
    family: str
    largest: int
    """Images of the largest class that training and validation may take from."""
    images: int
    """Candidate files in all."""
    group_by: str | None = None
    """What keeps relatives among its images on one side of every split: `data.group_by`."""

    def sizes(self, wanted: Iterable[Size] = SIZES) -> list[Size]:
        """Those sizes that differ: one that takes every image of every class is `all`, measured once.

        >>> Case("a", Path(), "a", largest=25, images=99).sizes()
        [2, 5, 10, None]
        """
        asked = list(wanted)
        cut = [m for m in asked if m is not None and m < self.largest]
        return [*cut, *([None] if len(cut) < len(asked) else [])]


def size_name(size: Size) -> str:
    """As the CSV has it.

    >>> size_name(25), size_name(None)
    ('25', 'all')
    """
    return "all" if size is None else str(size)


def read_size(text: str) -> Size:
    """The inverse of ``size_name``. Raises ConfigError."""
    if text == "all":
        return None
    if text.isdigit() and int(text) >= 2:
        return int(text)
    raise ConfigError(must("a size", "all, or an int > 1 (one to train, one to validate)", repr(text)))


def size_order(text: str) -> tuple[bool, int]:
    """What sorts sizes as the CSV has them.

    >>> sorted(["all", "100", "5"], key=size_order)
    ['5', '100', 'all']
    """
    return text == "all", int(text) if text.isdigit() else 0


def read_families(path: Path | None = None) -> Families:
    """Family -> name patterns, from relatives.yaml. Raises ConfigError."""
    path = path or _RELATIVES
    found = read_yaml(path, "Relatives", "families").get("families")
    lists = isinstance(found, dict) and all(
        isinstance(v, list) and all(isinstance(p, str) for p in v) for v in found.values()
    )
    if not lists:
        raise ConfigError(
            must(str(path), "a mapping with `families`: name -> list of patterns", type(found).__name__)
        )
    return {str(family): tuple(patterns) for family, patterns in found.items()}  # type: ignore[union-attr]


def read_groups(path: Path | None = None) -> Mapping[str, str]:
    """Name pattern of data sets -> `data.group_by` for them, from relatives.yaml. Raises ConfigError."""
    path = path or _RELATIVES
    found = read_yaml(path, "Relatives", "families").get("groups", {})
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ConfigError(must(str(path), "with `groups` a mapping from name patterns to expressions", found))
    return {str(names): str(by) for names, by in found.items()}


def family_of(name: str, families: Families) -> str:
    """The first family with a pattern that fits; else the data set itself, its dial targets included.

    >>> family_of("mnist_png", {"digits": ["mnist*"]}), family_of("cars~edges", {})
    ('digits', 'cars')
    """
    parent = name.split(DIAL)[0]
    for family, patterns in families.items():
        if any(fnmatch.fnmatch(parent.lower(), pattern) for pattern in patterns):
            return family
    return parent


def find_cases(root: Path, names: Sequence[str] = (), families: Families | None = None) -> list[Case]:
    """The named data sets below ``root``, or all that have class folders, the smallest first.

    Raises ConfigError where the root or a named one is not there, DataError where a named one is no data set.
    """
    families = read_families() if families is None else families
    if not root.is_dir():
        raise ConfigError(must("--root", "a folder with unpacked data sets", repr(str(root))))
    present = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    unknown = [name for name in names if name not in present]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown)
        raise ConfigError(
            must("data sets", f"folders of {root}", shown) + did_you_mean(unknown[0], present).rstrip()
        )
    cases = []
    for name in names or present:
        try:
            cases.append(make_case(root / name, families))
        except DataError:
            if names:
                raise
    if not cases:
        raise ConfigError(must(str(root), "a folder with data sets in it", "none with class folders"))
    return sorted(cases, key=lambda case: (case.images, case.name))


def make_case(path: Path, families: Families) -> Case:
    """Count the files of one data set; nothing is opened. Raises DataError where it is laid out otherwise."""
    layout = find_layout(path)
    parent = path.name.split(DIAL)[0].lower()
    return Case(
        name=path.name,
        path=path,
        family=family_of(path.name, families),
        largest=_largest(layout),
        images=sum(len(files) for classes in layout.splits.values() for files in classes.values()),
        group_by=next((by for names, by in read_groups().items() if fnmatch.fnmatch(parent, names)), None),
    )


def _largest(layout: Layout) -> int:
    """Of the images that are left when a test set was taken away, as data/splitting.py does it."""
    pool = layout.splits["all" if "all" in layout.splits else "train"]
    most = max(len(files) for files in pool.values())
    if {"val", "test"} & set(layout.splits):
        return most
    share: float = DataRecipe.model_fields["test_fraction"].default
    return math.ceil(most * (1 - share))
