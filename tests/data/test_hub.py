"""Hugging Face data sets: through the library where it is installed, through one that answers alike where it is not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pictures import encoded, picture

from finetune.data.load import load_data
from finetune.errors import DataError
from finetune.recipe import DataRecipe


class Image:
    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class Listed:
    """What the library calls Sequence or List."""

    def __init__(self, feature: Any) -> None:
        self.feature = feature


class Rows:
    """Stands for ``datasets.Dataset``; images decode to something that nobody here wants."""

    def __init__(self, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
        self.columns, self.features = columns, features

    def cast_column(self, name: str, kind: Any) -> Rows:
        return Rows(self.columns, self.features | {name: kind})

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        row = {name: cells[key] for name, cells in self.columns.items()}
        return {n: "decoded" if getattr(self.features[n], "decode", False) else c for n, c in row.items()}


def rows(count: int = 20, first: int = 0, **more: tuple[Any, list[Any]]) -> Rows:
    cells = [{"bytes": encoded(picture(first + i)), "path": None} for i in range(count)]
    columns: dict[str, list[Any]] = {"img": cells, "label": [i % 2 for i in range(count)]}
    features: dict[str, Any] = {"img": Image(), "label": ClassLabel(["cat", "dog"])}
    for name, (kind, values) in more.items():
        columns[name], features[name] = values, kind
    return Rows(columns, features)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Name -> what is loaded under it."""
    held: dict[str, Any] = {}
    module: Any = ModuleType("datasets")

    def load(name: str, part: str | None = None) -> Any:
        key = f"{name}:{part}" if part else name
        if key not in held:
            raise FileNotFoundError(f"Dataset '{key}' doesn't exist on the Hub.\nmore")
        return held[key]

    module.load_dataset = module.load_from_disk = load
    module.Image, module.ClassLabel = Image, ClassLabel
    monkeypatch.setitem(sys.modules, "datasets", module)
    return held


def load(path: str | Path, **keys: Any) -> Any:
    return load_data(DataRecipe(path=str(path), **keys), 0)


def test_images_and_class_labels(library: dict[str, Any]) -> None:
    library["user/pets"] = {"train": rows()}
    bundle = load("hf:user/pets")
    assert bundle.classes == ("cat", "dog")
    for part in (bundle.train, bundle.val, bundle.test):
        for i in range(len(part)):
            number = int(part.name(i).rsplit("/", 1)[1])
            assert part.name(i) == f"pets!/train/{number}"
            assert part.labels[i] == number % 2
            assert np.array_equal(np.asarray(part.load(i)), np.asarray(picture(number)))


def test_given_splits_and_a_part(library: dict[str, Any], tmp_path: Path) -> None:
    library["pets:big"] = {
        "train": rows(12),
        "validation": rows(6, 12),
        "test": rows(4, 18),
        "extra": rows(2, 30),
    }
    bundle = load("hf:pets:big")
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (12, 6, 4)
    assert "Split 'extra' is not used." in bundle.notes
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    library[str(tmp_path / "saved")] = library["pets:big"]
    assert len(load(tmp_path / "saved").val) == 6
    library["none"] = {"validation": rows(4), "test": rows(4, 4)}
    with pytest.raises(
        DataError, match="hf:none must be a data set with a split called train. Got 'validation', 'test'"
    ):
        load("hf:none")


def test_rows_that_cannot_be_used_are_set_aside(library: dict[str, Any]) -> None:
    found = rows(20)
    found.columns["label"][3], found.columns["label"][4] = -1, None
    found.columns["img"][5] = {"bytes": b"no image", "path": None}
    found.columns["img"][6] = {"bytes": None, "path": "/nowhere/6.png"}
    found.columns["img"][7] = None
    library["x"] = found
    assert {q.path: q.reason for q in load("hf:x").quarantined} == {
        "x!/all/3": "has no 'label' in its row",
        "x!/all/4": "has no 'label' in its row",
        "x!/all/5": "is not an image that Pillow can read",
        "x!/all/6": "cannot be read (No such file or directory)",
        "x!/all/7": "cannot be read (the row has no image)",
    }


def test_several_labels_groups_and_columns(library: dict[str, Any]) -> None:
    tags = [[0], [0, 1], [], [1]] * 5
    library["x"] = rows(
        20, tags=(Listed(ClassLabel(["a", "b"])), tags), who=(None, [f"p{i // 2}" for i in range(20)])
    )
    bundle = load("hf:x", label_column="tags", task="multi-label")
    assert bundle.classes == ("a", "b")
    truths = {
        part.name(i): part.truth(i)
        for part in (bundle.train, bundle.val, bundle.test)
        for i in range(len(part))
    }
    assert [truths[f"x!/all/{i}"] for i in range(4)] == ["a", "a|b", "", "b"]
    grouped = load("hf:x", label_column="label", group_by="who")
    of = [
        {int(part.name(i).rsplit("/", 1)[1]) // 2 for i in range(len(part))}
        for part in (grouped.train, grouped.test)
    ]
    assert not of[0] & of[1]
    with pytest.raises(
        DataError, match="data.group_by must be a column of hf:x.*Got 'wo'.*Did you mean .*who"
    ):
        load("hf:x", label_column="label", group_by="wo")
    with pytest.raises(
        DataError, match="data.label_column must be a column of hf:x.*'tag'.*Did you mean .*tags"
    ):
        load("hf:x", label_column="tag")
    with pytest.raises(
        DataError, match="must have a column of type Image. Got 'img', 'label', 'tags', 'who'"
    ):
        load("hf:x", image_column="who")
    library["y"] = Rows({"img": [], "n": []}, {"img": Image(), "n": None})
    with pytest.raises(
        DataError, match=r"must have a column of type ClassLabel. Got 'img', 'n'.*data.label_column"
    ):
        load("hf:y")
    with pytest.raises(DataError, match="hf:y must be a data set of labelled images. Got none of 0 rows"):
        load("hf:y", label_column="n")


def test_what_cannot_be_loaded(library: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        DataError, match="hf:gone must be a data set that can be loaded. Got Dataset 'gone' doesn't exist"
    ):
        load("hf:gone")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'data set needs datasets. Run: pip install "finetune\[datasets\]"'):
        load("hf:gone")


def test_a_run_keeps_the_name(library: dict[str, Any], tmp_path: Path) -> None:
    from finetune.api import resume, run

    library["user/pets"] = {"train": rows(30)}
    recipe = {
        "strategy": "linear",
        "out": str(tmp_path / "run"),
        "data": {"path": "hf:user/pets", "image_size": 32},
    }
    done = run(recipe, figures=False)
    assert done.recipe.data.path == "hf:user/pets"
    (done.path / "result.json").unlink()
    resume(done.path, figures=False)
    library["more"] = {"train": rows(4), "test": rows(6, 50)}
    assert done.evaluate("hf:more").n == 6


def test_the_library_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    part = {"image": [picture(i) for i in range(12)], "label": [i % 2 for i in range(12)]}
    made = datasets.Dataset.from_dict(part, features=features)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "d"))
    bundle = load(tmp_path / "d")
    assert bundle.classes == ("cat", "dog")
    assert len(bundle.test) == 12
    assert np.array_equal(np.asarray(bundle.test.load(3)), np.asarray(picture(3)))
