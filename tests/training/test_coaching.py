"""The coach in real, short trainings of this project's loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import TrainingError
from finetune.events import Listener
from finetune.training.coaching import Coaching, facts_of
from finetune.training.execute import execute
from finetune.training.metrics_log import read_metrics


class Ear(Listener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_message(self, text: str) -> None:
        self.heard += [text] if text.startswith("Coach:") else []


def trained(
    tiny: Any, folder: Path, ear: Ear, data: Any = None, rollbacks: int = 3, **changes: Any
) -> list[dict[str, Any]]:
    keys = {"train_from": 0, "ema": None, "augment": "none", "label_smoothing": 0.0, "warmup": 0.0, **changes}
    execute(
        tiny.plan(tiny.phase(**keys)),
        tiny.backbone(),
        data or tiny.bundle(),
        tiny.recipe(rollbacks=rollbacks),
        folder,
        ear,
    )
    found: list[dict[str, Any]] = json.loads((folder / "coach.json").read_text())["findings"]
    return found


def test_divergence_is_told_at_once_and_written_though_the_run_fails(tiny: Any, tmp_path: Path) -> None:
    ear = Ear()
    with pytest.raises(TrainingError):
        trained(tiny, tmp_path, ear, rollbacks=0, lr=1000.0, head_lr=1000.0, clip_grad=None, epochs=4)
    found = json.loads((tmp_path / "coach.json").read_text())["findings"]
    assert found[0]["name"] == "diverged"
    assert found[0]["change"] == "train.lr=100"
    assert "train.clip_grad=1" in found[0]["remedy"]
    assert [text for text in ear.heard if "diverged" in text]


def test_the_rate_that_is_advised_is_below_the_last_one_that_failed(tiny: Any, tmp_path: Path) -> None:
    """Three halvings of 1000 end at 125: 100 was as good as tried. Error and coach name the same rate."""
    ear = Ear()
    rates = {"lr": 1000.0, "head_lr": 300.0, "clip_grad": 100.0, "epochs": 4}
    with pytest.raises(TrainingError, match=r"\(train\.lr=10 train\.head_lr=4\)") as failure:
        trained(tiny, tmp_path, ear, **rates)
    (found,) = json.loads((tmp_path / "coach.json").read_text())["findings"]
    assert found["change"] == "train.lr=10"
    assert "with 0.125 of its learning rate" in found["sentence"]
    assert "clip" not in found["remedy"]
    assert "clip" not in str(failure.value)


def test_a_rate_that_is_too_low(tiny: Any, tmp_path: Path) -> None:
    ear = Ear()
    found = trained(tiny, tmp_path, ear, tiny.bundle(64, 40), lr=1e-6, head_lr=1e-6, epochs=8)
    assert found[0]["name"] == "lr too low"
    assert found[0]["phase"] == "finetune"
    assert found[0]["evidence"]["update"] < 1e-4
    assert ear.heard == []


def test_labels_without_sense_are_learned_by_heart(tiny: Any, tmp_path: Path) -> None:
    data = tiny.bundle(48, 60)
    data.train.labels = np.random.default_rng(0).permutation(data.train.labels)
    found = trained(tiny, tmp_path, Ear(), data, lr=0.05, epochs=15, batch_norm="train")
    assert found[0]["name"] in ("overfitting", "label noise")
    first = read_metrics(tmp_path)[0]
    assert (first["kind"], first["step"]) == ("first", 1)


def test_turned_off(tiny: Any, tmp_path: Path) -> None:
    execute(
        tiny.plan(tiny.phase(epochs=1)), tiny.backbone(), tiny.bundle(), tiny.recipe(coach=False), tmp_path
    )
    assert not (tmp_path / "coach.json").exists()


def test_a_resumed_run_repeats_nothing(tiny: Any, tmp_path: Path) -> None:
    """The rows that are there are read again in silence."""
    facts = facts_of(0, tiny.phase(), tiny.bundle(), tiny.recipe())
    place = {"phase": "p", "phase_index": 0, "epoch": 1, "epochs": 9, "steps": 90, "lr": 1.0}
    rows = [{**place, "kind": "first", "step": 1, "loss": 1.1, "accuracy": 0.3}]
    rows += [{**place, "kind": "step", "step": s, "loss": 9.0, "accuracy": 0.3} for s in range(2, 30, 2)]
    ear = Ear()
    coach = Coaching(tmp_path, ear, enabled=True)
    coach.begin(0, facts)
    for row in rows:
        coach.read(row)
    assert len(ear.heard) == 1
    assert "Change: train.lr=0.002" in ear.heard[0]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = Ear()
    coach = Coaching(tmp_path, again, enabled=True)
    coach.begin(0, facts)
    coach.read({**rows[-1], "step": 30})
    assert again.heard == []


def test_facts_know_what_makes_training_images_harder(tiny: Any) -> None:
    facts = facts_of(
        1, tiny.phase(augment="standard", batch_size=8, accumulate=2), tiny.bundle(33, 12), tiny.recipe()
    )
    assert facts.distorted
    assert facts.fitted_head
    assert (facts.classes, facts.train_n, facts.val_n, facts.batch) == (3, 33, 12, 16)
    assert not facts_of(0, tiny.phase(augment="light"), tiny.bundle(), tiny.recipe()).distorted
