"""Lists of labels and numbers in tables: what they mean, how they are split, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import picture, write_class

from finetune.data.load import from_datasets, load_data
from finetune.data.profile import profile
from finetune.data.stratify import carve_labels, label_folds
from finetune.data.targets import strata_of_numbers
from finetune.errors import DataError
from finetune.recipe import DataRecipe


def write_table(
    folder: Path, labels: Sequence[str], header: str = "path,label", **more: Sequence[str]
) -> Path:
    """table.csv with an image for each label."""
    folder.mkdir(exist_ok=True)
    lines = [",".join([header, *more])]
    for i, label in enumerate(labels):
        picture(i, (8, 8)).save(folder / f"{i}.png")
        lines.append(",".join([f"{i}.png", label, *(column[i] for column in more.values())]))
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def load(path: Path, **keys: Any) -> Any:
    return load_data(DataRecipe(path=str(path), **keys), seed=0)


LISTS = ["a|b", "b", "c | a", "b", "a", "c", "b|a", "b"] * 4


def test_a_bar_makes_a_table_multi_label(tmp_path: Path) -> None:
    bundle = load(write_table(tmp_path, LISTS))
    assert bundle.task.name == "multi-label"
    assert bundle.classes == ("a", "b", "c")
    parts = (bundle.train, bundle.val, bundle.test)
    assert sum(map(len, parts)) == 32
    for part in parts:
        for i in range(len(part)):
            wanted = {name.strip() for name in LISTS[int(Path(part.name(i)).stem)].split("|")}
            assert {c for c, yes in zip(part.classes, part.targets[i], strict=True) if yes} == wanted
            assert set(part.truth(i).split("|")) == wanted
    assert any("the task is multi-label. data.task=single-label" in note for note in bundle.notes)
    found = profile(bundle)
    assert found.task == "multi-label"
    assert found.counts == tuple(bundle.train.targets.sum(0).astype(int))


def test_said_to_be_classes_lists_are_class_names(tmp_path: Path) -> None:
    bundle = load(write_table(tmp_path, LISTS), task="single-label")
    assert bundle.task.name == "single-label"
    assert "a|b" in bundle.classes
    assert "c | a" in bundle.classes


def test_no_label_means_none_of_them_only_where_the_task_was_asked_for(tmp_path: Path) -> None:
    table = write_table(tmp_path, [*LISTS, "", ""])
    asked = load(table, task="multi-label")
    assert sum(len(part) for part in (asked.train, asked.val, asked.test)) == 34
    found = load(table)
    assert len(found.quarantined) == 2
    assert any("2 images without a label are set aside. data.task=multi-label" in n for n in found.notes)


def test_lists_of_json_and_another_separator(tmp_path: Path) -> None:
    write_table(tmp_path, LISTS)
    rows = [
        {"path": f"{i}.png", "label": [x.strip() for x in text.split("|")]} for i, text in enumerate(LISTS)
    ]
    path = tmp_path / "table.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load(path).task.name == "multi-label"
    path.write_text("\n".join(json.dumps({**row, "label": [*row["label"], "x|y"]}) for row in rows))
    with pytest.raises(DataError, match=r"must be free of '\|', which is put between them. Got 'x\|y'"):
        load(path)
    semicolons = write_table(tmp_path, [text.replace("|", "+") for text in LISTS])
    assert load(semicolons).task.name == "single-label"
    bundle = load(semicolons, label_separator="+")
    assert bundle.task.name == "multi-label"
    assert bundle.classes == ("a", "b", "c")


def test_decimals_are_numbers_and_whole_numbers_classes(tmp_path: Path) -> None:
    numbers = [str(i / 4) for i in range(40)]
    bundle = load(write_table(tmp_path, numbers, "path,y"))
    assert bundle.task.name == "regression"
    assert bundle.classes == ("y",)
    assert any("not whole, as 0.25: the task is regression" in note for note in bundle.notes)
    test = bundle.test
    assert test.targets[:, 0].tolist() == [int(Path(test.name(i)).stem) / 4 for i in range(len(test))]
    assert test.truth(0) == f"{test.targets[0, 0]:g}"
    span = profile(bundle).span
    assert span is not None
    assert span[0] == bundle.train.targets.min()
    assert span[2] == bundle.train.targets.max()
    whole = write_table(tmp_path, [str(i % 5) for i in range(40)])
    assert load(whole).task.name == "single-label"
    assert load(whole, task="regression").task.name == "regression"
    mixed = write_table(tmp_path, ["1.5", "1.5", "red", "red"] * 5)
    assert load(mixed).classes == ("1.5", "red")


def test_folders_named_by_numbers(tmp_path: Path) -> None:
    for name in ("1", "2.5", "10"):
        write_class(tmp_path / name, 8)
    assert load(tmp_path).task.name == "single-label"
    bundle = load(tmp_path, task="regression")
    assert set(bundle.train.targets[:, 0].tolist()) == {1.0, 2.5, 10.0}
    assert bundle.classes == ("value",)


@pytest.mark.parametrize(
    ("labels", "keys", "message"),
    [
        (
            ["a||b", "b"] * 5,
            {},
            r"labels of '0.png' must be names with '\|' between them. Got 'a\|\|b', with an empty",
        ),
        (
            ["a|b"] * 9,
            {},
            r"must be labels that some training images have and others have not. Got \['a', 'b'\]",
        ),
        (
            ["1.5", "2", "cat", "3"],
            {"task": "regression"},
            r"'label' of '2.png' must be a finite number.* Got 'cat'",
        ),
        (
            ["1.5", "nan", "2"],
            {"task": "regression"},
            r"'label' of '1.png' must be a finite number.* Got 'nan'",
        ),
        (
            ["1.5", "2", "inf"],
            {"task": "regression"},
            r"'label' of '2.png' must be a finite number.* Got 'inf'",
        ),
        (["1.5"] * 9, {}, r"must be different numbers. Got 1.5 for every training image instead"),
        (["a|b", "b"], {}, r"must be enough for training, validation and test sets"),
    ],
)
def test_refused(tmp_path: Path, labels: list[str], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write_table(tmp_path, labels), **keys)


def test_unknown_labels_are_refused(tmp_path: Path) -> None:
    split = ["train"] * 28 + ["test"] * 4
    table = write_table(tmp_path, [*LISTS[:31], "z|a"], split=split)
    with pytest.raises(DataError, match=r"test must only hold labels of train. Got 'z' \(1 images\) instead"):
        load(table)


def test_rare_and_constant_labels_are_told(tmp_path: Path) -> None:
    bundle = load(write_table(tmp_path, [f"x|{text}" for text in LISTS[:31]] + ["x|rare"]))
    assert any("Every training image has the label 'x'" in note for note in bundle.notes)
    assert any("'rare'" in note and "not measured" in note for note in bundle.notes)
    assert bundle.train.targets[:, bundle.classes.index("rare")].sum() == 1  # where it can be learned


def test_every_label_keeps_its_share() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((600, 6)) < np.array([0.5, 0.3, 0.1, 0.05, 0.02, 0.9])).astype(np.float32)
    kept, held = carve_labels(values, 0.2, 0, (range(600),))
    assert sorted([*kept, *held]) == list(range(600))
    assert abs(len(held) - 120) <= 3
    assert (abs(values[held].sum(0) - 0.2 * values.sum(0)) <= 1).all()
    again = carve_labels(values, 0.2, 0, (range(600),))
    assert (again[1] == held).all()
    assert len(np.setxor1d(carve_labels(values, 0.2, 1, (range(600),))[1], held))
    counts = np.stack([values[label_folds(values, 5, 0) == fold].sum(0) for fold in range(5)])
    assert (abs(counts - values.sum(0) / 5) <= 1.5).all()


def test_groups_of_lists_and_numbers_are_not_divided(tmp_path: Path) -> None:
    people = [str(i // 4) for i in range(32)]
    for labels in (LISTS, [str(i / 3) for i in range(32)]):
        bundle = load(write_table(tmp_path, labels, person=people), group_by="person")
        sides = [{people[int(Path(part.name(i)).stem)] for i in range(len(part))}
                 for part in (bundle.train, bundle.val, bundle.test)]  # fmt: skip
        assert all(sides)
        assert not (sides[0] & sides[1])
        assert not (sides[0] & sides[2])
        assert not (sides[1] & sides[2])


def test_datasets(tmp_path: Path) -> None:
    def read(labels: Sequence[Any], task: str, **keys: Any) -> Any:
        pairs = [(picture(i, (8, 8)), label) for i, label in enumerate(labels)]
        return from_datasets(pairs, recipe=DataRecipe(task=task), **keys)

    def rows(bundle: Any) -> dict[str, list[float]]:
        parts = (bundle.train, bundle.val, bundle.test)
        return {
            str(part.fingerprint(i)): part.targets[i].tolist() for part in parts for i in range(len(part))
        }

    lists = [[name.strip() for name in text.split("|")] for text in LISTS]
    named = read(lists, "multi-label")
    hot = [np.array([float(name in names) for name in "abc"]) for names in lists]
    assert rows(named) == rows(read(hot, "multi-label", classes=["a", "b", "c"]))
    assert named.classes == ("a", "b", "c")
    assert read(hot, "multi-label").classes == ("0", "1", "2")
    numbers = read([np.float32(i / 2) for i in range(32)], "regression")
    assert sorted(value for (value,) in rows(numbers).values()) == [i / 2 for i in range(32)]
    with pytest.raises(
        DataError, match=r"The label of train\[1\] must be one number, for the task is regression"
    ):
        read([1.0, "two"], "regression")
    with pytest.raises(
        DataError, match=r"The labels of train\[0\] must be a list of names or an array of 0 and 1 for"
    ):
        read([np.array([0.0, 1.0])], "multi-label", classes=["a", "b", "c"])


def test_numbers_are_stratified_by_tenths() -> None:
    numbers = np.random.default_rng(0).exponential(size=1000)
    assert np.bincount(strata_of_numbers(numbers, numbers)).tolist() == [100] * 10
    skewed = np.array([1.0] * 95 + list(np.linspace(2, 3, 20)))
    assert len(np.unique(strata_of_numbers(skewed, skewed))) >= 2
