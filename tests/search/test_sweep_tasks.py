"""Sweeps over labels and numbers: judged by the task's own figures, and refused where the task has no such thing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("optuna")

import finetune
from finetune.cli.app import cli
from finetune.data.load import load_data
from finetune.errors import ConfigError
from finetune.evaluation.each import mean_loss, mean_score
from finetune.search import sweep
from finetune.task import MULTI_LABEL, REGRESSION

TRAIN = {
    "epochs": 2,
    "batch_size": 16,
    "precision": "fp32",
    "channels_last": False,
    "refit": False,
    "avoid": [],
}


def recipe(folder: Path, table: str, **more: Any) -> dict[str, Any]:
    data = {"path": str(folder / f"{table}.csv"), "image_size": 32, "val_fraction": 0.25, "workers": 1}
    data |= {"label_column": "light"} if table == "numbers" else {"task": "multi-label"}
    return {"data": data, "strategy": "partial", "threads": 1, "device": "cpu", "train": TRAIN, **more}


def test_numbers_are_judged_by_squared_error(table_folder: Path, tmp_path: Path) -> None:
    space = {"train.lr": "log(1e-4, 1e-2)", "train.loss": "choice(mse, huber)"}
    found = sweep(recipe(table_folder, "numbers"), space=space, trials=2, pruner="none", out=tmp_path / "out")
    assert (found.metric, found.task) == ("squared-error", REGRESSION)
    assert [row.state for row in found.rows] == ["complete"] * 2
    best = found.best
    assert best is not None
    assert best.log_loss == min(row.log_loss for row in found.rows)
    again = finetune.run(found.path / "best.yaml", f"out={tmp_path / 'again'}", figures=False)
    val = load_data(again.recipe.data, again.recipe.seed).val
    answers = again.probabilities(val)
    assert mean_loss(REGRESSION, val.targets, answers) == best.log_loss
    assert again.evaluate(val).r2 == pytest.approx(best.accuracy)  # type: ignore[union-attr]
    head = (found.path / "best.yaml").read_text().splitlines()[1]
    assert f"by squared-error: validation squared error {best.log_loss:.6g}, R2 {best.accuracy:.6g}." in head
    with (found.path / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["squared_error"]) for row in table] == pytest.approx(
        [row.log_loss for row in found.rows], rel=1e-4
    )
    assert {"r2", "train.loss"} <= set(table[0])
    kept = json.loads((found.path / "sweep.json").read_text())["best"]
    assert kept["squared_error"] == best.log_loss
    assert kept["interval"][0] <= kept["r2"] <= kept["interval"][1]
    assert found.run.result["test"]["metric"] == "mae"


def test_labels_are_judged_by_f1_from_the_command(table_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["sweep", "--data", table_folder / "labels.csv", "--strategy", "linear", "--trials", "2", "--metric", "f1",
             "--out", out, "data.task=multi-label", "data.image_size=32", "val_fraction=0.25"]  # fmt: skip
    done = CliRunner().invoke(cli, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    assert " F1 " in done.output
    assert "Test mean average precision:" in done.output
    from finetune.search.settings import Settings
    from finetune.search.trial import Outcome

    settings = Settings.load(out)
    assert (settings.metric, settings.maximize) == ("f1", True)
    assert [d.key for d in settings.space] == ["probe.norms"]
    best = json.loads((out / "sweep.json").read_text())["best"]
    kept = Outcome.load(out / "trials" / best["trial"])
    assert kept is not None
    assert kept.accuracy == best["f1"]
    again = finetune.run(out / "best.yaml", f"out={tmp_path / 'again'}", figures=False)
    val = load_data(again.recipe.data, again.recipe.seed).val
    assert mean_score(MULTI_LABEL, val.targets, again.probabilities(val)) == best["f1"]


@pytest.mark.parametrize(
    ("table", "keys", "said"),
    [
        ("labels", {"metric": "accuracy"}, "--metric must be one of log-loss, f1. Got 'accuracy' instead. The task is"),
        ("numbers", {"metric": "log-loss"}, "must be one of squared-error, r2. Got 'log-loss'"),
        ("numbers", {"metric": "mae"}, "must be one of log-loss, squared-error, accuracy, f1, r2. Got 'mae'"),
        (
            "numbers",
            {"space": ["label_smoothing=uniform(0,0.2)", "loss=choice(mse,bce)"]},
            "(?s)2 problems in the search space.*smoothing must be 0 where .* regression. Got 0.2.*mse or l1 or huber",
        ),
        ("labels", {"space": ["sampling=choice(natural,balanced)"]}, "train.sampling must be natural where the task"),
    ],
)  # fmt: skip
def test_what_the_task_has_not_is_refused_before_any_trial(
    table_folder: Path, tmp_path: Path, table: str, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(recipe(table_folder, table), trials=2, out=tmp_path / "out", **keys)
    assert not (tmp_path / "out").exists()


def test_the_solvers_of_classes_are_no_choice(table_folder: Path, tmp_path: Path) -> None:
    asked = recipe(table_folder, "labels", strategy="linear", train={})
    with pytest.raises(
        ConfigError, match="probe.solver must be auto or logistic where the task is multi-label"
    ):
        sweep(asked, space=["solver=choice(logistic,lda)"], trials=2, out=tmp_path / "out")
