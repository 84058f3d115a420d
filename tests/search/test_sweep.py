"""A sweep end to end: stages, pruning, going on, several processes, and a best recipe that repeats its trial."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")

import finetune
from finetune.errors import ConfigError, Interrupted, RunError
from finetune.events import Listener
from finetune.search import SweepResult, sweep
from finetune.search.trial import Outcome

SPACE = {"train.lr": "log(1e-3, 1)", "train.augment": "choice(none, light)"}


class Ear(Listener):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.computed = 0

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_progress(self, what: str, done: int, total: int) -> None:
        self.computed += what == "computing features"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, noisy_folder: Path) -> tuple[SweepResult, Ear]:
    """One finished sweep of both stages. Not to be written to."""
    ear = Ear()
    recipe = {
        "data": {"path": str(noisy_folder), "image_size": 32, "val_fraction": 0.3, "workers": 1},
        "strategy": "partial", "threads": 1, "device": "cpu",
        "train": {"epochs": 4, "batch_size": 16, "precision": "fp32", "channels_last": False, "refit": False},
    }  # fmt: skip
    out = tmp_path_factory.mktemp("sweep") / "out"
    found = sweep(recipe, space=SPACE, trials=6, pruner="none", sampler="random", out=out, listener=ear)
    return found, ear


def test_stages_and_files(shared: tuple[SweepResult, Ear]) -> None:
    found, ear = shared
    assert [(r.stage, r.epochs, r.default) for r in found.rows] == [
        ("coarse", 1, True), ("coarse", 1, False), ("coarse", 1, False), ("coarse", 1, False),
        ("fine", 4, True), ("fine", 4, False),
    ]  # fmt: skip
    assert found.best is not None
    assert found.best.stage == "fine"
    with (found.path / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["trial"] for row in table] == [row.name for row in found.rows]
    assert float(table[1]["train.lr"]) == pytest.approx(found.rows[1].values["train.lr"])
    kept = json.loads((found.path / "sweep.json").read_text())
    assert kept["best"]["trial"] == found.best.name
    assert kept["verdict"] == found.verdict
    assert sum(row.name in text for text in ear.messages for row in found.rows) >= len(found.rows)


def test_only_the_best_saw_the_test_images_and_kept_its_weights(shared: tuple[SweepResult, Ear]) -> None:
    found, _ = shared
    assert found.best is not None
    assert found.run.path == found.best.path, "on whole schedules and without a refit the trial is the result"
    tested = [row.name for row in found.rows if (row.path / "result.json").exists()]
    assert tested == [found.best.name]
    assert [row.name for row in found.rows if (row.path / "checkpoints").exists()] == [found.best.name]
    assert found.run.result["test"]["n"] > 0


def test_best_recipe_repeats_the_trial(shared: tuple[SweepResult, Ear], tmp_path: Path) -> None:
    found, _ = shared
    assert found.best is not None
    again = finetune.run(found.path / "best.yaml", f"out={tmp_path / 'again'}", figures=False)
    kept = Outcome.load(found.best.path)
    assert kept is not None
    from finetune.data.load import load_data
    from finetune.evaluation.metrics import log_loss

    recipe = again.recipe
    val = load_data(recipe.data, recipe.seed).val
    probabilities = again.probabilities(val)
    assert log_loss(val.labels, probabilities) == found.best.log_loss == kept.log_loss
    assert (probabilities.argmax(1) == val.labels).mean() == found.best.accuracy
    theirs, ours = again.backbone.state_dict(), found.run.backbone.state_dict()
    assert all(bool((theirs[k] == ours[k]).all()) for k in ours)


def test_the_same_call_returns_what_is_there(shared: tuple[SweepResult, Ear]) -> None:
    found, _ = shared
    recipe = found.path / "sweep.yaml"
    before = recipe.read_bytes()
    from finetune.search.settings import Settings

    asked = Settings.load(found.path).asked["recipe"]
    again = sweep(asked, space=SPACE, trials=6, pruner="none", sampler="random", out=found.path)
    assert [r.name for r in again.rows] == [r.name for r in found.rows]
    assert again.run.path == found.run.path
    assert recipe.read_bytes() == before
    with pytest.raises(
        RunError, match=r"gone on with by the command that began it. Got another space, metric"
    ):
        sweep(asked, space={"train.lr": "log(1e-3, 2)"}, trials=6, metric="accuracy", pruner="none",
              sampler="random", out=found.path)  # fmt: skip


def test_a_second_linear_trial_computes_no_features(small: dict[str, Any], tmp_path: Path) -> None:
    counts: list[tuple[str, int]] = []

    class Count(Ear):
        def on_message(self, text: str) -> None:
            super().on_message(text)
            counts.append((text, self.computed))

    from finetune.features.cache import forget

    forget()  # what other tests computed of the same pictures
    ear = Count()
    small["strategy"] = "linear"
    space = {"probe.solver": "choice(ridge, centroid, lda)"}
    found = sweep(
        small, space=space, trials=3, sampler="grid", metric="accuracy", out=tmp_path / "out", listener=ear
    )
    done = [computed for text, computed in counts if text.startswith("coarse-")]
    assert len(done) == 3
    assert done[0] == done[-1] > 0
    assert [row.values for row in found.rows if not row.default] != []
    # The final head is fitted on train and validation images together, as the recipe would have it.
    assert found.run.path.parent == tmp_path / "out" / "final"
    assert found.run.recipe.probe.fit_on == "train+val"


def test_stopped_trials_come_again(small: dict[str, Any], tmp_path: Path) -> None:
    class CtrlC(Listener):
        steps = 0

        def on_step(self, row: dict[str, Any]) -> None:
            self.steps += 1
            raise KeyboardInterrupt

    small["train"]["log_every"] = 1
    with pytest.raises(Interrupted, match=r"with 0 of 2 trials done. Go on with: finetune sweep x"):
        sweep(small, space=SPACE, trials=2, out=tmp_path / "out", listener=CtrlC(), go_on="finetune sweep x")
    found = sweep(small, space=SPACE, trials=2, pruner="median", out=tmp_path / "out")
    assert [(r.state, r.default) for r in found.rows] == [
        ("failed", True),
        ("complete", True),
        ("complete", False),
    ]


def test_two_processes_share_one_database(small: dict[str, Any], tmp_path: Path) -> None:
    small["strategy"] = "linear"
    out = tmp_path / "out"
    found = sweep(small, trials=3, processes=2, storage=tmp_path / "trials.db", out=out,
                  space={"probe.solver": "choice(ridge, centroid, lda)"}, sampler="random")  # fmt: skip
    assert [row.state for row in found.rows] == ["complete"] * 3
    assert (tmp_path / "trials.db").is_file()
    assert (out / "worker-1.log").read_text() == ""


def test_a_trial_ends_by_the_rule_of_the_training_loop(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default may go back and halve its rate, as in a run; other values end where they diverge."""
    from finetune.training.rollback import Guard

    asked = []
    begin = Guard.__init__

    def noted(guard: Guard, allowed: int, chance: float) -> None:
        asked.append(allowed)
        begin(guard, allowed, chance)

    monkeypatch.setattr(Guard, "__init__", noted)
    small["train"] |= {"epochs": 12, "clip_grad": None}
    ear = Ear()
    found = sweep(small, space={"train.lr": "choice(0.001, 900)"}, trials=3, pruner="none", sampler="grid",
                  out=tmp_path / "out", listener=ear)  # fmt: skip
    assert asked[:3] == [3, 0, 0]
    assert [row.state for row in found.rows if row.values.get("train.lr") == 900] == ["pruned"]
    lost = next(row for row in found.rows if row.state == "pruned")
    assert re.match(r"training diverged: The (smoothed )?loss is", lost.reason)
    assert "No importance plot: 2 of the 8 trials that it takes ended" in " ".join(ear.messages)
    kept = [row for row in found.rows if row.state == "complete"]
    assert [row.head_alone for row in kept] == [
        json.loads((row.path / "training.json").read_text())["phases"]["1"]["blend"]["alpha"] == 0
        for row in kept
    ]


def test_time_is_kept_by_shorter_schedules(small: dict[str, Any], tmp_path: Path) -> None:
    small["train"]["epochs"] = 100_000
    small["train"]["refit"] = True
    found = sweep(small, space=SPACE, trials=2, time_limit="6s", out=tmp_path / "out")
    assert found.run.result["test"]["n"] > 0
    assert all(row.epochs < 100_000 for row in found.rows)


def test_arguments_that_are_wrong(small: dict[str, Any], tmp_path: Path) -> None:
    for keys, said in [
        ({"trials": 0}, r"--trials must be an int > 0. Got 0"),
        ({"metric": "f1"}, r"--metric must be one of log-loss, accuracy. Got 'f1'"),
        ({"sampler": "cma"}, r"--sampler must be one of tpe, gp, random, grid"),
        ({"time_limit": "soon"}, r"--time must be a time such as 90s"),
        ({"time_limit": 0}, r"--time must be more than 0 seconds"),
    ]:  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            sweep(small, out=tmp_path / "out", **keys)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_without_optuna_the_extra_is_named(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'A sweep needs optuna. Run: pip install "finetune\[sweep\]"'):
        sweep(small)


def test_outcome_round_trip(tmp_path: Path) -> None:
    outcome = Outcome(np.array([0.5, 1.5]), np.array([True, False]), 3.0)
    outcome.save(tmp_path)
    kept = Outcome.load(tmp_path)
    assert kept is not None
    assert (kept.log_loss, kept.accuracy) == (1.0, 0.5)
    assert Outcome.load(tmp_path / "nowhere") is None


def test_the_command(noisy_folder: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from finetune.cli.app import cli

    words = ["sweep", "--data", str(noisy_folder), "--strategy", "linear", "--out", str(tmp_path / "out"), "--trials",
             "2", "--space", "solver=choice(ridge,lda)", "data.image_size=32", "val_fraction=0.3"]  # fmt: skip
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert re.search(r"The best on \d+ validation images", done.output)
    assert "coarse-0000" in done.output
    assert f"finetune run --recipe {tmp_path / 'out' / 'best.yaml'}" in done.output.replace("\n", "")
    wrong = CliRunner().invoke(cli, [*words, "--space", "lr=log(0,1)", "--space", "foo=int(1,2)"])
    assert wrong.exit_code == 2
    assert "2 problems in the search space" in wrong.output
