"""Images marked for validation or test alone are never trained on, whatever they were read from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_hub
from pictures import write_tree
from test_archive import files_of, tar_of, zip_of
from test_hub import library
from test_shards import write_shards
from test_table import Rows, write_csv, write_json, write_parquet

from finetune.data.load import load_data
from finetune.errors import DataError
from finetune.evaluation.labelled import labelled_images
from finetune.recipe import DataRecipe

__all__ = ["library"]
SPLITS = (["val", "test"], ["test"], ["val"])


def tree(root: Path, splits: list[str]) -> Path:
    for split in splits:
        write_tree(root / split, ants=10, bees=10)
    return root


def rows(root: Path, splits: list[str]) -> Rows:
    """Rows of images below ``root``, one of them marked in capitals."""
    names = sorted(p.relative_to(root).as_posix() for p in tree(root, splits).rglob("*.png"))
    return [{"path": n, "label": n.split("/")[1], "split": n.split("/")[0].upper()} for n in names]


def zipped_table(root: Path, splits: list[str]) -> Path:
    lines = ["path,label,split", *(",".join(row.values()) for row in rows(root / "tree", splits))]
    return zip_of(root / "t.zip", {**files_of(root / "tree"), "t.csv": "\n".join(lines).encode()})


def hub(root: Path, splits: list[str], loaded: dict[str, Any]) -> str:
    loaded["x"] = {"validation" if split == "val" else split: test_hub.rows(20) for split in splits}
    return "hf:x"


SOURCES: dict[str, Callable[[Path, list[str]], Path]] = {
    "folder": tree,
    "zip": lambda root, splits: zip_of(root / "t.zip", files_of(tree(root / "tree", splits))),
    "tar": lambda root, splits: tar_of(root / "t.tar", files_of(tree(root / "tree", splits))),
    "csv": lambda root, splits: write_csv(root / "t.csv", rows(root, splits)),
    "json lines": lambda root, splits: write_json(root / "t.jsonl", rows(root, splits)),
    "parquet": lambda root, splits: write_parquet(root / "t.parquet", rows(root, splits)),
    "table in a zip": zipped_table,
    "shards": lambda root, splits: write_shards(root, [f"{split}-0.tar" for split in splits]),
    "shards in folders": lambda root, splits: write_shards(root, [f"{split}/0.tar" for split in splits]),
}


@pytest.mark.parametrize("splits", SPLITS, ids="+".join)
@pytest.mark.parametrize("source", [*SOURCES, "hub"])
def test_no_source_trains_on_them(
    source: str, splits: list[str], tmp_path: Path, library: dict[str, Any]
) -> None:
    path = hub(tmp_path, splits, library) if source == "hub" else SOURCES[source](tmp_path, splits)
    with pytest.raises(DataError, match="train"):
        load_data(DataRecipe(path=str(path)), 0)


def test_what_is_said_and_that_they_can_be_tested_on(tmp_path: Path) -> None:
    table = SOURCES["csv"](tmp_path, ["val", "test"])
    with pytest.raises(DataError) as refused:
        load_data(DataRecipe(path=str(table)), 0)
    assert str(refused.value) == (
        f"{str(table)!r} must hold training images beside 'test' and 'val'. Got none instead. "
        "Call the split with the training images train."
    )
    found = labelled_images(table, ("ants", "bees")).images
    assert sorted(found.name(i)[:5] for i in range(len(found))) == ["test/"] * 20


def test_marked_training_images_and_a_column_that_marks_nothing(tmp_path: Path) -> None:
    marked = rows(tmp_path, ["train", "test"])
    bundle = load_data(DataRecipe(path=str(write_csv(tmp_path / "t.csv", marked))), 0)
    assert (len(bundle.train) + len(bundle.val), len(bundle.test)) == (20, 20)
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row | {"split": ""}) for row in marked))
    assert len(load_data(DataRecipe(path=str(tmp_path / "t.jsonl")), 0).train) == 28
