"""The short check inside a run: copies by their bytes, names of classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from finetune.audit.glance import glance
from finetune.cli.app import cli
from finetune.data.load import load_data
from finetune.recipe import Recipe
from tests.conftest import write_pictures


def planted(root: Path) -> Path:
    """Given splits with a copy across them, one under two labels, one mere copy, and a class that is there twice."""
    write_pictures(root / "train")
    write_pictures(root / "spare", per_class=4)
    (root / "test").mkdir()
    for name in ("across", "disc", "down"):
        (root / "test" / name).mkdir()
        for i in range(2):
            from PIL import Image

            picture = Image.open(root / "spare" / name / f"{i:02d}.png").transpose(Image.Transpose.ROTATE_180)
            picture.save(root / "test" / name / f"{i}.png")
    shutil.rmtree(root / "spare")
    train, test = root / "train", root / "test"
    shutil.copy(train / "disc" / "01.png", test / "disc" / "leak.png")
    shutil.copy(train / "disc" / "02.png", train / "down" / "wrong.png")
    shutil.copy(train / "down" / "03.png", train / "down" / "again.png")
    for split in (train, test):
        shutil.copytree(split / "across", split / "acros")
        for i, file in enumerate(sorted((split / "acros").iterdir())):
            from PIL import Image

            Image.open(file).rotate(90).save(split / "acros" / f"other{i}.png")
            file.unlink()
    return root


def test_planted_copies_are_told_apart(tmp_path: Path) -> None:
    root = planted(tmp_path / "data")
    recipe = Recipe().override(f"data.path={root}", "data.image_size=32")
    found = glance(load_data(recipe.data, 0))
    assert [sorted(Path(name).name for name in group) for group in found.leaked if "leak" in str(group)] == [
        ["01.png", "leak.png"]
    ]
    assert [sorted(Path(name).name for name in group) for group in found.contradicting] == [
        ["02.png", "wrong.png"]
    ]
    assert found.copies == 1
    assert found.similar == (("acros", "across"),)
    said = found.lines()
    assert said[0].startswith("1 image is in two splits, such as ")
    assert "learned by heart" in said[0]
    assert "under two labels" in said[1]
    assert said[2:] == [
        "1 image is a copy of another, byte for byte.",
        "Classes 'acros' and 'across': are they one?",
    ]


def test_a_run_says_so_and_keeps_it(tmp_path: Path, picture_folder: Path) -> None:
    out = tmp_path / "run"
    told = CliRunner().invoke(
        cli,
        [
            "run",
            "--data",
            str(planted(tmp_path / "data")),
            "--strategy",
            "linear",
            "--out",
            str(out),
            "image_size=32",
        ],
    )
    assert told.exit_code == 0, told.output
    flat = " ".join(told.output.split())
    assert "Data check: 1 image is in two splits" in flat
    assert "looks closer" in flat
    assert len(json.loads((out / "data_check.json").read_text())["cross_split"]) == 1
    clean = CliRunner().invoke(
        cli,
        [
            "run",
            "--data",
            str(picture_folder),
            "--strategy",
            "linear",
            "--out",
            str(tmp_path / "b"),
            "image_size=32",
        ],
    )
    assert "Data check" not in clean.output


def test_advice_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = planted(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    words = ["strategy", "advise", "--data", str(root), "strategy=linear", "data.image_size=32"]
    told = CliRunner().invoke(cli, words, prog_name="finetune")
    assert told.exit_code == 0, told.output
    said = " ".join(told.stdout.split())
    assert "Data check: 1 image is in two splits" in said
    assert f"finetune data check {root} looks closer" in said
