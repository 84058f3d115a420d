"""A folder of made photographs with planted faults, audited once with the embedded backbone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from finetune.audit.audit import Audit


def photo(seed: int, hue: int, side: int = 96) -> Image.Image:
    """Soft random shapes, tinted: no two resemble each other more than photographs do."""
    rng = np.random.default_rng(seed)
    grain = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(grain.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    tint = np.zeros(3, dtype=np.float32)
    tint[hue] = 110
    return Image.fromarray((pixels * 0.6 + tint).clip(0, 255).astype(np.uint8))


def planted(root: Path) -> Path:
    """train and val of two classes, 30 and 10 images each, and then what is wrong with them."""
    for split, count, first in (("train", 30, 0), ("val", 10, 500)):
        for hue, name in enumerate(("red", "green")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                photo(first + 1000 * hue + i, hue).save(folder / f"{i:03d}.jpg", quality=92)
    train, val = root / "train", root / "val"
    shutil.copy(train / "red" / "000.jpg", train / "red" / "copy.jpg")
    photo(1, 0).save(train / "red" / "again.jpg", quality=55)  # of 001, encoded anew
    photo(2, 0).resize((60, 60)).save(val / "red" / "small.png")  # of 002, resized, in the other split
    shutil.copy(train / "green" / "003.jpg", train / "red" / "wrong.jpg")
    photo(4000, 1).save(train / "red" / "flipped.jpg")  # a green one called red
    Image.new("RGB", (80, 80), (200, 10, 10)).save(train / "red" / "blank.jpg")
    (train / "red" / "broken.jpg").write_bytes(b"")
    photo(4001, 1).save(root / "x.png")
    shutil.move(root / "x.png", train / "green" / "really_png.jpg")
    return root


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return planted(tmp_path_factory.mktemp("faulty") / "photos")


@pytest.fixture(scope="session")
def found(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    """What the audit says of it."""
    from finetune.audit.run import audit_recipe
    from finetune.recipe import Recipe

    before = os.environ.get("FINETUNE_CACHE")
    os.environ["FINETUNE_CACHE"] = str(tmp_path_factory.mktemp("features"))
    try:
        yield audit_recipe(Recipe.from_mapping({"data": {"path": str(faulty)}, "threads": 1}))
    finally:
        if before is None:
            del os.environ["FINETUNE_CACHE"]
        else:
            os.environ["FINETUNE_CACHE"] = before
