"""Images that are one file many times over: nothing can be learned from them, nor tested on them."""

from __future__ import annotations

import numpy as np

from finetune.data.imageset import ImageSet
from finetune.errors import DataError, must

_SHOWN = 5


def require_different(images: ImageSet) -> None:
    """Raises DataError where all images are byte copies of one."""
    count = len(images)
    if count >= 2 and len(set(images.fingerprints())) == 1:
        raise DataError(
            must("The images", "different files", f"one file {count} times",
                 f"All {count} images are the same file as {images.name(0)!r}. Add other images of every class.")
        )  # fmt: skip


def one_image_many_times(images: ImageSet) -> list[tuple[str, int]]:
    """(class, copies) of the classes whose images, two or more, are copies of one."""
    if not images.task.plain:
        return []
    prints: list[set[bytes]] = [set() for _ in images.classes]
    for print_, label in zip(images.fingerprints(), images.labels.tolist(), strict=True):
        prints[label].add(print_)
    counts = np.bincount(images.labels, minlength=len(images.classes))
    return [(name, int(n)) for name, n, seen in zip(images.classes, counts, prints, strict=True)
            if n >= 2 and len(seen) == 1]  # fmt: skip


def repeated(images: ImageSet) -> list[str]:
    """What is said of such classes: at most one sentence."""
    found = one_image_many_times(images)
    if not found:
        return []
    verb, them = ("has", "it") if len(found) == 1 else ("have", "them")
    noun = "Class" if len(found) == 1 else "Classes"
    return [f"{noun} {_listed(found)} {verb} nothing else: no second image of {them} can validate or test."]


def too_few_different(images: ImageSet) -> str | None:
    """The words where no class has two different images although some have several; None otherwise."""
    found = one_image_many_times(images)
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if not found or len(found) < (counts >= 2).sum():
        return None
    return f"Got {_listed(found)} instead: copies stay on one side of a split. Add other images."


def _listed(found: list[tuple[str, int]]) -> str:
    """
    >>> _listed([("cat", 20), ("dog", 3)])
    "'cat' (20 copies of one image), 'dog' (3 copies of one image)"
    """
    shown = ", ".join(f"{name!r} ({n} copies of one image)" for name, n in found[:_SHOWN])
    return shown if len(found) <= _SHOWN else f"{shown} and {len(found) - _SHOWN} more"
