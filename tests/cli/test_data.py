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


def listed(pictures: Path, table: Path, values: list[str]) -> Path:
    """A table of all pictures, in order of their names, with these values over and over."""
    names = sorted(pictures.rglob("*.png"))
    table.write_text("path,said\n" + "".join(f"{p},{values[i % len(values)]}\n" for i, p in enumerate(names)))
    return table


@pytest.mark.parametrize(
    ("values", "task", "said"),
    [
        (["1.5", "20", "3"], "regression", ["36 images with a number (said)", "From 1.5 to 20, median 3."]),
        (["big|old", "big", ""], "multi-label", ["36 images with 2 labels", "12 images have none of them."]),
    ],
)
def test_tables_of_numbers_and_of_several_labels(
    picture_folder: Path, tmp_path: Path, values: list[str], task: str, said: list[str]
) -> None:
    table, clean = listed(picture_folder, tmp_path / "all.csv", values), tmp_path / "clean list.csv"
    done = call(table, "data.label_column=said", f"data.task={task}", "threads=1", "--fix", clean,
                "--html", tmp_path / "page.html")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert all(words in done.stdout for words in said)
    assert done.stdout.rstrip().endswith(f"data.task={task}")
    assert said[0] in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_nothing_to_learn_is_told(picture_folder: Path, tmp_path: Path) -> None:
    table = listed(picture_folder, tmp_path / "all.csv", ["1.5"])
    done = call(table, "data.label_column=said", "threads=1")
    assert done.exit_code == 2
    assert "must be different numbers. Got 1.5 for every training image instead" in " ".join(
        done.output.split()
    )


def test_no_such_folder(tmp_path: Path) -> None:
    done = call(tmp_path / "none")
    assert done.exit_code == 2
    assert "which does not exist" in done.output or "does not exist" in done.output
