"""What the screen says of images that were set aside, of copies, and of names that would break it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner, Result

from finetune.cli.app import cli
from finetune.cli.describe import data_lines
from finetune.data.load import load_data
from finetune.data.profile import profile
from finetune.recipe import DataRecipe


def call(*words: object) -> Result:
    done = CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def table(pictures: Path, target: Path) -> Path:
    """Four rows without a label, three of files that are not there, two of files that are no images."""
    rows = [{"path": str(p), "label": p.parent.name} for p in sorted(pictures.rglob("*.png"))]
    rows[:4] = [{**row, "label": ""} for row in rows[:4]]
    rows += [{"path": f"{i}.png", "label": "disc"} for i in range(3)]
    for i in range(2):
        (target.parent / f"bad{i}.png").write_bytes(b"no image")
        rows.append({"path": f"bad{i}.png", "label": "disc"})
    target.write_text("\n".join(map(json.dumps, rows)))
    return target


def lines_of(path: Path) -> list[str]:
    return data_lines(profile(load_data(DataRecipe(path=str(path)), 0)))


def test_kinds_are_counted(picture_folder: Path, tmp_path: Path) -> None:
    said = "9 images set aside (4 without a label, 3 missing, 2 unreadable), listed in quarantine.csv"
    assert said in lines_of(table(picture_folder, tmp_path / "t.jsonl"))
    done = call("data", "check", tmp_path / "t.jsonl", "threads=1")
    assert "Set aside: 4 without a label, 3 missing, 2 unreadable (9):" in " ".join(done.stdout.split())
    shutil.copytree(picture_folder, tmp_path / "tree")
    (tmp_path / "tree" / "disc" / "bad.png").write_bytes(b"")
    assert "1 unreadable image set aside, listed in quarantine.csv" in lines_of(tmp_path / "tree")


def test_copies_byte_for_byte_are_counted(picture_folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    shutil.copytree(picture_folder, tmp_path / "tree")
    first, second, third, *_ = sorted((tmp_path / "tree" / "disc").iterdir())
    shutil.copy(first, first.with_name("copy.png"))
    shutil.copy(second, second.with_name("again.png"))
    Image.open(third).save(third.with_name("other.png"), compress_level=1)
    said = " ".join(call("data", "check", tmp_path / "tree", "threads=1").stdout.split())
    assert "The same picture more than once (3, of which 2 byte for byte):" in said


def test_control_characters_are_shown_as_escapes(
    picture_folder: Path, tmp_path: Path, finished_run: Path
) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(picture_folder, tree)
    (tree / "disc").rename(tree / "di\nsc")
    first = sorted((tree / "di\nsc").iterdir())[0]
    shutil.copy(first, first.with_name("a\nb\x1b[31m\udce9.png"))
    shown = call("data", "check", tree, "threads=1").stdout
    assert "\x1b[31m" not in shown
    assert r"di\nsc/a\nb\x1b[31m\udce9.png" in shown.replace("\n", "").replace(" ", "")
    predicted = call("predict", finished_run, first.with_name("a\nb\x1b[31m\udce9.png")).stdout
    assert predicted.count("\n") == 1
    assert r"a\nb\x1b[31m\udce9.png" in predicted
