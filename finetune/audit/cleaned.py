"""A list of the images that are worth keeping. The images themselves are never touched."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from finetune.audit.audit import Audit
from finetune.data.member import Member
from finetune.data.place import BETWEEN, Place
from finetune.errors import DataError, must

_RANK = {"test": 0, "val": 1, "train": 2, "all": 2}


@dataclass(frozen=True)
class Cleaned:
    """Which images stay, and why the others go."""

    kept: tuple[int, ...]
    dropped: dict[int, str]

    def reasons(self) -> dict[str, int]:
        """Reason -> images."""
        return dict(Counter(self.dropped.values()))


def clean(audit: Audit, suspects: bool = False) -> Cleaned:
    """Unreadable files are gone already; of each picture one copy stays, and none where copies contradict each other.

    Where copies lie in several splits the one in the test set stays, then that in the validation set. Blank images go.
    Images whose labels or numbers look wrong stay unless ``suspects`` asks for them to go: half of them are right.
    """
    dropped: dict[int, str] = {}
    for index in audit.blank:
        dropped[index] = "blank"
    for group in audit.duplicates:
        if audit.truths.contradict(group):
            dropped |= dict.fromkeys(group, audit.truths.torn)
            continue
        others = sorted(group, key=lambda i: (_RANK[audit.splits[i]], i))[1:]
        dropped |= dict.fromkeys(others, "copy")
    if suspects:
        for index, _, _ in audit.suspects:
            dropped.setdefault(index, f"suspected {audit.truths.noun}")
    kept = tuple(i for i in range(len(audit.names)) if i not in dropped)
    return Cleaned(kept, dropped)


def as_csv(audit: Audit, cleaned: Cleaned, folder: Path) -> str:
    """A table for ``finetune run --data``: path (from ``folder``), label, split where there are some, group where names
    show them. Labels are joined and numbers written as ``Truths.cell`` does, to be read with the overrides
    ``Truths.overrides``. Raises DataError where the images are no files."""
    parted = set(audit.splits) != {"all"}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = ["path", "label", *(["split"] if parted else []), *(["group"] if audit.groups else [])]
    writer.writerow(header)
    for index in cleaned.kept:
        path = audit.files[index]
        if not isinstance(path, (Path, Member)):
            raise DataError(
                must("--fix", "asked for images in files", f"{audit.names[index]}, which is none")
            )
        row = [_from(path, folder), audit.truths.cell(index)]
        row += [audit.splits[index]] if parted else []
        row += [audit.groups.members[index] or ""] if audit.groups else []
        writer.writerow(row)
    return out.getvalue()


def _from(path: Place, folder: Path) -> str:
    """Relative to the list where that is possible: another drive has no relative path."""
    if not isinstance(path, Path):
        return f"{_from(path.within(), folder)}{BETWEEN}{path.inner}"
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
