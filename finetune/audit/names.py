"""What names give away: classes that are probably one, and images that belong together."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

_ALIKE = 0.87
_LONG = 5

PATTERNS: tuple[str, ...] = (
    r"(.*)[_-][A-Za-z]*[0-9]+[.]",
    r"(.*) ?[(][0-9]+[)][.]",
    r"(.*)[A-Za-z]+[.]",
    r"(.*?[0-9]+)[_-]",
    r"(.*)/[^/]+$",
)
"""What is searched in the images' names; the part in parentheses names the group."""

_NAMED = 0.9
_SHARED = 0.25
_TIMES = 3.0
_SAMPLE = 1000


def similar_classes(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that probably mean one class: they differ in case, signs, a plural or a letter.

    >>> similar_classes(["Cat", "cats", "dog", "zebra crossing", "zebra_crosing", "speed 30", "speed 50"])
    [('Cat', 'cats'), ('zebra crossing', 'zebra_crosing')]
    """
    plain = [re.sub(r"[\W_]+", "", name.casefold()) for name in classes]
    numbers = [re.findall(r"[0-9]+", name) for name in plain]
    words = [re.sub(r"[0-9]", "", name) for name in plain]
    letters = difflib.SequenceMatcher()
    found = []
    for j in range(len(classes)):
        letters.set_seq2(words[j])  # which it prepares for the comparison with many
        for i in range(j):
            if numbers[i] == numbers[j] and (
                _one_word(plain[i], plain[j]) or _nearly(letters, words[i], words[j])
            ):
                found.append((i, j))
    return [(classes[i], classes[j]) for i, j in sorted(found)]


def _one_word(a: str, b: str) -> bool:
    return bool(a) and (a == b or f"{a}s" == b or f"{b}s" == a or f"{a}es" == b or f"{b}es" == a)


def _nearly(letters: difflib.SequenceMatcher[str], a: str, b: str) -> bool:
    """Whether ``a`` is almost ``b``, which ``letters`` was given; what is cheap and never less is asked first."""
    if min(len(a), len(b)) < _LONG:
        return False
    letters.set_seq1(a)
    return (
        letters.real_quick_ratio() >= _ALIKE and letters.quick_ratio() >= _ALIKE and letters.ratio() >= _ALIKE
    )


@dataclass(frozen=True)
class NameGroups:
    """Groups of images by their names that look like one patient, track or film each."""

    pattern: str
    """For ``--group-by``."""
    groups: int
    images: int
    """Images in groups of two and more."""
    share: float
    """How often the most similar image of the same class is one of the same group."""
    chance: float
    """How often it would be if the names meant nothing."""
    members: tuple[str | None, ...]
    """The group of each image."""


def name_groups(names: Sequence[str], labels: np.ndarray, features: np.ndarray) -> NameGroups | None:
    """The pattern by which names part the images into groups that also look alike; None where none does.

    names: of N images, the path within the data set; labels: (N,) int; features: (N, D) float32. A pattern counts where
    nearly all names have it, its groups are many and small, and the nearest image of the same class is one of the same
    group far more often than by chance: names that only number the images of a class say nothing.
    """
    best: NameGroups | None = None
    classes = len(np.unique(labels))
    for pattern in PATTERNS:
        matches = [re.search(pattern, name) for name in names]
        if not names or sum(m is not None for m in matches) < _NAMED * len(names):
            continue
        members = [m.group(1) if m else name for m, name in zip(matches, names, strict=True)]
        sizes = Counter(members)
        together = sum(size for size in sizes.values() if size > 1)
        if len(sizes) < 2 * classes or together < len(names) / 2:
            continue
        share, chance = _nearest_in_group(members, sizes, labels, features)
        if share > max(_SHARED, _TIMES * chance) and (
            best is None or share - chance > best.share - best.chance
        ):
            best = NameGroups(pattern, len(sizes), together, share, chance, tuple(members))
    return best


def _nearest_in_group(
    members: Sequence[str], sizes: Counter[str], labels: np.ndarray, features: np.ndarray
) -> tuple[float, float]:
    """Share of images whose nearest one of the same class is of the same group; and that share by chance."""
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    x = torch.nn.functional.normalize(x - x.mean(dim=0), dim=1)
    several = np.array([i for i, member in enumerate(members) if sizes[member] > 1], dtype=np.int64)
    asked = several[np.random.default_rng(0).permutation(len(several))[:_SAMPLE]]
    hits, chance = 0, 0.0
    for i in asked:
        peers = np.flatnonzero(labels == labels[i])
        peers = peers[peers != i]
        if not len(peers):
            continue
        nearest = peers[int((x[torch.from_numpy(peers)] @ x[int(i)]).argmax())]
        hits += members[nearest] == members[i]
        chance += sum(members[j] == members[i] for j in peers) / len(peers)
    return hits / max(1, len(asked)), chance / max(1, len(asked))
