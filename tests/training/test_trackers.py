"""Trackers get every row once, survive resuming, and never stop a training."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from finetune.errors import ConfigError, Interrupted
from finetune.events import Listener, Listeners
from finetune.recipe import Recipe
from finetune.training.execute import execute
from finetune.training.metrics_log import read_metrics
from finetune.training.trackers import TRACKERS, told
from finetune.training.trackers.base import Tracked, Tracker

RESULT = {"test": {"accuracy": 0.75, "log_loss": 0.5, "balanced_accuracy": None, "macro_f1": 0.7, "n": 4}}


class StopAt(Listener):
    """Sends this process a signal at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def train(tiny: Any, folder: Path, name: str, stop: int | None = None, *, resume: bool = False) -> None:
    """Two phases of three epochs; stopped between two checkpoints where ``stop`` says so."""
    plan = tiny.plan(tiny.phase(epochs=2), tiny.phase(epochs=1, name="second"))
    recipe = tiny.recipe(log_every=1, save_every=2, trackers=[name])
    folder.mkdir(exist_ok=True)
    listener = StopAt(stop) if stop else Listener()
    with told.tracked(recipe, folder, listener, resume) as all_of_them:
        execute(plan, tiny.backbone(), tiny.bundle(), recipe, folder, all_of_them, resume)
        (folder / "curves.png").write_bytes(PNG)
        all_of_them.on_result(RESULT)


def kill_and_resume(tiny: Any, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill leaves it: rows after the last checkpoint, which come again."""
    from finetune.training.saving import Saver

    save = Saver.save
    with monkeypatch.context() as patch:  # a stop that saves nothing is what a kill is
        patch.setattr(Saver, "save", lambda self: None if self.job.desk.stop.requested else save(self))
        with pytest.raises(Interrupted):
            train(tiny, folder, name, stop=3)
    train(tiny, folder, name, resume=True)


def steps(folder: Path, kind: str, key: str) -> dict[int, float]:
    """Global step -> value, as metrics.jsonl has them."""
    offset, found, last = 0, {}, 0
    phase = 0
    for row in read_metrics(folder):
        if row["phase_index"] != phase:
            phase, offset = row["phase_index"], offset + last
        last = row["steps"]
        if row["kind"] == kind and key in row:
            found[offset + row["step"]] = row[key]
    return found


def test_tensorboard_shows_each_row_once(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kill_and_resume(tiny, tmp_path / "run", "tensorboard", monkeypatch)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    loss = events.Scalars("train/loss")
    expected = steps(tmp_path / "run", "step", "loss")
    assert [event.step for event in loss] == list(expected) == list(range(1, 13))
    assert [event.value for event in loss] == pytest.approx(list(expected.values()))
    accuracy = {event.step: event.value for event in events.Scalars("val/accuracy")}
    assert accuracy == pytest.approx(steps(tmp_path / "run", "epoch", "val_accuracy"))
    assert [event.value for event in events.Scalars("test/accuracy")] == [0.75]
    assert events.Tags()["images"] == ["figures/curves"]
    text = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "log_every: 1" in text


def test_mlflow_goes_on_with_the_same_run(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    messages: list[str] = []
    monkeypatch.setattr(Listener, "on_message", lambda self, text: messages.append(text))
    kill_and_resume(tiny, tmp_path / "run", "mlflow", monkeypatch)
    assert not [text for text in messages if "mlflow" in text]
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("finetune")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["train.save_every"] == "2"
    assert run.data.metrics["test/macro_f1"] == 0.7
    history = {
        metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")
    }
    assert history == pytest.approx(steps(tmp_path / "run", "step", "loss"))
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 12
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/curves.png"]


def test_wandb_offline_stays_in_the_run_folder(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    messages: list[str] = []
    monkeypatch.setattr(Listener, "on_message", lambda self, text: messages.append(text))
    kill_and_resume(tiny, folder, "wandb", monkeypatch)
    assert not [text for text in messages if "wandb" in text]
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert len({path.name.rpartition("-")[2] for path in runs}) == 1, "one id before and after"
    words = (b"train/loss", b"train.save_every")
    deadline = time.monotonic() + 30  # wandb writes in a process of its own, which may outlive finish()
    while True:
        written = b"".join(path.read_bytes() for run in runs for path in run.glob("*.wandb"))
        if all(word in written for word in words) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for word in words:
        assert word in written
    assert not list(tmp_path.glob("wandb"))


class Recorder(Tracker):
    """Keeps what it is sent; ``fail`` names the method that raises."""

    package, extra = "json", "none"
    made: ClassVar[list[Recorder]] = []
    fail = ""

    def __init__(self, run: Tracked) -> None:
        self.sent: list[tuple[int, Mapping[str, float]]] = []
        self.first = run.first
        self.closed: bool | None = None
        type(self).made.append(self)
        self._perhaps("init")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._perhaps("log")
        self.sent.append((step, values))

    def picture(self, name: str, path: Path) -> None:
        self._perhaps("picture")

    def close(self, finished: bool) -> None:
        self.closed = finished

    def _perhaps(self, method: str) -> None:
        if self.fail == method:
            raise ValueError("no such host\nand more")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    made = type("Made", (Recorder,), {"made": []})
    monkeypatch.setattr(told, "TRACKERS", type("Table", (), {"get": staticmethod(lambda name: made)}))
    return made


def test_rows_are_sent_once_and_none_is_missing(
    tiny: Any, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_and_resume(tiny, tmp_path / "run", "recorder", monkeypatch)
    before, after = recorder.made
    assert (before.first, before.closed) == (None, False)
    assert (after.first, after.closed) == (3, True)  # the checkpoint is of step 2
    sent = [step for step, values in before.sent + after.sent if "train/loss" in values]
    assert sent == list(range(1, 13))
    assert [step for step, values in after.sent if "val/loss" in values] == [4, 8, 8, 12]
    assert all("epochs" not in key for _, values in after.sent for key in values)


@pytest.mark.parametrize("method", ["init", "log", "picture"])
def test_a_failing_tracker_is_dropped_with_one_line(
    tiny: Any, tmp_path: Path, recorder: type[Recorder], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.fail = method
    messages: list[str] = []
    monkeypatch.setattr(Listener, "on_message", lambda self, text: messages.append(text))
    train(tiny, tmp_path / "run", "recorder")
    assert [text for text in messages if "tracker" in text] == [
        "The tracker recorder failed and is off for this run: no such host"
    ]
    assert len(recorder.made) == 1


def test_missing_and_unknown_trackers_are_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told.require_trackers(())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        told.require_trackers(("wandb", "tensorbord"))
    assert 'The tracker wandb needs wandb. Run: pip install "finetune[wandb]"' in str(caught.value)
    assert "Got 'tensorbord' instead. Did you mean \"tensorboard\"?" in str(caught.value)


def test_a_missing_extra_stops_before_the_images_are_read(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune.api import run

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recipe = {"data": {"path": str(picture_folder)}, "out": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match="The tracker mlflow needs mlflow"):
        run(recipe, "trackers=mlflow")
    assert not (tmp_path / "run").exists()


def test_every_tracker_names_an_extra() -> None:
    """The message that names an extra must name one that there is."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for entry in TRACKERS:
        tracker = TRACKERS.get(entry.name)
        assert f"\n{tracker.extra} = [" in text


def test_listeners_tell_all_of_them_everything() -> None:
    heard: list[tuple[str, Any]] = []

    class Ear(Listener):
        def on_row(self, row: dict[str, Any]) -> None:
            heard.append(("row", row["step"]))

        def on_progress(self, what: str, done: int, total: int) -> None:
            heard.append((what, done))

    both = Listeners(Ear(), Ear())
    both.on_row({"step": 3})
    both.on_progress("reading", 1, 2)
    assert heard == [("row", 3), ("row", 3), ("reading", 1), ("reading", 1)]
    events = [name for name in vars(Listener) if name.startswith("on_")]
    assert all(getattr(Listeners, name) is not getattr(Listener, name) for name in events)


def test_a_single_name_is_a_list_of_one() -> None:
    assert Recipe().override("trackers=tensorboard").train.trackers == ("tensorboard",)
    assert Recipe().override("trackers=[wandb, mlflow]").train.trackers == ("wandb", "mlflow")


def _png() -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (200, 10, 10)).save(stream, "PNG")
    return stream.getvalue()


PNG = _png()
