"""Data sets are found, not named; sizes that are the same are one; relatives are known by pattern."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

from benchmarks.regret import cases, published
from benchmarks.regret.cases import (
    Case,
    family_of,
    find_cases,
    make_case,
    read_families,
    read_groups,
    read_size,
)
from finetune.data.load import load_data
from finetune.errors import ConfigError, DataError
from finetune.recipe import DataRecipe


def test_all_sub_folders_with_classes(picture_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(picture_folder, tmp_path / "pictures")
    shutil.copytree(picture_folder, tmp_path / "parted" / "train")
    shutil.copytree(picture_folder, tmp_path / "parted" / "val")
    (tmp_path / "notes").mkdir()
    found = find_cases(tmp_path)
    assert [(c.name, c.images) for c in found] == [("pictures", 36), ("parted", 72)]
    assert [c.name for c in find_cases(tmp_path, ["parted"])] == ["parted"]
    with pytest.raises(ConfigError, match=r"data sets must be folders of .*Did you mean \"pictures\""):
        find_cases(tmp_path, ["picturs"])
    with pytest.raises(DataError, match="must be a folder"):
        find_cases(tmp_path, ["notes"])
    with pytest.raises(ConfigError, match="--root must be a folder with unpacked data sets"):
        find_cases(tmp_path / "none")
    with pytest.raises(ConfigError, match="a folder with data sets in it"):
        find_cases(tmp_path / "notes")


def test_the_largest_class_is_that_of_the_real_split(picture_folder: Path, tmp_path: Path) -> None:
    flat = make_case(picture_folder, {})
    bundle = load_data(DataRecipe(path=str(picture_folder), workers=1), 0)
    pool = [list(bundle.train.labels).count(k) + list(bundle.val.labels).count(k) for k in range(3)]
    assert max(pool) <= flat.largest <= max(pool) + 1
    shutil.copytree(picture_folder, tmp_path / "p" / "train")
    shutil.copytree(picture_folder, tmp_path / "p" / "test")
    assert make_case(tmp_path / "p", {}).largest == 12


def test_sizes_that_take_everything_are_one() -> None:
    def sizes(largest: int) -> list[int | None]:
        return Case("a", Path(), "a", largest, 100).sizes()

    assert sizes(1000) == [2, 5, 10, 25, 100, None]
    assert sizes(10) == [2, 5, None]
    assert sizes(11) == [2, 5, 10, None]
    assert Case("a", Path(), "a", 1000, 9000).sizes([5, 25]) == [5, 25]
    assert Case("a", Path(), "a", 20, 100).sizes([5, 25]) == [5, None]


def test_the_examples_in_the_docstrings() -> None:
    for module in (cases, published):
        assert doctest.testmod(module).failed == 0


def test_size_names() -> None:
    assert [read_size(t) for t in ("2", "all")] == [2, None]
    for bad in ("1", "many", "-3"):
        with pytest.raises(ConfigError, match="a size must be all, or an int > 1"):
            read_size(bad)


def test_families(tmp_path: Path) -> None:
    shipped = read_families()
    assert family_of("mnist_png", shipped) == family_of("MNIST", shipped) == "digits"
    assert family_of("mnist_png~edges", shipped) == "digits"
    assert family_of("my cars", shipped) == family_of("my cars~hue", shipped) == "my cars"
    bad = tmp_path / "bad.yaml"
    bad.write_text("families: [a]")
    with pytest.raises(ConfigError, match="must be a mapping with `families`: name -> list of patterns"):
        read_families(bad)


def test_images_that_belong_together_are_named_by_the_table(picture_folder: Path, tmp_path: Path) -> None:
    tracks = tmp_path / "gtsrb_small"
    shutil.copytree(picture_folder, tracks)
    assert make_case(tracks, {}).group_by == read_groups()["gtsrb*"]
    assert make_case(picture_folder, {}).group_by is None
    bad = tmp_path / "bad.yaml"
    bad.write_text("families: {}\ngroups: {a: [1]}\n")
    with pytest.raises(ConfigError, match="`groups` a mapping from name patterns to expressions"):
        read_groups(bad)
