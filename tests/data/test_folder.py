"""Folders of images: layouts, what is skipped, what is set aside, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture, png_header_only, write_class, write_tree
from PIL import Image

from finetune.data.folder import Decoded
from finetune.data.imageset import DataBundle, Joined
from finetune.data.load import load_data, read_folder
from finetune.data.profile import profile
from finetune.errors import DataError
from finetune.recipe import DataRecipe


def load(root: Path, seed: int = 0, **keys: object) -> DataBundle:
    return load_data(DataRecipe(path=str(root), workers=2, **keys), seed)


def names(part: object) -> list[str]:
    return [part.name(i) for i in range(len(part))]


def per_class(part: object) -> list[int]:
    return np.bincount(part.labels, minlength=len(part.classes)).tolist()


def test_flat_folder(tmp_path: Path) -> None:
    bundle = load(write_tree(tmp_path, cat=20, dog=20, owl=7))
    assert bundle.classes == ("cat", "dog", "owl")
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [33, 7, 7]
    assert min(per_class(bundle.val) + per_class(bundle.test)) >= 1
    everything = names(bundle.train) + names(bundle.val) + names(bundle.test)
    assert sorted(everything) == sorted({f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*.png")})
    assert "split 70% / 15% / 15% by class with seed 0" in bundle.notes[0]
    for part in (bundle.train, bundle.val, bundle.test):
        for i in range(len(part)):
            assert part.name(i).startswith(part.classes[part.labels[i]] + "/")
            assert (np.asarray(part.load(i)) == np.asarray(Image.open(tmp_path / part.name(i)))).all()


def test_splits_depend_on_the_seed_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=20, dog=20)
    first, again, other = load(tmp_path, 1), load(tmp_path, 1, max_pixels=10_000), load(tmp_path, 2)
    assert names(first.train) == names(again.train)
    assert names(first.test) == names(again.test)
    assert names(first.test) != names(other.test)


def test_three_splits_are_used_as_they_are(tmp_path: Path) -> None:
    first = 0
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for name in ("cat", "dog"):
            write_class(tmp_path / split / name, count, first)
        first += count
    bundle = load(tmp_path)
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [12, 6, 4]
    assert all(n.startswith("val/") for n in names(bundle.val))


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_val_without_test_is_the_test_set(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path / "train", cat=20, dog=20)
    write_tree(tmp_path / name, cat=5, dog=4)
    bundle = load(tmp_path)
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [34, 6, 9]
    assert all(n.startswith(f"{name}/") for n in names(bundle.test))
    assert all(n.startswith("train/") for n in names(bundle.val))
    assert bundle.notes[0].startswith(
        f"{name} was given but no test set: it is the test set, and nothing is tuned"
    )


def test_test_without_val(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", cat=20, dog=20)
    write_tree(tmp_path / "test", cat=5, dog=4)
    bundle = load(tmp_path)
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [34, 6, 9]
    assert bundle.notes[0] == "No validation set was given: it is 15% of train."


def test_train_alone_is_split(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", cat=20, dog=20)
    bundle = load(tmp_path)
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [28, 6, 6]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(write_tree(tmp_path, bus=6, car=6, train=6)).classes == ("bus", "car", "train")
    write_class(tmp_path / "train" / "steam", 3)
    bundle = load(tmp_path)
    assert bundle.classes == ("bus", "car", "train")
    assert any("Folder train/ is taken for a class, not for a split" in note for note in bundle.notes)


def test_other_folders_beside_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tree(tmp_path / split, cat=8, dog=8)
    write_class(tmp_path / "extra", 3)
    bundle = load(tmp_path)
    assert bundle.classes == ("cat", "dog")
    assert "Folder extra/ is neither a split nor a class and is skipped." in bundle.notes


def test_images_deep_below_a_class(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=5)
    write_class(tmp_path / "dog" / "big" / "old", 3)
    write_class(tmp_path / "dog" / "small", 3)
    bundle = load(tmp_path)
    assert bundle.classes == ("cat", "dog")
    assert sum(map(len, (bundle.train, bundle.val, bundle.test))) == 11


def test_hidden_and_foreign_folders_and_files_are_skipped(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=6, dog=6)
    for name in (".ipynb_checkpoints", ".git", "__MACOSX"):
        write_class(tmp_path / name, 2)
        write_class(tmp_path / "cat" / name, 2, first=90)
    (tmp_path / "cat" / "._000.png").write_bytes(b"resource fork")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("a cat")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    picture(1).save(tmp_path / "loose.png")
    bundle = load(tmp_path)
    assert bundle.classes == ("cat", "dog")
    assert sum(map(len, (bundle.train, bundle.val, bundle.test))) == 12
    assert bundle.quarantined == ()
    assert "Folder empty/ has no images and is skipped." in bundle.notes
    assert f"1 images directly in {tmp_path.name}/ have no class and are skipped." in bundle.notes
    assert "2 files are no images and are skipped: 1 .db, 1 .txt." in bundle.notes


def test_bad_files_are_set_aside(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=6, dog=6)
    cat = tmp_path / "cat"
    whole = encoded(picture(5, (200, 150)), "JPEG")
    (cat / "empty.jpg").write_bytes(b"")
    (cat / "cut.jpg").write_bytes(whole[:-900])
    (cat / "page.jpg").write_bytes(b"<html>404</html>")
    (cat / "bomb.png").write_bytes(png_header_only(20_000, 20_000))
    (cat / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (cat / "png named.jpg").write_bytes(encoded(picture(6)))
    (cat / "без имени").write_bytes(encoded(picture(7)))
    (cat / "cut without a name").write_bytes(whole[:-900])
    bundle = load(tmp_path)
    reasons = {q.path: q.reason for q in bundle.quarantined}
    assert set(reasons) == {
        f"cat/{n}" for n in ("empty.jpg", "cut.jpg", "page.jpg", "bomb.png", "gone.png", "cut without a name")
    }
    assert reasons["cat/empty.jpg"] == "is empty (0 bytes)"
    assert reasons["cat/cut.jpg"].startswith("is cut short or damaged")
    assert reasons["cat/page.jpg"] == "is not an image that Pillow can read"
    assert reasons["cat/bomb.png"] == "has more than data.max_pixels=100,000,000 pixels"
    assert reasons["cat/gone.png"] == "cannot be read (No such file or directory)"
    kept = names(bundle.train) + names(bundle.val) + names(bundle.test)
    assert {"cat/png named.jpg", "cat/без имени"} <= set(kept)
    assert len(kept) == 14


def test_nothing_depends_on_the_memory_for_decoded_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path, cat=6, dog=6)
    (tmp_path / "cat" / "cut.jpg").write_bytes(encoded(picture(5, (200, 150)), "JPEG")[:-900])
    with_memory = load(tmp_path)
    monkeypatch.setattr("finetune.data.load.default_decoded", lambda: Decoded(5000))
    without = load(tmp_path)
    assert without.quarantined == with_memory.quarantined
    for i in range(len(without.train)):
        assert without.train.name(i) == with_memory.train.name(i)
        assert without.train.fingerprint(i) == with_memory.train.fingerprint(i)
        assert without.train.info(i) == with_memory.train.info(i)
        assert (np.asarray(without.train.load(i)) == np.asarray(with_memory.train.load(i))).all()


def test_names_with_spaces_and_unicode(tmp_path: Path) -> None:
    root = tmp_path / "my données 写真"
    write_tree(root / "train", **{"big cat": 6, "пёс": 6, "ñandú": 6})
    write_tree(root / "test", **{"big cat": 2, "пёс": 2, unicodedata.normalize("NFD", "ñandú"): 2})
    bundle = load(root)
    assert bundle.classes == ("big cat", "ñandú", "пёс")
    assert per_class(bundle.test) == [2, 2, 2]


def test_circular_links_end(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=6, dog=6)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat", target_is_directory=True)
    bundle = load(tmp_path)
    assert sum(map(len, (bundle.train, bundle.val, bundle.test))) == 12


def test_a_class_with_one_image_trains(tmp_path: Path) -> None:
    bundle = load(write_tree(tmp_path, cat=10, dog=10, unicorn=1))
    assert per_class(bundle.train)[2] == 1
    assert per_class(bundle.val)[2] == per_class(bundle.test)[2] == 0
    assert "Class 'unicorn' with one image: it trains, and nothing can test it." in bundle.notes


def test_limit_per_class(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=40, dog=40)
    full, some = load(tmp_path), load(tmp_path, limit_per_class=10)
    assert names(some.test) == names(full.test)
    assert [a + b for a, b in zip(per_class(some.train), per_class(some.val), strict=True)] == [10, 10]
    assert min(per_class(some.val)) >= 1
    with pytest.raises(DataError, match=r"data.limit_per_class must be at least 2 .* Got 1 instead"):
        load(tmp_path, limit_per_class=1)


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=12, dog=12)
    for file in sorted((tmp_path / "cat").iterdir()):
        shutil.copy(file, file.with_name("copy of " + file.name))
    bundle = load(tmp_path)
    train, test = ({p.fingerprint(i) for i in range(len(p))} for p in (bundle.train, bundle.test))
    assert not train & test
    assert not any("copies" in note for note in bundle.notes)


def test_copies_under_two_classes_stay_on_one_side_too(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=30, dog=30)
    for file in sorted((tmp_path / "cat").iterdir())[:10]:
        shutil.copy(file, tmp_path / "dog" / f"copy of {file.name}")
    bundle = load(tmp_path)
    parts = [{p.fingerprint(i) for i in range(len(p))} for p in (bundle.train, bundle.val, bundle.test)]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sum(map(len, (bundle.train, bundle.val, bundle.test))) == 70


def test_copies_under_two_classes_and_across_given_splits_are_told(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tree(tmp_path / split, cat=8, dog=8)
    shutil.copy(tmp_path / "train" / "cat" / "000.png", tmp_path / "train" / "dog" / "cat.png")
    notes = " ".join(load(tmp_path).notes)
    assert "1 image is present under more than one class (as 'cat' and 'dog')" in notes
    assert "16 of 16 test images are exact copies of training or validation images" in notes


def test_profile(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=20, dog=10)
    picture(1, (80, 10)).convert("L").save(tmp_path / "cat" / "grey.png")
    (tmp_path / "cat" / "bad.png").write_bytes(b"")
    found = profile(load(tmp_path))
    assert found.n == found.splits["train"] == sum(found.counts)
    assert sum(found.splits.values()) == 31
    assert (found.num_classes, found.classes, found.quarantined) == (2, ("cat", "dog"), 1)
    assert found.widths == (24, 24, 80)
    assert found.heights == (10, 20, 20)
    assert found.modes == {"RGB": 30, "L": 1}
    assert not found.grey
    assert found.imbalance == max(found.counts) / min(found.counts)
    assert found.median == np.median(found.counts)
    assert json.loads(json.dumps(found.to_dict()))["classes"] == ["cat", "dog"]


def test_joined_and_subset_pass_everything_on(tmp_path: Path) -> None:
    bundle = load(write_tree(tmp_path, cat=10, dog=10))
    both = Joined(bundle.train, bundle.val)
    last = len(both) - 1
    for method in ("name", "fingerprint", "info"):
        assert getattr(both, method)(last) == getattr(bundle.val, method)(len(bundle.val) - 1)
        assert getattr(both.subset([last]), method)(0) == getattr(both, method)(last)


def refused(root: Path | str, message: str, **keys: object) -> None:
    with pytest.raises(DataError, match=message):
        load_data(DataRecipe(path=None if root is None else str(root), **keys), 0)


def test_missing_folder(tmp_path: Path) -> None:
    refused(
        tmp_path / "nope",
        r"data.path must be a folder with one sub-folder .* Got '.*nope' instead, which does not",
    )
    refused(None, r"data.path must be .* Got none instead. Pass --data DIR")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    refused(tmp_path / "a.zip", r"Archive .*a.zip. must be a whole zip archive")
    (tmp_path / "a.png").write_bytes(b"x")
    refused(
        tmp_path / "a.png", r"a.png. instead, which is a file and neither a table nor an archive by its name"
    )


def test_empty_folders(tmp_path: Path) -> None:
    refused(tmp_path, "Got a folder without images instead")
    (tmp_path / "cat").mkdir()
    (tmp_path / ".hidden").mkdir()
    refused(tmp_path, "Got a folder without images instead")


def test_images_without_class_folders(tmp_path: Path) -> None:
    write_class(tmp_path / "x", 4)
    refused(
        tmp_path / "x", r"Got 4 images directly in it instead. Move the images of each class into a folder"
    )
    write_class(tmp_path / "y" / "train", 4)
    write_class(tmp_path / "y" / "test", 4)
    refused(
        tmp_path / "y", r"train' must hold one sub-folder of images per class. Got 4 images directly in it"
    )


def test_one_class(tmp_path: Path) -> None:
    write_tree(tmp_path / "a", cat=4)
    refused(
        tmp_path / "a",
        "must hold at least 2 classes. Got only 'cat' instead. Add a folder with images of another",
    )
    write_tree(tmp_path / "b" / "flowers", rose=4, tulip=4)
    refused(
        tmp_path / "b", r"Got only 'flowers' instead. Did you mean '.*flowers', which has 2 sub-folders\?"
    )
    write_tree(tmp_path / "c" / "train", cat=4)
    write_tree(tmp_path / "c" / "test", cat=4)
    refused(tmp_path / "c", "must hold readable images of at least 2 classes. Got only 'cat' instead")


def test_nothing_readable(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=3)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "bad.jpg").write_bytes(b"")
    refused(
        tmp_path, r"Got only 'cat' instead. 1 files could not be read; the first, 'dog/bad.jpg', is empty"
    )
    write_tree(tmp_path, owl=5)
    assert "Class 'dog' has no readable image and is skipped." in load(tmp_path).notes


def test_too_few_images(tmp_path: Path) -> None:
    refused(write_tree(tmp_path, cat=1, dog=1), r"At least one class must have 3 different images .* Got 1")


def test_unknown_labels(tmp_path: Path) -> None:
    write_tree(tmp_path / "train", cat=6, dog=6)
    write_tree(tmp_path / "val", cat=2, dog=2, wolf=3, yak=1)
    refused(
        tmp_path,
        r"val/ must only hold classes of train/. Got 'wolf' \(3 images\), 'yak' \(1 images\) instead. "
        r"Add training images of these classes to train/, or remove them from val/",
    )


def test_splits_without_train_and_twice(tmp_path: Path) -> None:
    write_tree(tmp_path / "a" / "val", cat=2, dog=2)
    write_tree(tmp_path / "a" / "test", cat=2, dog=2)
    refused(tmp_path / "a", r"must hold a train/ folder beside test/ and val/. Got none instead")
    for split in ("train", "val", "valid"):
        write_tree(tmp_path / "b" / split, cat=4, dog=4)
    refused(tmp_path / "b", r"must hold one val folder. Got 'val' and 'valid' instead. Remove or merge one")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path: Path) -> None:
    write_tree(tmp_path, cat=3, dog=3)
    (tmp_path / "cat").chmod(0)
    try:
        refused(tmp_path, r"cat' must be readable. Got Permission denied")
    finally:
        (tmp_path / "cat").chmod(0o755)


def test_a_file_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.data.load.default_decoded", lambda: Decoded(0))
    bundle = load(write_tree(tmp_path, cat=6, dog=6))
    (tmp_path / bundle.train.name(0)).unlink()
    with pytest.raises(DataError, match=rf"{bundle.train.name(0)}' must be an existing file"):
        bundle.train.load(0)


def test_one_reading_serves_many_splits(tmp_path: Path) -> None:
    root = write_tree(tmp_path, cat=20, dog=20)
    keys = {"path": str(root), "workers": 2}
    read = read_folder(DataRecipe(**keys))
    for seed, most in ((0, None), (1, 4)):
        again = load(root, seed, limit_per_class=most)
        once = read.split(DataRecipe(**keys, limit_per_class=most), seed)
        for part in ("train", "val", "test"):
            assert names(getattr(once, part)) == names(getattr(again, part))
        assert once.notes == again.notes
        assert once.source == again.source == str(root)
