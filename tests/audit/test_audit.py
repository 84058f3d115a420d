"""Every planted fault is found, nothing else of its kind is, and the cleaned list leaves out the right images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from finetune.audit.audit import Audit
from finetune.audit.cleaned import as_csv, clean
from finetune.data.load import load_data
from finetune.recipe import DataRecipe
from finetune.report.data_page import data_page


def pairs(groups: list[list[str]]) -> set[frozenset[str]]:
    return {frozenset(Path(p).name for p in group) for group in groups}


def test_what_was_planted_is_found(found: Audit) -> None:
    said = found.to_dict()
    assert said["unreadable"] == ["train/red/broken.jpg"]
    assert pairs(said["exact_duplicates"]) == {
        frozenset({"000.jpg", "copy.jpg"}),
        frozenset({"003.jpg", "wrong.jpg"}),
    }
    assert pairs(said["duplicates"]) == {
        frozenset({"000.jpg", "copy.jpg"}), frozenset({"001.jpg", "again.jpg"}), frozenset({"002.jpg", "small.png"}),
        frozenset({"003.jpg", "wrong.jpg"}),
    }  # fmt: skip
    assert said["cross_split"] == [["train/red/002.jpg", "val/red/small.png"]]
    assert said["cross_class"] == [["train/red/wrong.jpg", "train/green/003.jpg"]] or said["cross_class"] == [
        ["train/green/003.jpg", "train/red/wrong.jpg"]
    ]
    assert said["blank"] == ["train/red/blank.jpg"]
    assert said["misnamed"] == {"train/green/really_png.jpg": "PNG"}
    assert said["classes"] == {"green": 41, "red": 46}
    assert said["splits"] == {"train": 66, "val": 21}


def test_a_wrong_label_is_the_first_suspect(found: Audit) -> None:
    suspects = found.to_dict()["label_suspects"]
    wrong = {"train/red/flipped.jpg", "train/red/wrong.jpg"}
    assert suspects[0]["path"] in wrong
    assert suspects[0]["given"] == "red"
    assert suspects[0]["suggested"] == "green"
    assert 0.6 <= suspects[0]["score"] <= 1
    assert {s["path"] for s in suspects} >= {"train/red/flipped.jpg"}
    assert len(suspects) <= 4


def test_the_cleaned_list_can_be_trained_on(found: Audit, faulty: Path, tmp_path: Path) -> None:
    cleaned = clean(found)
    gone = {found.names[i]: why for i, why in cleaned.dropped.items()}
    assert gone == {
        "train/red/blank.jpg": "blank", "train/red/copy.jpg": "copy", "train/red/again.jpg": "copy",
        "train/red/002.jpg": "copy",  # the one in validation stays
        "train/red/wrong.jpg": "copies under several labels", "train/green/003.jpg": "copies under several labels",
    }  # fmt: skip
    assert cleaned.reasons() == {"blank": 1, "copy": 3, "copies under several labels": 2}
    target = tmp_path / "list.csv"
    target.write_text(as_csv(found, cleaned, tmp_path))
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cleaned.kept) == 81
    assert {row["split"] for row in rows} == {"train", "val"}
    bundle = load_data(DataRecipe(path=str(target), workers=1), 0)
    assert len(bundle.train) + len(bundle.val) + len(bundle.test) == 81
    assert not bundle.quarantined
    more = clean(found, suspects=True)
    assert more.dropped[found.names.index("train/red/flipped.jpg")] == "suspected label"


def test_the_page_shows_the_pictures_and_fetches_nothing(found: Audit) -> None:
    page = data_page(found)
    assert page.count("data:image/jpeg;base64,") >= 8
    for words in (
        "in more than one split: 1",
        "train/red/wrong.jpg",
        "Blank: 1",
        "Unreadable: 1",
        "green?",
    ):
        assert words in page
    assert "http" not in page
    assert "<script" not in page


def test_names_in_the_page_are_text(found: Audit) -> None:
    from dataclasses import replace

    evil = replace(found, names=("<img src=x>", *found.names[1:]), suspects=((0, 1, 0.9),))
    assert "<img src=x>" not in data_page(evil)
    assert "&lt;img src=x&gt;" in data_page(evil)


def test_the_dictionary_is_json(found: Audit) -> None:
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


@pytest.mark.parametrize("kind", ["unreadable", "duplicates", "cross_split", "label_suspects", "outliers"])
def test_the_promised_keys(found: Audit, kind: str) -> None:
    assert isinstance(found.to_dict()[kind], list)
