"""What is said of a split: copies, groups on two sides, classes without test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune.data.imageset import ImageSet
from finetune.task import MULTI_LABEL

_SHOWN = 5


def divided(groups: Mapping[str, Sequence[object]], called: Mapping[str, str]) -> list[str]:
    """Groups that lie in several of the given sets."""
    notes = []
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = set(groups.get(first, ())) & set(groups.get(second, ()))
        if shared:
            names = f"{called.get(first, first)} and {called.get(second, second)}"
            which = "1 group lies" if len(shared) == 1 else f"{len(shared)} groups lie"
            notes.append(f"{which} in both {names}: accuracy on the latter flatters.")
    return notes


def copies(images: ImageSet) -> list[str]:
    """Exact copies under several classes: at least one of the labels is wrong."""
    if not images.task.plain:
        return _unlike_copies(images)
    first: dict[bytes, int] = {}
    several: dict[bytes, set[int]] = {}
    for print_, label in zip(images.fingerprints(), images.labels.tolist(), strict=True):
        before = first.setdefault(print_, label)
        if before != label:
            several.setdefault(print_, {before}).add(label)
    torn = [sorted(several[print_]) for print_ in first if print_ in several] if several else []
    if not torn:
        return []
    example = " and ".join(repr(images.classes[k]) for k in torn[0][:2])
    found = "1 image is" if len(torn) == 1 else f"{len(torn)} images are"
    return [f"{found} present under more than one class (as {example}): check their labels."]


def _unlike_copies(images: ImageSet) -> list[str]:
    """Exact copies with other labels or numbers."""
    values: dict[bytes, set[bytes]] = {}
    for print_, row in zip(images.fingerprints(), images.targets, strict=True):
        values.setdefault(print_, set()).add(row.tobytes())
    torn = sum(len(found) > 1 for found in values.values())
    if not torn:
        return []
    what = "labels" if images.task == MULTI_LABEL else "numbers"
    found = "1 image is" if torn == 1 else f"{torn} images are"
    return [f"{found} present more than once, with different {what}: check them."]


def leaks(train: ImageSet, val: ImageSet, test: ImageSet) -> list[str]:
    """Validation images that training holds too, test images that either holds."""
    trained, validated = set(train.fingerprints()), val.fingerprints()
    notes = []
    if shared := sum(print_ in trained for print_ in validated):
        notes.append(f"{shared} of {len(val)} validation images are exact copies of training images: "
                     "validation accuracy flatters, and what is decided by it.")  # fmt: skip
    seen = trained.union(validated)
    if shared := sum(print_ in seen for print_ in test.fingerprints()):
        notes.append(f"{shared} of {len(test)} test images are exact copies of training or validation images: "
                     "the test accuracy flatters.")  # fmt: skip
    return notes


def rare(train: ImageSet, val: ImageSet, test: ImageSet) -> list[str]:
    """Classes and labels that nothing can test, or that nothing trains."""
    if not train.task.plain:
        return _rare_labels(train, test) if train.task == MULTI_LABEL else []
    counts = {name: Counter(part.labels.tolist()) for name, part in
              (("train", train), ("val", val), ("test", test))}  # fmt: skip
    notes = []
    single = [c for k, c in enumerate(train.classes)
              if counts["train"][k] == 1 and not counts["val"][k] and not counts["test"][k]]  # fmt: skip
    if single:
        notes.append(f"{_list(single)} with one image: it trains, and nothing can test it.")
    untested = [c for k, c in enumerate(train.classes) if not counts["test"][k] and c not in single]
    if untested:
        notes.append(f"{_list(untested)} without test images: their accuracy is not measured.")
    return notes


def _rare_labels(train: ImageSet, test: ImageSet) -> list[str]:
    """Labels that no training image has, and labels that the test images do not tell apart."""
    notes = []
    never = [c for c, n in zip(train.classes, train.targets.sum(axis=0), strict=True) if n == 0]
    if never:
        notes.append(f"{_list(never, 'Label')} on no training image: never predicted.")
    share = test.targets.mean(axis=0)
    untested = [c for c, s in zip(train.classes, share, strict=True) if s in (0.0, 1.0) and c not in never]
    if untested:
        notes.append(f"{_list(untested, 'Label')} on none or all of the test images: not measured.")
    return notes


def _list(classes: Sequence[str], noun: str = "Class") -> str:
    shown = ", ".join(repr(c) for c in classes[:_SHOWN])
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    plural = "Classes" if noun == "Class" else f"{noun}s"
    return f"{noun if len(classes) == 1 else plural} {shown}{more}"
