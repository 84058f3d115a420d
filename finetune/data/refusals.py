"""What is said of an archive or a table that must be something else, and when an archive is a decompression bomb."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finetune.data.memory import MEBI
from finetune.data.place import Place
from finetune.errors import DataError

BOMB_RATIO, BOMB_BYTES = 200, 1024 * MEBI
"""What unpacks to this many times its size, and to more than so many bytes, is a bomb: images hardly shrink."""


def is_bomb(unpacked: int, packed: int) -> bool:
    """Whether so many bytes out of an archive of so many are beyond reason.

    >>> is_bomb(300 * MEBI, MEBI), is_bomb(2000 * MEBI, MEBI)
    (False, True)
    """
    return unpacked > max(BOMB_BYTES, BOMB_RATIO * packed)


def refused(path: Path, rest: str) -> DataError:
    """What to raise for an archive that must be something else."""
    return DataError(f"Archive {str(path)!r} must be {rest}")


def bomb(path: Path, unpacked: str, size: int) -> DataError:
    """What to raise for one that unpacks to too much."""
    return refused(
        path, f"an archive of images. Got {unpacked} bytes out of {size:,} instead: a decompression bomb."
    )


def refuse_twins(table: Place, columns: Sequence[str]) -> None:
    """Raises DataError where two columns have one name: which of them is meant would be a guess."""
    for name, count in Counter(map(str.strip, columns)).items():
        if name and count > 1:
            raise DataError(
                f"Column {name!r} of {str(table)!r} must appear once. Got {count} of that name instead. "
                "Rename or remove the others."
            )
