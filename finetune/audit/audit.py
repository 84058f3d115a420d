"""Look at a data set as a whole and say what is wrong with it. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.audit.classes import Classes
from finetune.audit.copies import AT_MOST, apart, same_bytes, same_picture
from finetune.audit.formats import Formats, formats
from finetune.audit.label_sets import LabelSets
from finetune.audit.names import NameGroups, name_groups, similar_classes
from finetune.audit.numbers import Numbers
from finetune.audit.outliers import outliers
from finetune.audit.thumbnails import blank, thumbnails
from finetune.audit.truths import Truths
from finetune.data.imageset import ImageSet, Joined, counted
from finetune.data.place import Place

if TYPE_CHECKING:
    from finetune.data.load import ReadFolder
    from finetune.features.extract import Features

_TRUTHS: dict[str, type[Truths[Any]]] = {
    "single-label": Classes, "multi-label": LabelSets, "regression": Numbers,
}  # fmt: skip

STEPS = ("reading images", "comparing images", "looking at labels", "looking for outliers")


@dataclass(frozen=True)
class Audit:
    """What was found. Images are numbers into ``names``; ``to_dict`` gives their paths."""

    source: str
    names: tuple[str, ...]
    files: tuple[Place | None, ...]
    splits: tuple[str, ...]
    """The split of each image: all, train, val or test."""
    truths: Truths[Any]
    """What the images were said to show."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image."""
    modes: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...]
    """(path, why) of all that were set aside."""
    aside: Mapping[str, int]
    """The same by kind: without a label, missing, unreadable."""
    exact: tuple[tuple[int, ...], ...]
    """Groups of equal bytes."""
    duplicates: tuple[tuple[int, ...], ...]
    """Groups that show one picture; the exact ones are among them."""
    blank: tuple[int, ...]
    suspects: tuple[tuple[int, Any, float], ...]
    """(image, suggested answer, score): a class's number, the numbers of its labels, or a number."""
    outliers: tuple[tuple[int, float], ...]
    formats: Formats
    similar: tuple[tuple[str, str], ...]
    """Names of classes or labels that look like one."""
    groups: NameGroups | None
    notes: tuple[str, ...]
    held_out: float | None
    """How well the other images tell an image's answer: accuracy, F1 or R2; None where nothing could be held out."""
    images: ImageSet = field(repr=False)
    """All of them, the given splits one after the other."""

    @property
    def cross_split(self) -> tuple[tuple[int, ...], ...]:
        """Groups of copies in more than one of the given splits."""
        return apart(self.duplicates, self.splits.__getitem__)

    @property
    def cross_class(self) -> tuple[tuple[int, ...], ...]:
        """Groups of copies that were given different answers: classes, labels, or numbers."""
        return tuple(group for group in self.duplicates if self.truths.contradict(group))

    @property
    def mere_copies(self) -> tuple[tuple[int, ...], ...]:
        """Groups of copies within one split and one class."""
        worse = {*self.cross_split, *self.cross_class}
        return tuple(g for g in self.duplicates if g not in worse)

    @property
    def strangers(self) -> tuple[int, ...]:
        """Outliers, and images of a kind of file that hardly any other has, which placeholders often are."""
        return tuple(dict.fromkeys([i for i, _ in self.outliers] + [i for i, _ in self.formats.odd]))

    @property
    def leaked_groups(self) -> int:
        """Groups by name that lie in more than one of the given splits."""
        if self.groups is None:
            return 0
        found: dict[str | None, set[str]] = {}
        for member, split in zip(self.groups.members, self.splits, strict=True):
            found.setdefault(member, set()).add(split)
        return sum(len(splits) > 1 for splits in found.values())

    @property
    def problems(self) -> int:
        """Kinds of findings that are not empty."""
        kinds = (self.unreadable, self.duplicates, self.blank, self.suspects, self.outliers, self.similar,
                 self.formats.odd, self.formats.misnamed)  # fmt: skip
        return sum(bool(kind) for kind in kinds) + (self.groups is not None)

    def to_dict(self) -> dict[str, Any]:
        """Paths, names and numbers, for JSON."""

        def paths(groups: Sequence[Sequence[int]]) -> list[list[str]]:
            return [[self.names[i] for i in group] for group in groups]

        truths = self.truths
        widths, heights = (sorted(sizes) for sizes in zip(*self.sizes, strict=True))
        middle = len(widths) // 2
        return {
            "source": self.source,
            "images": len(self.names),
            **truths.facts(),
            "splits": dict(Counter(self.splits)),
            "widths": [widths[0], widths[middle], widths[-1]],
            "heights": [heights[0], heights[middle], heights[-1]],
            "modes": dict(self.modes),
            "unreadable": [path for path, _ in self.unreadable],
            "unreadable_reasons": dict(self.unreadable),
            "set_aside": dict(self.aside),
            "duplicates": paths(self.duplicates),
            "exact_duplicates": paths(self.exact),
            "cross_split": paths(self.cross_split),
            "cross_class": paths(self.cross_class),
            "label_suspects": [
                {"path": self.names[i], "given": truths.plain(truths.given(i)), "suggested": truths.plain(better),
                 "score": round(score, 4)}
                for i, better, score in self.suspects
            ],
            "outliers": [self.names[i] for i in self.strangers],
            "outlier_scores": {self.names[i]: round(score, 2) for i, score in self.outliers},
            "formats": dict(self.formats.kinds),
            "misnamed": {self.names[i]: kind for i, kind in self.formats.misnamed},
            "odd_formats": {self.names[i]: kind for i, kind in self.formats.odd},
            "rotated_by_exif": [self.names[i] for i in self.formats.rotated],
            "blank": [self.names[i] for i in self.blank],
            "similar_classes": [list(pair) for pair in self.similar],
            "groups": None if self.groups is None else {
                "pattern": self.groups.pattern, "groups": self.groups.groups, "images": self.groups.images,
                "nearest_in_group": round(self.groups.share, 4), "by_chance": round(self.groups.chance, 4),
                "in_several_splits": self.leaked_groups,
            },
            f"held_out_{truths.task.score}": None if self.held_out is None else round(self.held_out, 4),
            "notes": list(self.notes),
        }  # fmt: skip


def audit(
    read: ReadFolder,
    features_of: Callable[[ImageSet], Features],
    *,
    threads: int = 1,
    step: Callable[[str], None] = lambda name: None,
) -> Audit:
    """Look at all images of a data set, the given splits together.

    read: the opened images; features_of: pooled features of an image set, from the cache where possible; step: is told
    what begins, one of ``STEPS``. Raises DataError for an image that can no longer be decoded.
    """
    step(STEPS[0])
    splits = tuple(split for split, images in read.given.items() for _ in range(len(images)))
    images = _together(list(read.given.values()))
    names = tuple(images.name(i) for i in range(len(images)))
    files = tuple(images.file(i) for i in range(len(images)))
    prints = [images.fingerprint(i) for i in range(len(images))]
    infos = [images.info(i) for i in range(len(images))]
    thumbs = thumbnails(images, threads)
    empty = blank(thumbs)
    step(STEPS[1])
    notes = list(read.notes)
    exact = same_bytes(prints)
    duplicates = same_picture(thumbs, prints, empty)
    if len(images) > AT_MOST:
        notes.append(f"With more than {AT_MOST:,} images only copies of the same bytes are looked for.")
    step(STEPS[2])
    features = features_of(images)
    truths = _TRUTHS[images.task.name](images)
    judged = truths.judge(features.taps, duplicates)
    step(STEPS[3])
    return Audit(
        source=read.source, names=names, files=files, splits=splits,
        truths=truths,
        sizes=tuple((info.width, info.height) for info in infos),
        modes=dict(Counter(info.mode for info in infos).most_common()),
        unreadable=tuple((q.path, q.reason) for q in read.quarantined),
        aside=counted(read.quarantined),
        exact=tuple(map(tuple, exact)), duplicates=tuple(map(tuple, duplicates)),
        blank=tuple(int(i) for i in np.flatnonzero(empty)),
        suspects=tuple(suspect for suspect in judged.suspects if not empty[suspect[0]]),
        outliers=tuple(outliers(features.taps, empty)),
        formats=formats(files, threads),
        similar=tuple(similar_classes(truths.names())),
        groups=name_groups(names, images.labels, features.last),
        notes=tuple(notes), held_out=judged.figure, images=images,
    )  # fmt: skip


def _together(sets: Sequence[ImageSet]) -> ImageSet:
    whole = sets[0]
    for other in sets[1:]:
        whole = Joined(whole, other)
    return whole
