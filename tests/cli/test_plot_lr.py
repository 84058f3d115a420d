"""``finetune recipe plot-lr``: the curve in the terminal and as a picture, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from finetune.cli.app import cli
from finetune.training import SCHEDULES

RECIPE = "auto"


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["recipe", "plot-lr", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def stars(text: str) -> dict[int, int]:
    """Column to row (0 on top) of the curve."""
    rows = [line.partition("|")[2] for line in text.splitlines() if " |" in line]
    return {column: number for number, row in enumerate(rows) for column, c in enumerate(row) if c == "*"}


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_can_be_seen(name: str) -> None:
    said = call(RECIPE, f"train.schedule={name}", "train.lr=0.2", "--steps", 640)
    curve = stars(said)
    assert len(curve) == 64  # a star a column
    assert min(curve.values()) == 0
    assert " 0.2 |" in said
    assert "640 steps" in said


def test_the_picture_follows_the_schedule(tmp_path: Path) -> None:
    said = call(
        RECIPE, "schedule=step", "schedule_args={milestones: [.5], gamma: .1}", "lr=1", "warmup=.25",
        "--steps", 640, "--png", tmp_path / "lr.png",
    )  # fmt: skip
    curve = stars(said)
    assert all(curve[column] == 0 for column in range(16, 40))  # half of what follows the warm-up
    assert all(curve[column] == 10 for column in range(40, 64))
    assert curve[0] > curve[8] > curve[15]
    assert "First step 0.00625, highest 1 at step 159, last 0.1; warm-up 160 steps." in said
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.width > 400


def test_length_from_images_and_words_about_the_peak() -> None:
    said = call(RECIPE, "--images", 5000, "optimizer=adam-then-sgd", "schedule=plateau")
    assert "20 epochs of 5,000 images in steps of 64: 1,580 steps" in said
    assert "The peak follows from the backbone" in said
    assert "AdamW until step 790" in said
    assert "Drawn without a plateau" in said


def test_snapshots_as_they_will_be() -> None:
    said = call("snapshots", "epochs=3", "--images", 200)  # five cycles take five epochs at least
    assert "5 cosines, 5 epochs of 200 images" in said
    assert "As it is with 5 snapshots." in said
    longer = " ".join(call("snapshots", "snapshots=3", "epochs=30", "--images", 640, "batch_size=64").split())
    assert "highest 1 at step 9" in longer
    assert "warm-up 10 steps" in longer, "of the first cycle, of 100 steps"


def test_where_the_peak_comes_from_and_where_there_is_none() -> None:
    assert "found by a range test" in call("hands-off")
    assert "strategy must be one that trains step by step. Got 'linear'" in call("quick-look", code=2)


def test_bad_input() -> None:
    assert "--steps and --images must be given one at a time. Got both" in call(
        RECIPE, "--steps", 3, "--images", 3, code=2
    )
    assert 'Did you mean "cosine"' in call(RECIPE, "schedule=cosin", code=2)
    assert "schedule_args: gama: unknown argument of step" in call(
        RECIPE, "schedule=step", "schedule_args={gama: 1}", code=2
    )
    assert "There is no recipe 'autoo'" in call("autoo", code=2)


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from finetune.cli.app import cli; "
        f"cli(['recipe', 'plot-lr', '{RECIPE}', '--steps', '50'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
