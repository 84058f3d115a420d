"""From labels as text to what is learned: classes, yes or no for each label, or numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.data.listing import UNLABELLED, Listing, Row
from finetune.errors import DataError, must
from finetune.recipe import DataRecipe
from finetune.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, TASKS, Task

STRATA = 10
"""Groups of like numbers that splits and samples are stratified by."""
_SHOWN = 5


@dataclass(frozen=True)
class Targets:
    """What the rows of a listing mean for a task that is not single-label."""

    classes: tuple[str, ...]
    """Names of the labels, or of the number."""
    values: np.ndarray
    """(N, K) float32."""
    strata: np.ndarray
    """(N,) int64: groups of like rows, 0, 1, ..."""
    notes: tuple[str, ...] = ()


def task_of(recipe: DataRecipe, listing: Listing) -> tuple[Task, tuple[str, ...]]:
    """The recipe's task; where it says auto what the labels look like, with a sentence where that is no class.

    Only labels of a table are looked at (``by_value``): folders are classes.
    """
    if recipe.task != "auto":
        return TASKS[recipe.task], ()
    labels = [row.label for row in listing.rows] if listing.by_value else []
    several = next((label for label in labels if recipe.label_separator in label), None)
    if several is not None or (labels and listing.lists):
        shown = f", as {several!r}" if several is not None else ""
        said: tuple[str, ...] = (
            f"Column {listing.label_name!r} holds lists of labels{shown}: the task is multi-label. "
            "data.task=single-label takes each list for one class.",
        )
        empty = sum(q.reason.startswith(UNLABELLED) and bool(q.path) for q in listing.aside)
        if empty:
            said += (
                f"{empty} images without a label are set aside. data.task=multi-label takes them for images with none "
                "of the labels.",
            )
        return MULTI_LABEL, said
    numbers = [_number(label) for label in labels]
    fraction = next((n for n in numbers if n is not None and not n.is_integer()), None)
    if fraction is not None and None not in numbers:
        return REGRESSION, (
            f"Column {listing.label_name!r} holds numbers that are not whole, as {fraction:g}: the task is "
            "regression. data.task=single-label takes each number for a class.",
        )
    return SINGLE_LABEL, _mixed(listing.label_name, labels, numbers)


def _mixed(name: str, labels: Sequence[str], numbers: Sequence[float | None]) -> tuple[str, ...]:
    """A sentence where some labels are numbers and others are words: a column that was filled in two ways?"""
    number = next((label for label, n in zip(labels, numbers, strict=True) if n is not None), None)
    word = next((label for label, n in zip(labels, numbers, strict=True) if n is None and label), None)
    if number is None or word is None:
        return ()
    return (
        f"Column {name!r} holds words and numbers, as {word!r} and {number!r}: each is a class. "
        "Mend the table if one of them is a mistake.",
    )


def encode(
    task: Task, rows: Sequence[Row], listing: Listing, separator: str, main: str, where: str
) -> Targets:
    """The targets of these rows; the classes and the strata come from those of the split ``main``.

    Raises DataError, naming the image, for a list with an empty entry, a label that ``main`` has not, what is no
    finite number; naming ``where`` for labels or numbers that are the same for all images.
    """
    return (
        _lists(rows, listing, separator, main, where)
        if task == MULTI_LABEL
        else _numbers(rows, listing, main, where)
    )


def labels_of(row: Row, separator: str) -> tuple[str, ...]:
    """The different labels of a list, in its order; none for an empty one. Raises DataError.

    >>> from pathlib import Path
    >>> labels_of(Row(Path("a.png"), "a.png", "cat | dog|cat"), "|")
    ('cat', 'dog')
    """
    if not row.label:
        return ()
    found = [part.strip() for part in row.label.split(separator)]
    if not all(found):
        got = f"{row.label!r}, with an empty entry"
        raise DataError(must(f"The labels of {row.name!r}", f"names with {separator!r} between them", got))
    return tuple(dict.fromkeys(found))


def number_of(row: Row, name: str) -> float:
    """The number of a row. Raises DataError for anything else, infinity and NaN too."""
    value = _number(row.label)
    if value is None:
        raise DataError(
            must(
                f"{name!r} of {row.name!r}", "a finite number, for the task is regression", repr(row.label),
                "Mend the row, or say data.task=single-label.",
            )
        )  # fmt: skip
    return value


def multi_hot(lists: Sequence[Sequence[str]], classes: Sequence[str]) -> np.ndarray:
    """(N, K) float32, 1 where the image has the label.

    >>> multi_hot([("b",), (), ("a", "b")], ("a", "b")).tolist()
    [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
    """
    number = {name: k for k, name in enumerate(classes)}
    values = np.zeros((len(lists), len(classes)), dtype=np.float32)
    for i, names in enumerate(lists):
        values[i, [number[name] for name in names]] = 1
    return values


def strata_of_labels(values: np.ndarray) -> np.ndarray:
    """(N,) int64: each image by its rarest label; those without any are a group of their own.

    >>> strata_of_labels(np.array([[1, 1], [1, 0], [0, 0], [1, 0]])).tolist()
    [1, 0, 2, 0]
    """
    rarity = np.where(values > 0, -values.sum(axis=0), -np.inf)
    found = np.where(values.any(axis=1), rarity.argmax(axis=1), values.shape[1])
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.int64)


def strata_of_numbers(numbers: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(N,) int64: the tenth of ``among`` that each number falls in; few different numbers are a group each.

    >>> strata_of_numbers(np.array([5.0, 7.0, 5.0]), np.array([5.0, 7.0])).tolist()
    [0, 1, 0]
    """
    different = np.unique(among)
    edges = (different[:-1] + different[1:]) / 2
    if len(different) > STRATA:
        parts = min(STRATA, max(2, len(among) // 4))
        edges = np.unique(np.quantile(among, np.arange(1, parts) / parts))
    found = np.searchsorted(edges, numbers)
    if len(np.unique(found)) < 2:  # nearly all are the same number
        found = (numbers > different[0]).astype(np.int64)
    return np.asarray(np.unique(found, return_inverse=True)[1], dtype=np.int64)


def _lists(rows: Sequence[Row], listing: Listing, separator: str, main: str, where: str) -> Targets:
    lists = [labels_of(row, separator) for row in rows]
    inside = [names for row, names in zip(rows, lists, strict=True) if row.split == main]
    classes = listing.class_order(name for names in inside for name in names)
    for split in listing.splits:
        counted = Counter(
            n for row, names in zip(rows, lists, strict=True) if row.split == split for n in names
        )
        unknown = [name for name in counted if name not in classes]
        if unknown:
            shown = ", ".join(f"{n!r} ({counted[n]} images)" for n in sorted(unknown)[:_SHOWN])
            raise DataError(
                f"{listing.called[split]} must only hold labels of {listing.called[main]}. Got {shown} instead. "
                f"Add training images with these labels, or remove them from {listing.called[split]}."
            )
    values = multi_hot(lists, classes)
    own = values[[row.split == main for row in rows]]
    if not len(own) or not (own != own[0]).any():
        got = f"{list(inside[0])} on every image" if inside else "none"
        raise DataError(must(where, "labels that some training images have and others have not", got))
    shared = [name for k, name in enumerate(classes) if own[:, k].all()]
    notes = [
        f"Every training image has the label {name!r}: nothing can be learned about it." for name in shared
    ]
    return Targets(classes, values, strata_of_labels(values), tuple(notes))


def _numbers(rows: Sequence[Row], listing: Listing, main: str, where: str) -> Targets:
    numbers = np.array([number_of(row, listing.label_name) for row in rows], dtype=np.float64)
    own = numbers[[row.split == main for row in rows]]
    if len(np.unique(own)) < 2:
        got = f"{own[0]:g} for every training image" if len(own) else "none"
        raise DataError(must(where, "different numbers", got, "There is nothing to learn from them."))
    return Targets(
        (listing.label_name,), numbers[:, None].astype(np.float32), strata_of_numbers(numbers, own)
    )


def _number(text: str) -> float | None:
    """The finite number that a text is.

    >>> _number("1e3"), _number("nan"), _number("1_0"), _number("cat")
    (1000.0, None, None, None)
    """
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e30 else None
