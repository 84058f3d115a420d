"""Tables of labels and of numbers from the command to a run folder that predicts, evaluates and exports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

from finetune import Classifier
from finetune.api import advise, open_run, run
from finetune.cli.app import cli
from finetune.data.transforms import evaluate_pixels
from finetune.errors import ConfigError, DataError
from tests.conftest import write_tables

N = 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some tests write tables of their own beside these."""
    return write_tables(tmp_path_factory.mktemp("tables"), N)


def call(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(w) for w in words], prog_name="finetune")
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


SMALL = ("data.image_size=32", "train.preflight=false", "epochs=2", "augment=none", "refit=false")


@pytest.fixture(scope="module")
def labelled(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "labels"
    said = call("run", "--data", folder / "labels.csv", "--strategy", "partial", "--out", out, "--quiet",
                "data.task=multi-label", *SMALL)  # fmt: skip
    assert said.startswith("Test mean average precision:")
    return out


@pytest.fixture(scope="module")
def numbered(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "numbers"
    said = call("run", "--data", folder / "numbers.csv", "--strategy", "lp-ft", "--out", out, "--quiet",
                "data.label_column=light", *SMALL)  # fmt: skip
    assert said.startswith("Test mean absolute error:")
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_labels(labelled: Path, folder: Path, tmp_path: Path) -> None:
    result = json.loads((labelled / "result.json").read_text())
    test = result["test"]
    assert result["classes"] == ["disc", "stripes"]
    assert test["task"] == "multi-label"
    assert test["metric"] == "mean_ap"
    assert test["mean_ap"] > 0.7
    rows = rows_of(labelled / "predictions.csv")
    assert list(rows[0]) == ["image", "labels", "predicted", "p:disc", "p:stripes"]
    assert len(rows) == test["n"]
    right = sum(set(row["labels"].split("|")) == set(row["predicted"].split("|")) for row in rows)
    assert right / len(rows) == pytest.approx(test["subset_accuracy"])
    assert (labelled / "labels.png").is_file()
    assert not (labelled / "confusion.png").exists()
    answers = json.loads(call("predict", labelled, folder / "03.png", folder / "00.png", "--json"))
    for answer in answers:
        assert answer["labels"] == [n for n, p in answer["probabilities"].items() if p > 0.5]
        assert "label" not in answer
    assert "03.png" in call("predict", labelled, folder / "03.png")
    evaluated = call(
        "evaluate", labelled, "--data", folder / "labels.csv", "--predictions", tmp_path / "all.csv"
    )
    assert evaluated.startswith("Mean average precision on")
    assert len(rows_of(tmp_path / "all.csv")) == N


def test_numbers(numbered: Path, folder: Path, tmp_path: Path) -> None:
    result = json.loads((numbered / "result.json").read_text())
    test = result["test"]
    assert result["classes"] == ["light"]
    assert test["task"] == "regression"
    assert test["metric"] == "mae"
    assert test["interval"][0] <= test["mae"] <= test["interval"][1]
    assert test["r2"] > 0.2
    rows = rows_of(numbered / "predictions.csv")
    errors = [abs(float(row["value"]) - float(row["predicted"])) for row in rows]
    assert np.mean(errors) == pytest.approx(test["mae"], rel=1e-4)
    assert (numbered / "numbers.png").is_file()
    assert not (numbered / "confusion.png").exists()
    (answer,) = json.loads(call("predict", numbered, folder / "05.png", "--json"))
    assert set(answer) == {"image", "value"}
    assert 1000 < answer["value"] < 3000
    assert call("predict", numbered, folder / "05.png").split()[-1] == f"{answer['value']:.6g}"
    assert call("evaluate", numbered, "--data", folder / "numbers.csv").startswith("Mean absolute error on")
    call("export", numbered, "--out", tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["finetune"]["task"] == "regression"
    assert config["num_classes"] == 1
    model = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    prep = open_run(numbered).backbone.preprocessing
    pixels = torch.from_numpy(evaluate_pixels(Image.open(folder / "05.png"), prep).copy()).permute(2, 0, 1)[
        None
    ]
    with torch.inference_mode():
        assert float(model(prep.normalise(pixels))) == pytest.approx(answer["value"], rel=1e-3)


def test_the_estimator(labelled: Path, numbered: Path, folder: Path) -> None:
    both, one = Classifier.load(labelled), Classifier.load(numbered)
    pictures = [folder / "03.png", folder / "00.png"]
    assert both.predict(pictures).shape == (2, 2)
    assert both.predict(pictures).dtype == bool
    assert (both.predict(pictures) == (both.predict_proba(pictures) > 0.5)).all()
    assert 0.5 < both.score(folder / "labels.csv") <= 1
    assert one.predict(pictures).shape == (2,)
    assert one.score(folder / "numbers.csv") > 0.2
    with pytest.raises(
        ConfigError, match="must be single-label or multi-label. Got regression instead. Call predict"
    ):
        one.predict_proba(pictures)
    with pytest.raises(
        DataError, match="The data to score where the task is regression must be the path of a table"
    ):
        one.score([(pictures[0], 3.0)])


def test_an_evaluation_says_what_is_wrong(labelled: Path, numbered: Path, folder: Path) -> None:
    other = folder / "other.csv"
    other.write_text("path,label\n00.png,disc|square\n")
    with pytest.raises(
        DataError, match=r"Every label must be a class of the run \(disc, stripes\). Got square"
    ):
        open_run(labelled).evaluate(other)
    other.write_text("path,light\n00.png,bright\n")
    with pytest.raises(DataError, match="'light' of '00.png' must be a finite number"):
        open_run(numbered).evaluate(other)


@pytest.mark.parametrize(("table", "measure"), [("labels", "mean_ap"), ("numbers", "r2")])
def test_auto_measures_what_the_task_has(folder: Path, table: str, measure: str) -> None:
    keys: dict[str, Any] = {"path": str(folder / f"{table}.csv"), "label_column": "light" if measure == "r2" else None,
                            "image_size": 32, "task": "multi-label" if table == "labels" else "auto"}  # fmt: skip
    plan, decision = advise({"data": keys, "train": {"avoid": []}})
    assert plan.strategy == decision.chosen
    assert decision.measure == measure
    assert any("The table is made for classes" in reason for reason in decision.reasons)
    tree = decision.to_dict()
    assert 0 < tree["evidence"]["expected"]["linear"][measure] <= 1
    assert tree["evidence"]["knn"] is None
    assert decision.evidence is not None
    assert all(-1 <= score.value <= 1 for score in decision.evidence.stages)


def test_a_loss_of_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    data = {"path": str(folder / "numbers.csv"), "label_column": "light", "image_size": 32}
    with pytest.raises(
        ConfigError, match="train.loss must be mse or l1 or huber where the task is regression"
    ):
        run({"data": data, "strategy": "partial", "train": {"loss": "focal"}, "out": str(tmp_path / "no")})
    assert not (tmp_path / "no").exists()
