"""The short form of ``finetune data check`` of a run and of advice: what can be said without looking at a pixel."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.audit.copies import apart, same_bytes
from finetune.audit.names import similar_classes

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle

_MOST_CLASSES = 1000
"""Names of more classes are not compared with each other: that would take seconds."""


@dataclass(frozen=True)
class Glance:
    """What was found at first sight."""

    leaked: tuple[tuple[str, ...], ...]
    """Groups of images of the same bytes in more than one split."""
    contradicting: tuple[tuple[str, ...], ...]
    """Groups of the same bytes under different labels."""
    copies: int
    """Images that are there once more, in one split and under one label."""
    similar: tuple[tuple[str, str], ...]
    """Class names that look like one class."""

    @property
    def found(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.leaked or self.contradicting or self.copies or self.similar)

    def lines(self) -> list[str]:
        """A sentence for each finding, the worst first; empty where there is none."""
        said = []
        if self.leaked:
            said.append(f"{_sets(self.leaked)} in two splits, such as {_example(self.leaked)}: figures on them tell "
                        "what was learned by heart.")  # fmt: skip
        if self.contradicting:
            said.append(f"{_sets(self.contradicting)} under two labels, such as {_example(self.contradicting)}: one of "
                        "them is wrong.")  # fmt: skip
        if self.copies:
            noun = "image is a copy" if self.copies == 1 else "images are copies"
            said.append(f"{self.copies:,} {noun} of another, byte for byte.")
        said += [f"Classes {a!r} and {b!r}: are they one?" for a, b in self.similar]
        return said

    def messages(self, path: str | None) -> list[str]:
        """``lines`` as a run says them, and the command that looks closer where the images came from ``path``."""
        said = [f"Data check: {line}" for line in self.lines()]
        if said and path is not None:
            said.append(f"finetune data check {shlex.quote(path)} looks closer: pictures saved again, wrong labels, "
                        "strangers; --fix writes a cleaned list.")  # fmt: skip
        return said

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return {
            "cross_split": [list(group) for group in self.leaked],
            "cross_class": [list(group) for group in self.contradicting],
            "copies": self.copies,
            "similar_classes": [list(pair) for pair in self.similar],
        }


def glance(bundle: DataBundle) -> Glance:
    """Compare the images' digests, which are known already, and the classes' names."""
    parts = {"train": bundle.train, "val": bundle.val, "test": bundle.test}
    images = [(split, part, i) for split, part in parts.items() for i in range(len(part))]
    groups = [tuple(group) for group in same_bytes([part.fingerprint(i) for _, part, i in images])]
    leaked = apart(groups, lambda k: images[k][0])
    contradicting = apart(groups, lambda k: images[k][1].truth(images[k][2]))
    copies = sum(len(group) - 1 for group in {*groups} - {*leaked} - {*contradicting})
    compared = bundle.task.name != "regression" and len(bundle.classes) <= _MOST_CLASSES
    similar = similar_classes(bundle.classes) if compared else []

    def named(found: Sequence[Sequence[int]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(images[k][1].name(images[k][2]) for k in group) for group in found)

    return Glance(named(leaked), named(contradicting), copies, tuple(similar))


def _sets(groups: tuple[tuple[str, ...], ...]) -> str:
    return "1 image is" if len(groups) == 1 else f"{len(groups):,} images are"


def _example(groups: tuple[tuple[str, ...], ...]) -> str:
    return f"{groups[0][0]} and {groups[0][1]}"
