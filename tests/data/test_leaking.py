"""Given validation images that training holds too are left out; without others validation is carved out of train."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from pictures import write_class

from finetune.data.imageset import DataBundle
from finetune.data.load import load_data
from finetune.recipe import DataRecipe

FLATTERS = "validation accuracy flatters, and what is decided by it."


def made(root: Path, copied: int, fresh: int) -> Path:
    """20 training and 5 test images of two classes; of each class ``copied`` + ``fresh`` to validate."""
    for name in ("cat", "dog"):
        write_class(root / "train" / name, 20)
        write_class(root / "test" / name, 5, first=100)
        write_class(root / "val" / name, fresh, first=200)
        for file in sorted((root / "train" / name).iterdir())[:copied]:
            shutil.copy(file, root / "val" / name / f"c{file.name}")
    return root


def load(root: Path, seed: int = 0, **keys: object) -> DataBundle:
    return load_data(DataRecipe(path=str(root), workers=1, **keys), seed)


def names(part: object) -> list[str]:
    return [part.name(i) for i in range(len(part))]  # type: ignore[attr-defined]


def apart(bundle: DataBundle) -> bool:
    return not set(bundle.train.fingerprints()) & set(bundle.val.fingerprints())


def test_copies_leave_validation_where_enough_others_remain(tmp_path: Path) -> None:
    bundle = load(made(tmp_path, copied=6, fresh=4))
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [40, 8, 10]
    assert apart(bundle)
    assert not any(Path(name).name.startswith("c") for name in names(bundle.val))
    told = f"12 of 20 validation images are exact copies of training images: {FLATTERS}"
    assert f"{told} They are left out of validation; the 8 others validate." in bundle.notes


@pytest.mark.parametrize(("fresh", "rest"), [(0, ""), (1, " The 2 others join training first.")])
def test_without_others_validation_is_carved_out_of_train(tmp_path: Path, fresh: int, rest: str) -> None:
    made(tmp_path, copied=20 - fresh, fresh=fresh)
    bundle, again = load(tmp_path), load(tmp_path)
    assert apart(bundle)
    assert len(bundle.train) + len(bundle.val) == 40 + 2 * fresh
    assert len(bundle.val) == 6
    assert len(bundle.test) == 10
    assert names(bundle.val) == names(again.val) != names(load(tmp_path, seed=1).val)
    told = f"{40 - 2 * fresh} of 40 validation images are exact copies of training images: {FLATTERS} "
    assert f"{told}Validation is 15% of train instead, as if none had been given.{rest}" in bundle.notes
    assert not any("test images are exact copies" in note for note in bundle.notes)


def test_limits_and_groups_hold_for_what_is_carved_instead(tmp_path: Path) -> None:
    made(tmp_path, copied=19, fresh=1)
    few = load(tmp_path, limit_per_class=10)
    assert len(few.train) + len(few.val) == 20
    grouped = load(tmp_path, group_by="([0-9]+)[.]png")
    assert apart(grouped)
    of_val, of_train = ({n[-7:] for n in names(part)} for part in (grouped.val, grouped.train))
    assert of_val
    assert not of_val & of_train


def test_a_validation_set_that_shares_nothing_is_left_as_it_is(tmp_path: Path) -> None:
    bundle = load(made(tmp_path, copied=0, fresh=5))
    assert len(bundle.val) == 10
    assert not any("validation" in note for note in bundle.notes)


def test_a_run_keeps_what_it_made_and_resumes_on_it(tmp_path: Path) -> None:
    from finetune.api import resume, run

    data = made(tmp_path / "d", copied=20, fresh=0)
    done = run(
        {"strategy": "linear", "data": {"path": str(data), "image_size": 32}, "out": str(tmp_path / "r")}
    )
    with (tmp_path / "r" / "splits.csv").open(newline="") as rows:
        splits = {row["image"]: row["split"] for row in csv.DictReader(rows)}
    assert sorted({name.split("/")[0] for name, split in splits.items() if split == "val"}) == ["train"]
    assert len(splits) == 50
    assert resume(done.path).path == done.path


def test_where_nothing_can_be_carved_the_given_images_validate_all_the_same(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            write_class(tmp_path / split / name, 1, first=10 * (split == "test"))
    bundle = load(tmp_path)
    assert [len(part) for part in (bundle.train, bundle.val, bundle.test)] == [2, 2, 2]
    assert f"2 of 2 validation images are exact copies of training images: {FLATTERS}" in bundle.notes
