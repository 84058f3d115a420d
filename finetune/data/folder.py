"""Images in folders: every file is opened once, what cannot be read is set aside, the rest is an ImageSet."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from finetune import ranks
from finetune.data.decode import MAX_PIXELS, check, is_image, open_rgb, scale_for
from finetune.data.imageset import ImageInfo, ImageSet, Quarantined
from finetune.data.layout import looks_like_image
from finetune.data.memory import BYTES_A_PIXEL, MEBI, budget
from finetune.data.place import Inside, Place, place_of, size_of
from finetune.data.reading import Reading
from finetune.data.scaled import Scaled, open_scaled
from finetune.data.threads import for_each
from finetune.errors import DataError
from finetune.task import SINGLE_LABEL, Task

MAX_FILE_BYTES = 1024 * MEBI
"""A larger file is set aside unread: no photo is, and reading it would fill the memory."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that was opened and found whole."""

    at: Place
    """The folder that the name begins at, or the place inside an archive."""
    name: str
    """Path relative to the data folder, or as the table has it."""
    fingerprint: bytes
    info: ImageInfo

    @property
    def path(self) -> Place:
        """Where its bytes are."""
        return place_of(self.at, self.name)


class Pixels(Protocol):
    """Images decoded while they were checked, kept while they fit."""

    @property
    def room(self) -> int:
        """Pixels that still fit."""

    def put(self, name: str, image: Image.Image) -> None:
        """Keep an image if it fits."""

    def get(self, name: str) -> Image.Image | None:
        """The image, or None where it has to be decoded again."""


class Decoded:
    """Images decoded while they were checked, kept while they fit, so that nothing is decoded twice."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._images: dict[str, Image.Image] = {}
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """Pixels that still fit."""
        return self._free // BYTES_A_PIXEL

    def put(self, name: str, image: Image.Image) -> None:
        """Keep an image if it fits."""
        size = image.width * image.height * BYTES_A_PIXEL
        with self._lock:
            if size <= self._free:
                self._free -= size
                self._images[name] = image

    def get(self, name: str) -> Image.Image | None:
        """The image, or None where it has to be decoded again."""
        return self._images.get(name)


class FolderImages(ImageSet):
    """Checked files with their labels. ``load`` may be called from several threads."""

    def __init__(
        self,
        files: Sequence[Checked],
        labels: np.ndarray,
        classes: tuple[str, ...],
        *,
        max_pixels: int = MAX_PIXELS,
        decoded: Pixels | None = None,
        task: Task = SINGLE_LABEL,
        values: np.ndarray | None = None,
        reading: Reading | None = None,
    ) -> None:
        self.files = tuple(files)
        self.reading = reading or Reading()
        self.labels = np.asarray(labels, dtype=np.int64)
        self.task, self.values = task, values
        self.classes = classes
        self._max_pixels = max_pixels
        self._decoded = decoded or Decoded(0)

    def load(self, index: int) -> Image.Image:
        file = self.files[index]
        kept = self._kept(file, 1)
        return (
            kept
            if kept is not None
            else open_rgb(_source(file), self._max_pixels, str(file.path), self.reading.depth)
        )

    def reduced(self, index: int, short: int, array: bool = False) -> Scaled:
        file = self.files[index]
        kept = self._kept(file, self._scale(file, short))
        if kept is not None:
            return Scaled(np.array(kept) if array else kept, (file.info.width, file.info.height))
        wanted = short if self.reading.fast else None
        name, depth = str(file.path), self.reading.depth
        return open_scaled(_source(file), wanted, self._max_pixels, name, array, depth)

    def key(self, index: int, short: int) -> bytes:
        file = self.files[index]
        scale = self._scale(file, short)
        if scale == 1:
            return file.fingerprint
        return hashlib.blake2b(file.fingerprint, digest_size=16, salt=f"1/{scale}".encode()).digest()

    def _scale(self, file: Checked, short: int) -> int:
        fast = self.reading.fast and file.info.jpeg
        return scale_for((file.info.width, file.info.height), short) if fast else 1

    def _kept(self, file: Checked, scale: int) -> Image.Image | None:
        """What was kept of the first decoding, if it was decoded at this scale."""
        kept = self._decoded.get(file.name)
        fits = kept is not None and (kept.width * scale, kept.height * scale) == (
            file.info.width,
            file.info.height,
        )
        return kept if fits else None

    def name(self, index: int) -> str:
        return self.files[index].name

    def fingerprint(self, index: int) -> bytes:
        return self.files[index].fingerprint

    def info(self, index: int) -> ImageInfo:
        return self.files[index].info

    def file(self, index: int) -> Place:
        return self.files[index].path


def default_decoded() -> Decoded:
    """Room for half a gibibyte, or an eighth of the free memory where that is less."""
    return Decoded(budget(512 * MEBI, 1 / 8))


def check_files(
    files: Sequence[tuple[Place, str]],
    *,
    max_pixels: int,
    workers: int,
    decoded: Pixels,
    short: int | None = None,
    depth: int | None = None,
) -> list[Checked | Quarantined | None]:
    """Open every file (at, name), see ``Checked``, once, in threads. One result a file, in order.

    ``short``: pixels on the short side that will be asked for, where JPEGs may be decoded at a reduced scale.
    ``depth``: bits that deep images use, see ``finetune.data.deep``.
    A file whose name does not claim to be an image and whose bytes are none (notes.txt, Thumbs.db) gives
    None; a damaged or oversized one, or a non-image called .jpg, gives Quarantined.
    """
    results: list[Checked | Quarantined | None] = [None] * len(files)

    def check_one(index: int) -> None:
        results[index] = _check(*files[index], max_pixels, decoded, short, depth)

    for_each(len(files), check_one, workers)
    return results


def check_together(
    files: Sequence[tuple[Place, str]],
    *,
    max_pixels: int,
    workers: int,
    decoded: Pixels,
    short: int | None = None,
    depth: int | None = None,
) -> list[Checked | Quarantined | None]:
    """The same, where there are several processes each opening a share of the files, and telling the others.

    Raises DataError where they do not see the same files.
    """
    if ranks.alone():
        return check_files(
            files, max_pixels=max_pixels, workers=workers, decoded=decoded, short=short, depth=depth
        )
    digest = hashlib.sha256("\n".join(name for _, name in files).encode(errors="replace")).hexdigest()
    lists = ranks.gather(digest)
    if len(set(lists)) > 1:
        other = next(i for i, found in enumerate(lists) if found != lists[0])
        raise DataError(
            f"All processes must see the same images. Process {other} sees others than process 0. "
            "data.path must hold the same files on every machine."
        )
    mine = files[slice(*ranks.rows(len(files)))]
    found = check_files(
        mine, max_pixels=max_pixels, workers=workers, decoded=decoded, short=short, depth=depth
    )
    return [one for part in ranks.gather(found) for one in part]


def _source(file: Checked) -> Path | bytes:
    """What to decode. Raises DataError where an archive can no longer be read."""
    if not isinstance(file.path, Inside):
        return file.path
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Image {str(file.path)!r} must be readable. Got {error.strerror or error} instead."
        ) from None


def _check(
    at: Place, name: str, max_pixels: int, decoded: Pixels, short: int | None, depth: int | None
) -> Checked | Quarantined | None:
    path = place_of(at, name)
    suffix = path.suffix.lower()
    claims = looks_like_image(path)
    try:
        size = size_of(path)
        if size > MAX_FILE_BYTES:
            return Quarantined(name, f"is larger than {MAX_FILE_BYTES // MEBI} MiB") if claims else None
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = getattr(error, "strerror", None) or error
        return Quarantined(name, f"cannot be read ({why})") if claims else None
    if not claims and not is_image(data, suffix):
        return None
    try:
        info, image = check(data, max_pixels, suffix, decoded.room, short, depth)
    except DataError as problem:
        return Quarantined(name, str(problem))
    if image is not None:
        decoded.put(name, image)
    # What is cached under the digest has to be of this depth.
    salt = b"" if depth is None or info.deep is None else f"depth {depth}".encode()
    return Checked(at, name, hashlib.blake2b(data, digest_size=16, salt=salt).digest(), info)
