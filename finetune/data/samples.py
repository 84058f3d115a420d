"""torchvision's data sets: labels without an image being loaded, and files without the data set in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.arrays import ArrayDataset
from finetune.data.folder import Checked, FolderImages, check_files, default_decoded
from finetune.data.imageset import ImageSet, Quarantined
from finetune.data.threads import worker_count
from finetune.recipe import DataRecipe
from finetune.task import SINGLE_LABEL, Task


class ReadSamples:
    """Files and labels of an ImageFolder: opened in threads, and set aside where they cannot be decoded."""

    def __init__(
        self, samples: Sequence[tuple[str, int]], name: str, root: str | None, recipe: DataRecipe
    ) -> None:
        self._recipe, self._decoded = recipe, default_decoded()
        files = [_shown(path, root) for path, _ in samples]
        found = check_files(
            files, max_pixels=recipe.max_pixels, workers=worker_count(recipe.workers), decoded=self._decoded,
            depth=recipe.depth,
        )  # fmt: skip
        kept = [i for i, file in enumerate(found) if isinstance(file, Checked)]
        self._files = [file for file in found if isinstance(file, Checked)]
        self.labels: list[int | str] = [int(samples[i][1]) for i in kept]
        self.quarantined = tuple(file for file in found if isinstance(file, Quarantined))

    def image_set(
        self,
        labels: np.ndarray,
        classes: tuple[str, ...],
        task: Task = SINGLE_LABEL,
        values: np.ndarray | None = None,
    ) -> ImageSet:
        """The images with what they are to mean."""
        return FolderImages(
            self._files, labels, classes, max_pixels=self._recipe.max_pixels, decoded=self._decoded, task=task,
            values=values,
        )  # fmt: skip


def samples_of(dataset: Any) -> tuple[list[tuple[str, int]], str | None] | None:
    """(path, label) of each image and the root folder, of an ImageFolder or a Subset of one that changes no image.

    None for any other data set: where a transform or loader of its own stands between the file and the image, what
    the data set gives is what is meant.
    """
    found = _below(dataset)
    if found is None:
        return None
    base, rows = found
    samples = getattr(base, "samples", None)
    plain = all(getattr(base, name, None) is None for name in ("transform", "target_transform", "transforms"))
    loader = getattr(getattr(base, "loader", None), "__name__", "")
    if not isinstance(samples, list) or not plain or loader not in ("default_loader", "pil_loader"):
        return None
    chosen = samples if rows is None else [samples[i] for i in rows]
    if not chosen or not all(isinstance(s, tuple) and len(s) == 2 and isinstance(s[0], str) for s in chosen):
        return None
    return chosen, str(getattr(base, "root", "")) or None


def labels_of_dataset(dataset: Any) -> list[int] | None:
    """The labels that a torchvision data set, or a Subset of one, knows without loading an image; None where it does
    not.

    >>> labels_of_dataset([("image", 1)]) is None
    True
    """
    found = _below(dataset)
    if found is None:
        return None
    base, rows = found
    if any(getattr(base, name, None) is not None for name in ("target_transform", "transforms")):
        return None
    targets = next(
        (t for t in (getattr(base, n, None) for n in ("targets", "labels")) if t is not None), None
    )
    if not isinstance(targets, (list, tuple)) and not hasattr(targets, "tolist"):
        return None
    listed = targets.tolist() if hasattr(targets, "tolist") else list(targets)  # type: ignore[union-attr, arg-type]
    if len(listed) != len(base) or not all(type(one) is int for one in listed):
        return None
    return listed if rows is None else [listed[i] for i in rows]


def _below(dataset: Any) -> tuple[Any, list[int] | None] | None:
    """torchvision's data set, or arrays, under Subsets, and the rows of it that are meant.

    None for classes with a ``__getitem__`` of their own, which may change what it gives.
    """
    rows: list[int] | None = None
    while hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        here = [int(i) for i in dataset.indices]
        rows = here if rows is None else [here[i] for i in rows]
        dataset = dataset.dataset
    getter = getattr(type(dataset), "__getitem__", None)
    known = isinstance(dataset, ArrayDataset) or str(getattr(getter, "__module__", "")).startswith(
        "torchvision."
    )
    return (dataset, rows) if known and hasattr(dataset, "__len__") else None


def _shown(path: str, root: str | None) -> tuple[Path, str]:
    """The folder that a file is named below, and its name there."""
    place = Path(path)
    if root is not None and place.is_relative_to(root):
        return Path(root), place.relative_to(root).as_posix()
    return Path(), place.as_posix()
