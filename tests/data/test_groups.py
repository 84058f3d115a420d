"""Groups (patients, tracks) stay on one side of every split."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.data.imageset import DataBundle
from finetune.data.load import load_data
from finetune.data.splits import carve_groups, carve_least
from finetune.errors import DataError
from finetune.recipe import DataRecipe


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_and_classes_keep_their_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 600)
    groups = rng.integers(0, 120, 600).tolist()  # of mixed classes
    kept, held = carve_groups(labels, 0.2, seed, (groups,))
    assert sorted([*kept, *held]) == list(range(600))
    assert not {groups[i] for i in kept} & {groups[i] for i in held}
    shares = np.bincount(labels[held], minlength=4) / np.bincount(labels)
    assert np.all(np.abs(shares - 0.2) < 0.1)
    again = carve_groups(labels, 0.2, seed, (groups,))
    assert again[1].tolist() == held.tolist()


def test_two_kinds_of_groups_connect() -> None:
    labels = np.zeros(6, dtype=np.int64)
    first, second = ["a", "a", "b", "c", "d", "e"], [1, 2, 2, 3, 3, 4]  # {0, 1, 2}, {3, 4}, {5}
    sides = []
    for seed in range(20):
        _, held = carve_groups(labels, 0.5, seed, (first, second))
        sides.append(set(held.tolist()))
    assert all(len({0, 1, 2} & side) in (0, 3) and len({3, 4} & side) in (0, 2) for side in sides)


def test_the_smallest_group_of_each_class_where_shares_are_below_half_an_image() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3])
    groups = ["a", "b", "c", "c", "d", "d", "e", "f", "d"]  # 1 has one group; d holds 2 and 3
    assert not len(carve_groups(labels, 0.15, 0, (groups,))[1])
    for seed in range(10):
        kept, held = carve_least(labels, seed, (groups,))
        assert sorted([*kept, *held]) == list(range(9))
        assert np.bincount(labels[held], minlength=4).tolist() == [1, 0, 1, 1]  # a or b, e, f
        assert not {groups[i] for i in kept} & {groups[i] for i in held}
        assert set(labels[kept]) == {0, 1, 2, 3}


@pytest.fixture
def tracks(picture_folder: Path, tmp_path: Path) -> Path:
    """Four tracks of three pictures in each class: 00000_00000.png ... 00003_00002.png."""
    for path in sorted(picture_folder.rglob("*.png")):
        number = int(path.stem)
        target = tmp_path / "tracks" / path.parent.name / f"{number // 3:05d}_{number % 3:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "tracks"


def tracks_by_split(bundle: DataBundle) -> list[set[str]]:
    return [
        {part.name(i).rsplit("_", 1)[0] for i in range(len(part))}
        for part in (bundle.train, bundle.val, bundle.test)
    ]


def test_a_pattern_groups_the_images_of_a_folder(tracks: Path) -> None:
    plain = tracks_by_split(load_data(DataRecipe(path=str(tracks)), 0))
    assert plain[0] & plain[2]  # divided, which is what the pattern is for
    bundle = load_data(
        DataRecipe(path=str(tracks), group_by=r"(.*)_\d+\.png", val_fraction=0.25, test_fraction=0.25), 0
    )
    train, val, test = tracks_by_split(bundle)
    assert not train & val
    assert not (train | val) & test
    assert (len(train), len(val), len(test)) == (6, 3, 3)


def test_a_column_groups_the_rows_of_a_table(tracks: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "track", "split"))
        for i, path in enumerate(sorted(tracks.rglob("*.png"))):
            track = path.relative_to(tracks).as_posix().rsplit("_", 1)[0]
            writer.writerow((path, path.parent.name, track, "test" if i % 9 == 0 else "train"))
    bundle = load_data(DataRecipe(path=str(table), group_by="track"), 0)
    train, val, _ = tracks_by_split(bundle)
    assert not train & val
    assert any("4 groups lie in both train and test" in note for note in bundle.notes)
    with pytest.raises(
        DataError, match=r"data.group_by must be a column of t.csv.*'trck'.*Did you mean .*track"
    ):
        load_data(DataRecipe(path=str(table), group_by="trck"), 0)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"data.group_by must be a regular expression .*missing \)"),
        (r"\d+", r"with one part in parentheses.*Got '\\\\d\+'"),
        (r"(patient\d+)_", r"matches no image's name. The first is 'across/00000_00000.png'"),
    ],
)
def test_bad_patterns_are_told(pattern: str, message: str, tracks: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_data(DataRecipe(path=str(tracks), group_by=pattern), 0)


def test_images_that_do_not_match_are_told(tracks: Path) -> None:
    (tracks / "disc" / "00000_00000.png").rename(tracks / "disc" / "other.png")
    bundle = load_data(DataRecipe(path=str(tracks), group_by=r"(.*)_\d+\.png"), 0)
    assert any("does not match 1 image ('disc/other.png')" in note for note in bundle.notes)


def noted(bundle: DataBundle) -> list[str]:
    return [note for note in bundle.notes if "kept whole" in note]


def test_real_shares_are_told_where_they_are_far_off(tracks: Path, picture_folder: Path) -> None:
    few = load_data(DataRecipe(path=str(tracks), group_by=r"(\d+)_\d+\.png"), 0)
    sizes = [len(few.train), len(few.val), len(few.test)]
    shares = " / ".join(f"{size / 36:.0%}" for size in sizes)
    assert noted(few) == [f"4 groups are kept whole, so the shares are {shares}, not 70% / 15% / 15%."]
    many = load_data(DataRecipe(path=str(tracks), group_by=r"(.*)\.png"), 0)
    assert noted(many) == ["36 groups are kept whole."]
    assert not noted(load_data(DataRecipe(path=str(tracks)), 0))
    given = tracks.parent / "given"
    shutil.copytree(tracks, given / "train")
    shutil.copytree(picture_folder, given / "test")
    some = load_data(DataRecipe(path=str(given), group_by=r"(\d+)_\d+\.png"), 0)
    shares = " / ".join(f"{len(part) / 36:.0%}" for part in (some.train, some.val))
    assert noted(some) == [f"4 groups are kept whole, so the shares are {shares}, not 85% / 15%."]
    for keys in ({"limit_per_class": 4}, {"folds": 3, "fold": 1}):
        assert not noted(load_data(DataRecipe(path=str(tracks), group_by=r"(\d+)_\d+\.png", **keys), 0))


def test_two_images_a_class_of_two_tracks_are_divided(tracks: Path) -> None:
    recipe = DataRecipe(path=str(tracks), group_by=r"(.*)_\d+\.png", val_fraction=0.25, test_fraction=0.25,
                        limit_per_class=2)  # fmt: skip
    sides = [tracks_by_split(load_data(recipe, seed)) for seed in range(6)]
    assert all(train and val and not train & val for train, val, _ in sides)


def test_one_track_a_class_is_told(tracks: Path) -> None:
    with pytest.raises(DataError, match="images of two groups.*no validation images.*never divided"):
        load_data(DataRecipe(path=str(tracks), group_by="(.*)/"), 0)
