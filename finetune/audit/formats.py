"""What the files are, by their first bytes: names that say otherwise, and kinds that only one file in hundreds has."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from finetune.data.place import Inside, Place
from finetune.data.threads import for_each

RARE = 0.01
"""A kind of file with at most this share of the images is odd ..."""
COMMON = 0.9
"""... where one kind has at least this share: a placeholder or screenshot among photos."""

_ROTATED = 274  # EXIF tag; 1 is upright
_KINDS = {"JPEG": "jpg jpeg jpe jfif", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif tiff",
          "PPM": "ppm pgm pbm pnm"}  # fmt: skip
_SUFFIXES = {suffix: kind for kind, suffixes in _KINDS.items() for suffix in suffixes.split()}


@dataclass(frozen=True)
class Formats:
    """Kinds of files, and the files that stand out."""

    kinds: dict[str, int]
    """JPEG, PNG ... and how many, the most frequent first."""
    misnamed: tuple[tuple[int, str], ...]
    """(image, what it is): the name claims another kind."""
    odd: tuple[tuple[int, str], ...]
    """(image, what it is): of a rare kind."""
    rotated: tuple[int, ...]
    """Images that EXIF turns; they are read upright."""


def formats(paths: Sequence[Place | None], threads: int = 1) -> Formats:
    """Open each file's header. ``paths``: None where an image is no file."""
    kinds: list[str | None] = [None] * len(paths)
    turned = [False] * len(paths)

    def look(index: int) -> None:
        path = paths[index]
        if path is None:
            return
        try:
            with Image.open(io.BytesIO(path.read_bytes()) if isinstance(path, Inside) else path) as image:
                kinds[index] = "JPEG" if image.format == "MPO" else image.format
                turned[index] = image.getexif().get(_ROTATED, 1) not in (0, 1)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return  # what cannot be read has been told already

    for_each(len(paths), look, threads)
    counts = Counter(kind for kind in kinds if kind is not None)
    known = counts.total()
    one_kind = bool(known) and counts.most_common(1)[0][1] >= COMMON * known
    misnamed, odd = [], []
    for index, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        if path is None or kind is None:
            continue
        claimed = _SUFFIXES.get(path.suffix.lower().lstrip("."))
        if claimed is not None and claimed != kind:
            misnamed.append((index, kind))
        if one_kind and counts[kind] <= max(1, RARE * known) and counts[kind] < counts.most_common(1)[0][1]:
            odd.append((index, kind))
    rotated = tuple(i for i, flag in enumerate(turned) if flag)
    return Formats(dict(counts.most_common()), tuple(misnamed), tuple(odd), rotated)
