"""One file many times over is told as that, before anything is divided."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pictures import write_class

from finetune.data.load import load_data
from finetune.errors import DataError
from finetune.recipe import DataRecipe


def copied(root: Path, **sources: str) -> Path:
    """20 copies of one picture a class; classes with the same source have the same picture."""
    for name, source in sources.items():
        write_class(root / source, 1)
        (root / "data" / name).mkdir(parents=True)
        for i in range(20):
            shutil.copy(root / source / "000.png", root / "data" / name / f"{i:03d}.png")
    return root / "data"


def load(root: Path, **keys: object) -> tuple[str, ...]:
    return load_data(DataRecipe(path=str(root), workers=1, **keys), 0).notes


def test_all_images_are_one_file(tmp_path: Path) -> None:
    root = copied(tmp_path, cat="a", dog="a")
    for split in ("train", "val", "test"):  # given splits too, where nothing needs dividing
        shutil.copytree(root, tmp_path / "given" / split)
    for data in (root, tmp_path / "given"):
        with pytest.raises(
            DataError, match=r"Got one file 40 times instead\. All 40 images are the same file"
        ):
            load(data)


def test_each_class_is_one_file(tmp_path: Path) -> None:
    root = copied(tmp_path, cat="a", dog="b")
    with pytest.raises(DataError) as told:
        load(root)
    said = str(told.value)
    assert "3 different images" in said
    assert "Got 'cat' (20 copies of one image), 'dog' (20 copies of one image) instead" in said
    assert said.endswith("Add other images.")


def test_one_class_of_copies_beside_another_is_told(tmp_path: Path) -> None:
    root = copied(tmp_path, cat="a")
    write_class(root / "dog", 20)
    told = (
        "Class 'cat' (20 copies of one image) has nothing else: no second image of it can validate or test."
    )
    assert told in load(root)


def test_copies_that_leave_too_few_are_not_called_the_only_image(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_class(tmp_path / name, 2)
    with pytest.raises(DataError, match=r"3 different images .* Got 1 for training in the largest class"):
        load(tmp_path)
