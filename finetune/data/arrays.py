"""Images and labels in memory, as scikit-learn takes them: X (N, H, W[, C]) or (N, C, H, W), y (N,)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.errors import DataError, must

SHAPES = "images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1, 3 or 4"
_PART = 1024
"""Images whose range is looked at together, so that no copy of the whole is made."""


class ArrayDataset:
    """Images and labels as a dataset of pairs. Raises DataError where they do not fit together."""

    def __init__(self, images: Any, labels: Any, name: str, task: str = "auto") -> None:
        self.images = images
        if _dimensions(images) is not None:
            _check_images(images, name)
        elif not hasattr(images, "__getitem__") or not hasattr(images, "__len__"):
            raise DataError(must(f"The images of {name}", SHAPES, type(images).__name__))
        self.targets = _labels(labels, name, task)
        if len(self.targets) != len(images):
            got = f"{len(self.targets)} for {len(images)} images"
            raise DataError(must(f"The labels of {name}", "one for each image", got))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.images[index], self.targets[index]


def paired(train: Any, val: Any, test: Any, task: str = "auto") -> tuple[Any, Any, Any]:
    """``fit(X, y)`` and ``fit((X, y), (X, y), (X, y))`` as datasets of pairs; whatever else is given as it is."""
    if _is_labels(val) and _is_images(train) and not _is_pair(train):
        return ArrayDataset(train, val, "train", task), None, as_dataset(test, "test", task)
    return tuple(
        as_dataset(part, name, task) for name, part in (("train", train), ("val", val), ("test", test))
    )


def as_dataset(part: Any, name: str, task: str = "auto") -> Any:
    """A pair (X, y) as a dataset of pairs; anything else as it is. Raises DataError for X without y."""
    if _is_pair(part):
        images, labels = part
        return ArrayDataset(images, labels, name, task)
    if (_dimensions(part) or 0) > 1:
        raise DataError(must(name, "images with labels", f"an array of shape {tuple(part.shape)} alone",
                             "Call fit(X, y), or fit((X, y), (X_val, y_val))."))  # fmt: skip
    return part


def _is_pair(part: Any) -> bool:
    """Whether it is (X, y), and not a dataset of two (image, label) pairs."""
    return isinstance(part, (tuple, list)) and len(part) == 2 and _is_labels(part[1]) and _is_images(part[0])


def _is_images(part: Any) -> bool:
    """An array of images, or a list of them; a list of (image, label) pairs is a dataset."""
    if isinstance(part, (list, tuple)):
        return bool(part) and not isinstance(part[0], (list, tuple)) and not _is_labels(part)
    return (_dimensions(part) or 0) > 1


def _is_labels(value: Any) -> bool:
    """An array with a row for each image, or a list of labels."""
    found = _dimensions(value)
    if found is not None:
        return found in (1, 2)
    if not isinstance(value, (list, tuple)) or not value:
        return False
    first = value[0]
    return isinstance(first, (int, float, str, np.generic)) or getattr(first, "ndim", None) == 0


def _dimensions(value: Any) -> int | None:
    """Of an array, tensor or column of a data frame; None for anything else, a PIL image too."""
    shape = getattr(value, "shape", None)
    return len(shape) if isinstance(shape, tuple) and hasattr(value, "__len__") else None


def _check_images(images: Any, name: str) -> None:
    shape = tuple(images.shape)
    if len(shape) not in (3, 4) or 0 in shape:
        remedy = (
            "Features, or flattened images, have lost their shape: reshape them." if len(shape) == 2 else ""
        )
        raise DataError(must(f"The images of {name}", SHAPES, f"shape {shape}", remedy))
    if len(shape) == 4 and not {shape[1], shape[3]} & {1, 3, 4}:
        raise DataError(must(f"The images of {name}", SHAPES, f"shape {shape}"))
    kind = str(images.dtype).removeprefix("torch.")
    if "float" not in kind:
        return
    for start in range(0, shape[0], _PART):
        part = images[start : start + _PART]
        low, high = float(part.min()), float(part.max())  # NaN where one is
        if not (low >= 0 and high <= 1):
            values = f"values in [{low:.3g}, {high:.3g}]" if low == low and high == high else "NaN"
            remedy = (
                "Divide them by 255." if low >= 0 and 1 < high <= 255 else "Do not normalise them before."
            )
            raise DataError(must(f"Float images of {name}", "in [0, 1]", values, remedy))


def _labels(labels: Any, name: str, task: str) -> Sequence[Any]:
    """Labels as a sequence of ints, texts, numbers or rows, by the task."""
    if isinstance(labels, (list, tuple)) and not all(
        isinstance(one, (int, float, np.generic)) for one in labels
    ):
        return labels
    array = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if array.ndim == 2 and array.shape[1] == 1 and task != "multi-label":
        array = array[:, 0]
    if array.ndim == 2:
        if task != "multi-label":
            remedy = "data.task=multi-label learns 0 or 1 for each; of one-hot labels take argmax(axis=1)."
            raise DataError(
                must(f"The labels of {name}", "one for each image", f"shape {array.shape}", remedy)
            )
        return list(array)
    if task == "regression":
        return [float(number) for number in array]
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or (array != np.rint(array)).any():
            odd = next(float(v) for v in array if not np.isfinite(v) or v != np.rint(v))
            remedy = "data.task=regression learns numbers."
            raise DataError(must(f"The labels of {name}", "classes: ints or texts", f"{odd:g}", remedy))
        array = array.astype(np.int64)
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    return list(array.tolist())
