"""Given validation images that training holds too: they tell what was learned by heart and validate nothing."""

from __future__ import annotations

import numpy as np

from finetune.data.imageset import ImageSet

_ENOUGH = 0.25
"""Share of the given validation images that must remain; with fewer, validation is carved out of training."""


def leaking(train: ImageSet, val: ImageSet) -> np.ndarray:
    """(len(val),) bool: validation images that are byte copies of training images."""
    seen = set(train.fingerprints())
    return np.array([print_ in seen for print_ in val.fingerprints()], dtype=bool)


def enough(val: ImageSet, leaked: np.ndarray) -> bool:
    """Whether what remains can still validate: a quarter of the images, and as many as there are classes seen there.

    >>> from types import SimpleNamespace
    >>> val = SimpleNamespace(labels=np.array([0, 0, 1, 1]), task=SimpleNamespace(plain=True))
    >>> [enough(val, np.array(leaked)) for leaked in ([1, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1])]
    [True, False, False]
    """
    left = int((leaked == 0).sum())
    classes = len(np.unique(val.labels)) if val.task.plain else 1
    return left >= max(1, classes, _ENOUGH * len(leaked))


def said(leaked: np.ndarray, carved: str | None) -> str:
    """What was found and done about it; ``carved``: where validation comes from instead, where too few remain."""
    found, all_ = int(leaked.sum()), len(leaked)
    left = all_ - found
    verb = "is an exact copy of a training image" if found == 1 else "are exact copies of training images"
    what = f"{found} of {all_} validation images {verb}: validation accuracy flatters, and what is decided by it."
    if carved is None:
        out = "It is" if found == 1 else "They are"
        rest = "1 other validates" if left == 1 else f"the {left} others validate"
        return f"{what} {out} left out of validation; {rest}."
    rest = "" if not left else f" The {'other joins' if left == 1 else f'{left} others join'} training first."
    return f"{what} Validation is {carved} instead, as if none had been given.{rest}"
