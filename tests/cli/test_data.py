"""``finetune data check``: what a person reads, what a program reads, and the files it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from finetune.cli.app import cli


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["data", "check", *map(str, words)], prog_name="finetune")


def test_a_clean_folder(picture_folder: Path, tmp_path: Path) -> None:
    page, table = tmp_path / "page.html", tmp_path / "list.csv"
    done = call(picture_folder, "threads=1", "--html", page, "--fix", table)
    assert done.exit_code == 0, done.output
    assert "36 images of 3 classes" in done.stdout
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert f"Wrote {table}: " in done.stdout
    assert "Next: finetune run --data" in done.stdout
    assert table.read_text().splitlines()[0] == "path,label"


def test_json_is_all_of_stdout(picture_folder: Path, tmp_path: Path) -> None:
    done = call(picture_folder, "threads=1", "--json", "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["images"] == 36
    assert {"unreadable", "duplicates", "cross_split", "label_suspects", "outliers", "blank"} <= set(said)
    assert "page.html" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--drop-suspects",), "--drop-suspects must be given with --fix FILE"),
        (("--fix", "list.txt"), "--fix must be a file that ends in .csv"),
        (("--backbone", "resnte50"), "resnet50"),
        (("data.pth=3",), "data.pth"),
    ],
)
def test_wrong_words(picture_folder: Path, words: tuple[str, ...], message: str) -> None:
    done = call(picture_folder, *words)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_numbers_have_no_classes_to_judge(picture_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "ages.csv"
    rows = [f"{path},{i + 0.5}" for i, path in enumerate(sorted(picture_folder.rglob("*.png")))]
    table.write_text("path,age\n" + "\n".join(rows))
    done = call(table, "data.label_column=age", "threads=1")
    assert done.exit_code == 2
    assert "must be one with a class for each image. Got one for regression instead" in done.output


def test_no_such_folder(tmp_path: Path) -> None:
    done = call(tmp_path / "none")
    assert done.exit_code == 2
    assert "which does not exist" in done.output or "does not exist" in done.output
