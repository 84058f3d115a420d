"""torch Datasets of (image, label) as image sets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from finetune.data.decode import to_rgb
from finetune.data.folder import Decoded, default_decoded
from finetune.data.imageset import ImageInfo, ImageSet, Quarantined
from finetune.errors import DataError, must
from finetune.task import SINGLE_LABEL, Task

PAIR = "a (image, label) pair with a PIL image, a uint8 array or tensor, or a float one in [0, 1]"


class ReadDataset:
    """One pass over a dataset: labels, digests, sizes, and the pixels while they fit into memory.

    Pixels that do not fit are asked for again; datasets need not be thread-safe, a lock sees to it. A dataset
    that answers differently each time (random augmentation) is used as it answers: leave the augmentation to
    the recipe's ``train.augment``. Raises DataError for anything that is no dataset of (image, label).
    """

    def __init__(
        self, dataset: Any, name: str, label_of: Callable[[Any, str], int | str] | None = None,
        depth: int | None = None,
    ) -> None:  # fmt: skip
        """``label_of`` makes a label of what the dataset has for one and its place; default: an int or str."""
        self.dataset, self.name, self._depth = dataset, name, depth
        label_of = label_of or _label
        self.labels: list[int | str] = []
        self.quarantined: tuple[Quarantined, ...] = ()
        self.fingerprints: list[bytes] = []
        self.infos: list[ImageInfo] = []
        self._decoded: Decoded = default_decoded()
        self._lock = threading.Lock()
        for index in range(_length(dataset, name)):
            image, label, mode = self._item(index)
            digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
            digest.update(image.tobytes())
            self.labels.append(label_of(label, f"{name}[{index}]"))
            self.fingerprints.append(digest.digest())
            self.infos.append(ImageInfo(image.width, image.height, mode))
            self._decoded.put(str(index), image)

    def image_set(
        self,
        labels: np.ndarray,
        classes: tuple[str, ...],
        task: Task = SINGLE_LABEL,
        values: np.ndarray | None = None,
    ) -> ImageSet:
        """The images with what they are to mean."""
        return DatasetImages(self, labels, classes, task, values)

    def image(self, row: int) -> Image.Image:
        kept = self._decoded.get(str(row))
        if kept is not None:
            return kept
        with self._lock:
            return self._item(row)[0]

    def _item(self, row: int) -> tuple[Image.Image, Any, str]:
        where = f"{self.name}[{row}]"
        try:
            item = self.dataset[row]
        except Exception as error:  # the dataset is the user's code: its own error stays chained below ours
            words = f"{type(error).__name__}: {error}"
            raise DataError(must(where, "readable", words)) from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(must(where, PAIR, _kind(item)))
        image, mode = as_image(item[0], where, self._depth)
        return image, item[1], mode


class DatasetImages(ImageSet):
    """The images of a dataset that was read. ``load`` may be called from several threads."""

    def __init__(
        self, read: ReadDataset, labels: np.ndarray, classes: tuple[str, ...], task: Task = SINGLE_LABEL,
        values: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self._read = read
        self.labels = labels
        self.classes = classes
        self.task, self.values = task, values

    def load(self, index: int) -> Image.Image:
        return self._read.image(index)

    def name(self, index: int) -> str:
        return f"{self._read.name}[{index}]"

    def fingerprint(self, index: int) -> bytes:
        return self._read.fingerprints[index]

    def info(self, index: int) -> ImageInfo:
        return self._read.infos[index]


def as_image(value: Any, where: str, depth: int | None = None) -> tuple[Image.Image, str]:
    """(RGB image, mode or dtype it came in) from a PIL image, array or tensor. Raises DataError.

    Arrays and tensors are HW, HWC or CHW with 1, 3 or 4 channels; where both readings fit, a tensor is CHW
    and an array HWC. dtypes: uint8, bool, uint16 (scaled by ``depth`` bits, or 16), float in [0, 1].
    """
    if isinstance(value, Image.Image):
        try:
            return to_rgb(value, depth), value.mode
        except DataError as problem:
            raise DataError(f"{where} must be an image. Got one that {problem} instead.") from None
    is_tensor = hasattr(value, "detach") and hasattr(value, "cpu")
    if not is_tensor and not isinstance(value, np.ndarray):
        raise DataError(must(where, PAIR, f"an image of type {type(value).__name__}"))
    array: np.ndarray = np.asarray(value.detach().cpu() if is_tensor else value)
    array = _channels_last(array, where, first=is_tensor)
    mode = str(array.dtype)
    pixels = _as_uint8(array, where, depth)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels))), mode


def class_names(dataset: Any) -> Sequence[str] | None:
    """The class names a torchvision dataset carries, also below ``torch.utils.data.Subset``."""
    while dataset is not None:
        names = getattr(dataset, "classes", None)
        if isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names):
            return names
        dataset = getattr(dataset, "dataset", None)
    return None


def _length(dataset: Any, name: str) -> int:
    if isinstance(dataset, (str, bytes, Mapping)) or not hasattr(dataset, "__getitem__"):
        raise DataError(
            must(name, "a dataset with len() and [index] of (image, label)", type(dataset).__name__,
                 "An iterable dataset can be turned into list(dataset).")
        )  # fmt: skip
    try:
        length = len(dataset)
    except TypeError:
        raise DataError(must(name, "a dataset with len()", type(dataset).__name__)) from None
    if length == 0:
        raise DataError(must(name, "a dataset with at least one image", "an empty one"))
    return length


def _label(value: Any, where: str) -> int | str:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:  # numpy and torch scalars
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataError(
            must(f"The label of {where}", "one int or str per image", _kind(value),
                 "Several labels: data.task=multi-label; a number: data.task=regression.")
        )  # fmt: skip
    return value


def number_text(value: Any, where: str) -> str:
    """The number of an image as text. Raises DataError for anything else."""
    if hasattr(value, "item") and hasattr(value, "shape") and all(side == 1 for side in value.shape):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(must(f"The label of {where}", "one number, for the task is regression", _kind(value)))
    return repr(float(value))


def labels_text(value: Any, where: str, names: Sequence[str], separator: str) -> str:
    """The labels of an image, joined: names, or a 1-D array or tensor with 0 or 1 for each of ``names``, or of labels
    that are called by their number where there are none. Raises DataError."""
    if isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(part, str) for part in value):
        return separator.join(sorted(value) if isinstance(value, (set, frozenset)) else value)
    if hasattr(value, "shape") and len(value.shape) == 1:
        flags = [float(part) for part in value]
        if set(flags) <= {0.0, 1.0} and len(names) in (0, len(flags)):
            return separator.join(str(names[k] if names else k) for k, flag in enumerate(flags) if flag)
    wanted = "a list of names or an array of 0 and 1" + (
        f" for each of the {len(names)} classes" if names else ""
    )
    raise DataError(must(f"The labels of {where}", f"{wanted}, for the task is multi-label", _kind(value)))


def _channels_last(array: np.ndarray, where: str, first: bool) -> np.ndarray:
    channels = (1, 3, 4)
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 3 and array.size:
        head, tail = array.shape[0] in channels, array.shape[2] in channels
        if head and (first or not tail):
            return array.transpose(1, 2, 0)
        if tail:
            return array
    shapes = "an image of shape (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4"
    raise DataError(must(where, shapes, array.shape))


def _as_uint8(array: np.ndarray, where: str, depth: int | None) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        most = 2 ** (depth or 16) - 1
        if array.max() > most:
            raise DataError(must(where, f"an image of {depth} bits (data.depth), 0 to {most:,}", array.max()))
        return np.asarray(np.rint(array * (255.0 / most)), dtype=np.uint8)
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(array.dtype, np.floating):
        if not (low >= 0.0 and high <= 1.0):  # NaN fails this too
            raise DataError(
                must(where, "a float image with values in [0, 1]", f"values in [{low:.3g}, {high:.3g}]",
                     "Take Normalize out of the dataset's transform: each backbone brings its own.")
            )  # fmt: skip
        return np.rint(array * 255.0).astype(np.uint8)
    if low >= 0 and high <= 255:
        return array.astype(np.uint8)
    got = f"values in [{low:.6g}, {high:.6g}]"
    raise DataError(must(where, "an integer image with values in [0, 255]", got))


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return f"{value!r}" if isinstance(value, (int, float, str, bool)) else type(value).__name__
