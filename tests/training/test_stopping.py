"""Stopping early: when, what is remembered across a resume, and what a refit makes of it."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import Interrupted
from finetune.events import Listener
from finetune.training import job as job_module
from finetune.training.desk import Scores
from finetune.training.execute import execute
from finetune.training.metrics_log import read_metrics
from finetune.training.pace import Pace
from finetune.training.stopping import Watch


def follow(watch: Watch, values: list[float], accuracy: bool = False) -> int | None:
    """The epoch after which it says stop."""
    for epoch, value in enumerate(values, 1):
        scores = Scores(0.5, value) if accuracy else Scores(value, 0.5)
        watch.observe(epoch, scores, {})
        if watch.reason is not None:
            return epoch
    return None


LOSSES = [1.0, 0.8, 0.9, 0.85, 0.7, 0.75, 0.71, 0.72, 0.6]


def test_patience_counts_epochs_since_the_best(tiny: Any) -> None:
    assert follow(Watch(tiny.phase(patience=2)), LOSSES) == 4
    watch = Watch(tiny.phase(patience=3))
    assert follow(watch, LOSSES) == 8
    assert watch.reason == "the validation loss has not improved since epoch 5 (train.patience=3)"
    assert follow(Watch(tiny.phase(patience=4)), LOSSES) is None
    assert follow(Watch(tiny.phase()), LOSSES) is None


def test_accuracy_is_better_when_it_is_higher(tiny: Any) -> None:
    rising = [0.1 * epoch for epoch in range(9)]
    assert follow(Watch(tiny.phase(patience=1, monitor="accuracy")), rising, accuracy=True) is None
    assert follow(Watch(tiny.phase(patience=1, monitor="accuracy")), rising[::-1], accuracy=True) == 2


def test_smoothing_is_an_exponential_average(tiny: Any) -> None:
    watch = Watch(tiny.phase(smoothing=0.75))
    seen = [watch.observe(e, Scores(loss, 0.5), {}) for e, loss in enumerate([1.0, 0.0, 2.0], 1)]
    assert seen == pytest.approx([1.0, 0.75, 1.0625])
    # A single bad epoch after a long fall is no end of improvement once smoothed.
    noisy = [1.0, 0.2, 0.5, 0.1, 0.4]
    assert follow(Watch(tiny.phase(patience=1)), noisy) == 3
    assert follow(Watch(tiny.phase(patience=1, smoothing=0.75)), noisy) is None


def test_a_perfect_score_ends_it(tiny: Any) -> None:
    watch = Watch(tiny.phase(stop_at=1.0))
    assert follow(watch, [0.9, 0.99, 1.0, 1.0], accuracy=True) == 3
    assert watch.reason == "the validation accuracy has reached 1 (train.stop_at)"


def test_without_validation_images_the_training_loss_is_watched(tiny: Any) -> None:
    watch = Watch(tiny.phase(patience=1, stop_at=0.5))
    for epoch, loss in enumerate([1.0, 1.1], 1):
        watch.observe(epoch, None, {"loss": loss, "accuracy": 0.9})
    assert watch.reason == "the training loss has not improved since epoch 1 (train.patience=1)"


def test_a_copy_goes_on_from_a_saved_state(tiny: Any) -> None:
    for stop in range(1, 8):
        first, again = (Watch(tiny.phase(patience=3, smoothing=0.2)) for _ in range(2))
        follow(first, LOSSES[:stop])
        again.load_state_dict(json.loads(json.dumps(first.state_dict())))
        rest = [again.observe(e, Scores(loss, 0.5), {}) for e, loss in enumerate(LOSSES[stop:], stop + 1)]
        whole = Watch(tiny.phase(patience=3, smoothing=0.2))
        assert [whole.observe(e, Scores(v, 0.5), {}) for e, v in enumerate(LOSSES, 1)][stop:] == rest
        assert again.reason == whole.reason


class Words(Listener):
    """Keeps messages, stops at a step, and has a clock on which each step takes some seconds."""

    def __init__(self, stop_at: int | None = None, seconds: float = 0.0) -> None:
        self.messages: list[str] = []
        self.stop_at, self.seconds, self.now = stop_at, seconds, 0.0

    def on_message(self, text: str) -> None:
        self.messages.append(text)

    def on_step(self, row: dict[str, Any]) -> None:
        self.now += self.seconds
        if row["step"] == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def facts(run: Path) -> dict[str, Any]:
    phases: dict[str, Any] = json.loads((run / "training.json").read_text())["phases"]
    return phases


def test_a_run_stops_early_and_its_refit_takes_as_many_epochs(tiny: Any, tmp_path: Path) -> None:
    """With a rate of almost nothing the accuracy never changes."""
    still = tiny.phase(epochs=6, lr=1e-12, head_lr=1e-12, ema=None, augment="none", train_from=5,
                       patience=2, monitor="accuracy", batch_norm="frozen")  # fmt: skip
    refit = still.model_copy(update={"fit_on": "train+val", "patience": "earlier", "keep": "last"})
    words = Words()
    execute(tiny.plan(still, refit), tiny.backbone(), tiny.bundle(16, 6), tiny.recipe(), tmp_path, words)
    assert [facts(tmp_path)[i]["epochs"] for i in "01"] == [3, 3]
    assert facts(tmp_path)["0"]["stopped"].startswith(
        "the validation accuracy has not improved since epoch 1"
    )
    assert "Stopped after epoch 3 of 6: the validation accuracy has not improved since epoch 1 " in "".join(
        words.messages
    )
    last = read_metrics(tmp_path)[-1]
    assert (last["epoch"], last["epochs"]) == (3, 3)


def test_resumed_with_plateau_patience_and_two_optimizers(tiny: Any, tmp_path: Path) -> None:
    phase = tiny.phase(
        epochs=5, optimizer="adam-then-sgd", lr=2e-4, head_lr=5e-4, switch=0.5, schedule="plateau",
        schedule_args={"patience": 0, "factor": 0.5, "threshold": 0.2}, patience=4, smoothing=0.3,
    )  # fmt: skip
    settings = tiny.recipe(log_every=1)

    def run(folder: Path, stop_at: int | None = None, resume: bool = False) -> Any:
        return execute(
            tiny.plan(phase), tiny.backbone(), tiny.bundle(), settings, folder, Words(stop_at), resume
        )

    whole = run(tmp_path / "whole").state_dict()
    rates = {round(row["lr"] / 2e-4, 6) for row in read_metrics(tmp_path / "whole")}
    assert {1.0, 0.5, 0.25} <= rates  # the plateau's factor did fall
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop_at=7)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", stop_at=13, resume=True)  # 20 steps; SGD since step 11
    again = run(tmp_path / "run", resume=True).state_dict()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []
    rows = [[(r["step"], r["lr"], r["loss"]) for r in read_metrics(tmp_path / n)] for n in ("whole", "run")]
    assert rows[0] == rows[1]


def test_a_run_with_too_little_time_is_shortened_and_stays_so(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Words(stop_at=8, seconds=0.5)
    monkeypatch.setattr(job_module, "Pace", functools.partial(Pace, clock=lambda: words.now))
    phase = tiny.phase(epochs=40, train_from=5, augment="none", time=12.0, ema=None)
    with pytest.raises(Interrupted):
        execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path, words)
    chosen = facts(tmp_path)["0"]["steps"][0]
    assert chosen[0] < 8
    assert chosen[1] < 160
    assert any("12 s are enough for" in text for text in words.messages)
    words.stop_at = None
    settings = tiny.recipe(log_every=1)
    execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), settings, tmp_path, words, resume=True)
    assert facts(tmp_path)["0"]["steps"][0] == chosen
    assert words.now <= 12.5
    last = read_metrics(tmp_path)[-1]
    assert last["step"] == last["steps"] < 160
    assert last["lr"] < 0.01 * phase.lr
    assert last["kind"] == "epoch"
    assert "val_loss" in last
