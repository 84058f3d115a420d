"""``finetune data preview``: a picture of originals, evaluation and both forms of augmentation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from finetune.cli.app import cli


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as sheet:
        return np.asarray(sheet).astype(int)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["data", "preview", *map(str, words)], prog_name="finetune")


def test_the_sheet_has_a_row_an_image_and_both_forms(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    done = call("--data", picture_folder, "--policy", "rich", "--out", out, "--images", 3, "--samples", 2)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Wrote {out}: rich, 3 images of ")
    sheet = drawn(out)
    # original, evaluation, two of the loader, two of the device; three rows, a line of names below each
    assert sheet.shape == (36 + 3 * (112 + 16 + 4) + 4, 6 * 116 + 4, 3)
    cells = sheet[36 : 36 + 112]
    columns = [cells[:, 4 + 116 * i : 116 * (i + 1)] for i in range(6)]
    assert all(c.std() > 5 for c in columns)
    assert all(not np.array_equal(columns[i], columns[j]) for i in range(2, 6) for j in range(i))
    again = tmp_path / "again.png"
    call("--data", picture_folder, "--policy", "rich", "--out", again, "--images", 3, "--samples", 2)
    assert out.read_bytes() == again.read_bytes()
    call(
        "--data", picture_folder, "--policy", "rich", "--out", again, "--images", 3, "--samples", 2, "seed=1"
    )
    assert out.read_bytes() != again.read_bytes()


def test_the_default_is_the_policy_of_a_run_and_none_has_no_batched_form(
    picture_folder: Path, tmp_path: Path
) -> None:
    done = call("--data", picture_folder, "--out", tmp_path / "a.png", "--images", 2)
    assert ": light, 2 images" in done.stdout  # few images
    done = call("--data", picture_folder, "--out", tmp_path / "b.png", "--images", 2, "train.augment=none")
    assert ": none, 2 images" in done.stdout
    assert drawn(tmp_path / "b.png").shape[1] < drawn(tmp_path / "a.png").shape[1]


def test_avoided_families_stay_out(picture_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    done = call("--data", picture_folder, "--policy", "light", "--out", out, "--images", 1, "--samples", 3,
                "train.avoid=[flip,crop]")  # fmt: skip
    assert done.exit_code == 0, done.output
    cells = drawn(out)[36 : 36 + 112]
    evaluation, *loader = (cells[:, 4 + 116 * i : 116 * (i + 1)] for i in range(1, 5))
    assert all(np.array_equal(c, evaluation) for c in loader)


def test_operations_and_crops_of_the_recipe_are_drawn(picture_folder: Path, tmp_path: Path) -> None:
    keys = ["train.augment=[flip,rotation,lighting]", "train.avoid=[flip]"]
    done = call("--data", picture_folder, "--out", tmp_path / "a.png", "--images", 2, *keys)
    assert ": flip+rotation+lighting, 2 images" in done.stdout, done.output
    for name in ("b", "c"):
        words = ["--policy", "crop", "--out", tmp_path / f"{name}.png", "--images", 2]
        done = call("--data", picture_folder, *words, *["train.crop=short-side"] * (name == "c"))
        assert f": crop{'/short-side' * (name == 'c')}, 2 images" in done.stdout, done.output
    assert not np.array_equal(drawn(tmp_path / "b.png"), drawn(tmp_path / "c.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "crop+rotatio"], 'operation of a policy must be one of crop, .* Did you mean "rotation"'),
        (["--policy", "stron"], 'augmentation must be one of none, light, .* Did you mean "strong"'),
        (["--out", "sheet.txt"], r"--out must be a file that ends in \.png, \.jpg, \.jpeg, \.webp. Got 'sheet.txt'"),
        (["--out", "/nowhere/sheet.png"], "--out must be a file that can be written. Got '/nowhere/sheet.png'"),
        (["train.avoi=[flip]"], 'train.avoi: unknown key. Did you mean "train.avoid"'),
    ],
)  # fmt: skip
def test_mistakes(picture_folder: Path, words: list[str], message: str) -> None:
    done = call("--data", picture_folder, *words)
    assert done.exit_code == 2
    assert re.search(message, done.output), done.output
    assert "Traceback" not in done.output
