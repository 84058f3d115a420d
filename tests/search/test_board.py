"""Judgement: which trial is the best, whether that is luck, when a trial is dropped, what a dead one leaves."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna")

from finetune.search import board
from finetune.search import study as studies
from finetune.search.board import Row
from finetune.search.dimension import Dimension
from finetune.search.settings import Stage
from finetune.search.trial import Dropped, Outcome, Watch
from finetune.task import MULTI_LABEL, REGRESSION, Task

RNG = np.random.default_rng(0)


def row(folder: Path, number: int, losses: np.ndarray, *, stage: str = "fine", default: bool = False) -> Row:
    path = folder / f"{stage}{number}"
    path.mkdir()
    outcome = Outcome(losses, losses < 0.7, 1.0)
    outcome.save(path)
    return Row(stage, number, "complete", default, {"train.lr": 0.1}, 4, outcome.log_loss, outcome.accuracy, 1.0,
               path=path)  # fmt: skip


def test_better_is_said_only_beyond_noise_and_luck(tmp_path: Path) -> None:
    hard = RNG.exponential(1.0, 400)
    default = row(tmp_path, 0, hard, default=True)
    clear = row(tmp_path, 1, hard - RNG.normal(0.05, 0.1, 400))
    said = board.verdict(clear, default, rivals=10, metric="log-loss")
    assert said.startswith("fine-0001 is better than the default by 0.0")
    assert "(paired, 400 validation images): more than luck among 10 trials." in said
    # 2 standard errors: beyond noise for one rival, not for the luckiest of fifty
    level = np.resize([1.0, -1.0], 400) * 0.1
    lucky = row(tmp_path, 2, hard - level - 2 * level.std(ddof=1) / 20)
    assert "more than luck among 1 trials" in board.verdict(lucky, default, 1, "log-loss")
    assert "no more than the luckiest of 50 trials" in board.verdict(lucky, default, 50, "log-loss")
    assert board.verdict(default, default, 5, "log-loss") == "No trial was better than the default."
    assert "nothing to compare" in board.verdict(clear, None, 5, "log-loss")


@pytest.mark.parametrize(
    ("task", "metric", "what", "value"),
    [
        (MULTI_LABEL, "f1", r"by 10\.0 points \+- 1\.\d of F1 \(paired, 200", -0.75),
        (REGRESSION, "r2", r"by 0\.100 \+- 0\.01\d of R2 \(paired, 200", -0.75),
        (REGRESSION, "squared-error", r"by 0\.100 \+- 0\.01\d of squared error \(paired, 200", 0.25),
    ],
)
def test_other_tasks_are_judged_by_their_own_figures(
    tmp_path: Path, task: Task, metric: str, what: str, value: float
) -> None:
    def finished(number: int, losses: np.ndarray, default: bool) -> Row:
        path = tmp_path / str(number)
        path.mkdir()
        outcome = Outcome(losses, 1 - losses, 1.0)
        outcome.save(path)
        return Row("fine", number, "complete", default, {"train.lr": 0.1}, 4, outcome.log_loss, outcome.accuracy,
                   1.0, path=path)  # fmt: skip

    noise = np.resize([0.1, -0.1], 200)
    default = finished(0, np.full(200, 0.35), True)
    better = finished(1, np.full(200, 0.25) + np.sqrt(2) * noise, False)
    assert better.value(metric) == pytest.approx(value)
    assert board.best_of([default, better], metric) is better
    said = board.verdict(better, default, 3, metric, task)
    assert re.search(what, said), said
    assert "more than luck among 3 trials" in said
    low, high = board.interval(better, 200, task)
    error = np.sqrt(2) * 0.1 / np.sqrt(200)
    assert (low, high) == pytest.approx((0.75 - 1.96 * error, 0.75 + 1.96 * error), abs=0.004)
    assert f": {task.loss_name} 0.250, {'R2 0.750' if task == REGRESSION else 'F1 75.0%'} (" in better.told(
        task
    )
    (better.path / "val.npz").unlink()
    assert np.isnan(board.interval(better, 200, task)).all()


def test_longer_schedules_rank_before_shorter_ones_whatever_their_stage(tmp_path: Path) -> None:
    short = replace(row(tmp_path, 0, np.full(4, 0.1), stage="coarse"), epochs=2)
    worse, better = row(tmp_path, 1, np.full(4, 0.9)), row(tmp_path, 2, np.full(4, 0.5))
    pruned = Row("fine", 3, "pruned", False, {})
    rows = [short, worse, better, pruned]
    assert [r.name for r in board.ranked(rows, "log-loss")] == ["fine-0002", "fine-0001", "coarse-0000"]
    assert board.best_of([pruned], "log-loss") is None
    default = row(tmp_path, 4, np.ones(4), stage="coarse", default=True)
    assert board.default_for(better, [replace(default, epochs=2)]) is None
    assert board.default_for(better, [default]) is default
    long = replace(short, epochs=6)  # of a sweep whose time was cut: the fine trials had fewer epochs
    assert board.best_of([worse, better, long], "log-loss") is long


def test_the_interval_is_wilsons(tmp_path: Path) -> None:
    low, high = board.interval(row(tmp_path, 0, np.zeros(10)), 10)
    assert (round(low, 3), round(high, 3)) == (0.722, 1.0)


def test_importance_finds_the_key_that_matters(tmp_path: Path) -> None:
    space = (Dimension("train.lr", "log", 1e-3, 1.0), Dimension("train.momentum", "uniform", 0.0, 0.9))
    study = studies.open_study(tmp_path / "j.journal", "x", maximize=False)
    assert board.importances(study, space) == {}
    for number in range(24):
        study.sampler = studies.sampler("random", number, 24, False)
        trial = study.ask()
        values = studies.suggest(trial, space)
        study.tell(trial, (np.log(float(values["train.lr"])) + 3.0) ** 2)  # type: ignore[arg-type]
    shares = board.importances(study, space)
    assert shares["train.lr"] > 2 * shares["train.momentum"]
    assert board.importance_plot(shares).startswith(b"\x89PNG")


def test_a_gaussian_process_closes_in_on_the_best(tmp_path: Path) -> None:
    space = (Dimension("train.lr", "log", 1e-3, 1.0), Dimension("train.momentum", "uniform", 0.0, 0.9))
    found = {}
    for kind in ("random", "gp"):
        study = studies.open_study(tmp_path / f"{kind}.journal", "x", maximize=False)
        for number in range(18):
            study.sampler = studies.sampler(kind, number, 18, False)
            trial = study.ask()
            values = studies.suggest(trial, space)
            away = np.log(float(values["train.lr"])) + 3.0, float(values["train.momentum"]) - 0.5
            study.tell(trial, away[0] ** 2 + away[1] ** 2)
        found[kind] = np.median([trial.value for trial in study.get_trials()[-6:]])
    assert found["gp"] < 0.2 * found["random"]


class FakeTrial:
    """Remembers what is reported; prunes at a given epoch."""

    def __init__(self, prune_at: int = 0) -> None:
        self.reported: list[tuple[float, int]] = []
        self.prune_at = prune_at

    def report(self, value: float, step: int) -> None:
        self.reported.append((value, step))

    def should_prune(self) -> bool:
        return len(self.reported) == self.prune_at


def watch(trial: FakeTrial, **keys: Any) -> Watch:
    from finetune.events import Listener

    return Watch(Listener(), trial, **{"metric": "log-loss", **keys})  # type: ignore[arg-type]


def epoch(number: int, loss: float, val: float) -> dict[str, Any]:
    return {"kind": "epoch", "epoch": number, "loss": loss, "val_loss": val, "val_accuracy": 0.5}


def test_a_row_above_three_times_the_first_ends_no_trial() -> None:
    """After a solved head a good rate has such rows; the smoothed loss is the training loop's matter."""
    looking = watch(FakeTrial())
    for loss in (0.1, 2.4, 9.0, 0.1):
        looking.on_row({"kind": "step", "loss": loss})


def test_the_pruner_sees_each_epoch_and_spares_the_default() -> None:
    trial = FakeTrial(prune_at=2)
    looking = watch(trial, metric="accuracy")
    looking.on_row({"kind": "epoch", "epoch": 0, "val_accuracy": 0.9})  # the head before training
    looking.on_row(epoch(1, 1.0, 1.0))
    with pytest.raises(Dropped, match="worse than others after 2 epochs"):
        looking.on_row(epoch(2, 1.0, 1.0))
    assert trial.reported == [(0.5, 1), (0.5, 2)]
    spared = watch(FakeTrial(prune_at=1), keep=True)
    spared.on_row(epoch(1, 1.0, 1.0))


def test_the_pruner_sees_the_score_of_another_task() -> None:
    trial = FakeTrial()
    looking = watch(trial, metric="r2")
    looking.on_row({"kind": "epoch", "epoch": 1, "loss": 2.9, "val_loss": 0.4, "val_r2": 0.6})
    assert trial.reported == [(0.6, 1)]


def test_a_trial_ends_with_the_time_and_with_its_parent() -> None:
    with pytest.raises(Dropped, match="the time is up"):
        watch(FakeTrial(), deadline=time.time() - 1).on_step({})
    with pytest.raises(KeyboardInterrupt):
        watch(FakeTrial(), alive=lambda: False).on_step({})


@pytest.mark.parametrize("name", ["trials.journal", "trials.db"])
def test_a_killed_trial_is_failed_and_its_place_comes_again_once(tmp_path: Path, name: str) -> None:
    space = (Dimension("train.lr", "log", 1e-3, 1.0),)
    study = studies.open_study(tmp_path / name, "x", maximize=False)
    studies.enqueue(study, {"train.lr": 0.5}, {"default": True})
    for attempt in range(2):
        trial = study.ask()
        assert studies.suggest(trial, space) == {"train.lr": 0.5}
        trial.set_user_attr("pid", -1)
        assert studies.fail_stale(study, alive=[-1]) == 0, "its process lives"
        assert studies.fail_stale(study, alive=[os.getpid()]) == 1
        states = [t.state.name for t in study.get_trials()]
        assert states == [["FAIL", "WAITING"], ["FAIL", "FAIL"]][attempt]
        if attempt == 0:
            assert study.get_trials()[1].user_attrs == {"default": True, "again": 0}


def test_broken_storage_is_one_message(tmp_path: Path) -> None:
    from finetune.errors import RunError

    (tmp_path / "x.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match=r"The trials in .*x.db cannot be read: .*Choose another --storage"):
        studies.open_study(tmp_path / "x.db", "x", maximize=False)


def test_one_sweep_at_a_time(tmp_path: Path) -> None:
    first, second = studies.Presence(tmp_path / "lock"), studies.Presence(tmp_path / "lock")
    assert first.alone()
    assert not second.alone()
    first.close()
    assert second.alone()
    second.close()


def test_trials_are_divided_into_stages() -> None:
    from finetune.recipe import Recipe
    from finetune.search.settings import Settings

    settings = Settings(Recipe(), (), {}, 10, 0.1, 1.0, 1.0, "log-loss", "tpe", "median", "x", {}, {})
    assert settings.stages(20) == (Stage("coarse", 12, 0.3), Stage("fine", 8, 1.0))
    assert settings.stages(3) == (Stage("coarse", 3, 1.0),)
    assert replace(settings, metric="accuracy").maximize


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    [
        (None, 30),  # three tenths of a hundred
        (100_000, 30),  # no shortage
        (7_300, 25),  # half of it for 12 trials of 1000 s, a fifth to spare: 3650 / 12 / 1200 = 0.253
        (1_000, 10),  # a tenth at least, where one such trial fits
        (20, 1),
    ],
)
def test_schedules_are_cut_to_the_time(tmp_path: Path, seconds: float | None, epochs: int) -> None:
    from finetune.events import Listener
    from finetune.recipe import Recipe
    from finetune.search.crew import Crew
    from finetune.search.settings import Settings

    kept = str(tmp_path / "study.journal")
    settings = Settings(Recipe(), (), {}, 100, 0.1, 1000.0, 1.0, "log-loss", "tpe", "median", kept, {}, {})
    deadline = None if seconds is None else time.time() + seconds
    crew = Crew(settings, None, tmp_path, 20, listener=Listener(), deadline=deadline)  # type: ignore[arg-type]
    assert crew._epochs(settings.stages(20)[0]) == epochs
