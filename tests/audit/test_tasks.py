"""The whole check of tables with several labels or a number an image: findings, JSON, page, and the cleaned list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.audit.audit import Audit
from finetune.audit.cleaned import as_csv, clean
from finetune.audit.run import audit_recipe
from finetune.data.load import load_data
from finetune.recipe import DataRecipe, Recipe
from finetune.report.data_page import data_page
from tests.audit.tables import greener, tinted

Checked = tuple[Audit, DataRecipe]


def checked(table: Path, column: str, task: str) -> Checked:
    recipe = Recipe.from_mapping(
        {"data": {"path": str(table), "label_column": column, "task": task}, "threads": 1}
    )
    return audit_recipe(recipe), recipe.data


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="module")
def sets(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return checked(tinted(tmp_path_factory.mktemp("sets")), "colours", "multi-label")


@pytest.fixture(scope="module")
def numbers(cache: None, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    return checked(greener(tmp_path_factory.mktemp("numbers")), "green", "regression")


def test_what_is_wrong_with_labels(sets: Checked) -> None:
    said = sets[0].to_dict()
    assert said["task"] == "multi-label"
    assert said["cross_split"] == [["030.jpg", "same.png"]]
    assert said["cross_class"] == [["031.jpg", "other.png"]]
    assert said["blank"] == ["blank.png"]
    suspects = {s["path"]: s for s in said["label_suspects"]}
    assert {"003.jpg", "017.jpg"} <= suspects.keys()
    assert len(suspects) <= 5
    for name in ("003.jpg", "017.jpg"):
        entry = suspects[name]
        assert entry.keys() == {"path", "given", "suggested", "score"}
        assert set(entry["given"]) ^ set(entry["suggested"]) == {"green"}
        assert 0.6 <= entry["score"] <= 1
    assert said["held_out_f1"] > 0.8


def test_labels_are_counted(sets: Checked) -> None:
    found = sets[0]
    said = found.to_dict()
    given = [found.truths.plain(found.truths.given(i)) for i in range(len(found.names))]
    assert said["classes"] == {c: sum(c in labels for labels in given) for c in ("blue", "green", "red")}
    assert said["without_labels"] == sum(not labels for labels in given) > 1
    assert said["imbalance"] == max(said["classes"].values()) / min(said["classes"].values())


def test_what_is_wrong_with_numbers(numbers: Checked) -> None:
    said = numbers[0].to_dict()
    assert said["task"] == "regression"
    assert "classes" not in said
    assert said["numbers"].keys() == {"name", "min", "median", "max", "different"}
    assert (said["numbers"]["name"], said["numbers"]["max"]) == ("green", 1234.5)
    assert said["duplicates"] == [["030.jpg", "same.png"], ["031.jpg", "other.png"]]
    assert said["cross_class"] == [["031.jpg", "other.png"]]
    assert said["similar_classes"] == []
    first, *others = said["label_suspects"]
    assert (first["path"], first["given"]) == ("005.jpg", 1234.5)
    assert 0 < first["suggested"] < 120
    assert "042.jpg" in {s["path"] for s in others}
    assert len(others) <= 4
    assert said["held_out_r2"] > 0.5


@pytest.mark.parametrize("kind", ["sets", "numbers"])
def test_the_cleaned_list_is_the_same_data(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found, recipe = request.getfixturevalue(kind)
    cleaned = clean(found)
    torn = "copies with different labels" if kind == "sets" else "copies with different numbers"
    assert cleaned.reasons() == {"copy": 1, torn: 2} | ({"blank": 1} if kind == "sets" else {})
    target = tmp_path / "list.csv"
    target.write_text(as_csv(found, cleaned, tmp_path))
    keys: Any = dict(key.removeprefix("data.").split("=") for key in found.truths.overrides())
    assert keys == {"task": recipe.task}
    again = load_data(DataRecipe(path=str(target), workers=1, **keys), 0)
    before = {Path(found.names[i]).name: found.images.truth(i) for i in cleaned.kept}
    parts = (again.train, again.val, again.test)
    after = {Path(part.name(i)).name: part.truth(i) for part in parts for i in range(len(part))}
    assert after == before
    assert not again.quarantined
    more = clean(found, suspects=True).reasons()
    assert more["suspected label" if kind == "sets" else "suspected number"] >= 2


@pytest.mark.parametrize("kind", ["sets", "numbers"])
def test_the_page_and_json(kind: str, request: pytest.FixtureRequest) -> None:
    found, _ = request.getfixturevalue(kind)
    page = data_page(found)
    assert page.count("data:image/jpeg;base64,") >= 5
    wanted = {
        "sets": ["123 images with 3 labels", "Labels to look at: ", "no label", "with different labels: 1", "F1 of 0."],
        "numbers": ["122 images with a number (green)", "Numbers to look at: ", "1234.5", "deviations", "(R2)",
                    "with different numbers: 1"],
    }  # fmt: skip
    for words in wanted[kind]:
        assert words in page
    assert "http" not in page
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize(
    ("task", "labels"),
    [("multi-label", ["a|b", "b", ""]), ("multi-label", ["a", "a|b"]), ("regression", ["1", "2.5", "3"])],
)
def test_a_handful_of_images(task: str, labels: list[str], tmp_path: Path) -> None:
    from tests.audit.tables import photo, write

    names = [f"{i}.png" for i in range(len(labels))]
    rows = [["path", "label"], *map(list, zip(names, labels, strict=True))]
    pictures = {name: photo(i, (0, 0, 0), 32) for i, name in enumerate(names)}
    found, _ = checked(write(tmp_path, pictures, rows), "label", task)
    said = found.to_dict()
    assert said["label_suspects"] == []
    assert said["held_out_f1" if task == "multi-label" else "held_out_r2"] is None
    assert data_page(found)


def test_names_that_hold_the_usual_separator(tmp_path: Path) -> None:
    from tests.audit.tables import photo, write

    labels = ["a|b;c", "c", "a|b"]
    rows = [["path", "label"], *([f"{i}.png", label] for i, label in enumerate(labels))]
    table = write(tmp_path, {f"{i}.png": photo(i, (0, 0, 0), 32) for i in range(3)}, rows)
    recipe = Recipe.from_mapping(
        {"data": {"path": str(table), "task": "multi-label", "label_separator": ";"}, "threads": 1}
    )
    found = audit_recipe(recipe)
    assert found.truths.overrides() == ("data.task=multi-label", "data.label_separator=;")
    assert sorted(found.truths.cell(i) for i in range(3)) == ["a|b", "a|b;c", "c"]
