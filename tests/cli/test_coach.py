"""``finetune coach``, and what a run says at its end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from finetune.cli.app import cli


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    """A killed run of which only the rows and the splits are there: 60 images of three classes, loss at ln 3."""
    (tmp_path / "recipe.yaml").write_text("strategy: full\n")
    images = [f"{i}.png,{'abc'[i % 3]},{'train' if i < 40 else 'val'}\n" for i in range(60)]
    (tmp_path / "splits.csv").write_text("image,label,split\n" + "".join(images))
    place = {"phase": "finetune", "phase_index": 0, "epochs": 20, "steps": 200, "lr": 1e-6}
    rows = [
        {**place, "kind": "epoch", "epoch": e, "step": 10 * e, "loss": math.log(3) - e / 1000, "accuracy": 0.35,
         "val_loss": 1.1, "val_accuracy": 0.35}
        for e in range(1, 21)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "ep')  # the kill came in mid-write
    return tmp_path


def test_any_run_folder_is_read(stuck: Path) -> None:
    said = " ".join(call("coach", stuck).stdout.split())
    assert "The loss fell only from 1.1 to 1.08 in 20 epochs" in said
    assert "20 validation images cannot tell epochs apart" in said
    findings = json.loads(call("coach", stuck, "--json").stdout)["findings"]
    assert [f["name"] for f in findings] == ["lr too low", "validation too small"]
    assert findings[0]["evidence"]["last_loss"] == pytest.approx(math.log(3) - 0.019, abs=1e-3)


def test_a_run_without_gradient_steps(finished_run: Path) -> None:
    assert "There are no curves" in call("coach", finished_run).stdout
    assert json.loads((finished_run / "result.json").read_text())["coach"] is None


def test_bad_folders(stuck: Path, tmp_path: Path) -> None:
    result = call("coach", tmp_path / "none")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr
    (stuck / "metrics.jsonl").write_text("{\n{}\n")
    result = call("coach", stuck)
    assert result.exit_code == 2
    assert "metrics.jsonl cannot be read" in result.stderr


def test_a_run_ends_with_what_the_coach_found(picture_folder: Path, tmp_path: Path) -> None:
    result = call("run", "--data", picture_folder, "--strategy", "full", "--out", tmp_path / "r", "image_size=32",
                  "epochs=2", "precision=fp32", "channels_last=false", "train.refit=false")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "r" / "coach.json").read_text())["findings"]
    assert found
    assert found == json.loads((tmp_path / "r" / "result.json").read_text())["coach"]
    said = " ".join(result.stdout.split())
    assert found[0]["sentence"] in said[said.index("Coach") :]
