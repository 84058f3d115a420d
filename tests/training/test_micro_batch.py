"""Batches are cut to what the memory holds, and every optimizer step still sees the same images."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import ConfigError, Interrupted, TrainingError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.training import micro_batch
from finetune.training import tuning as executor
from finetune.training.execute import execute
from finetune.training.feed import Feed
from finetune.training.job import Job
from finetune.training.metrics_log import read_metrics

LINUX = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"
)
CUDA = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
WINDOWS = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried"
)


class Words(Listener):
    """Keeps what is said, and may stop the run after a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.said: list[str] = []
        self.stop_at = stop_at

    def on_message(self, text: str) -> None:
        self.said.append(text)

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``memory(images, from_step, error)``: more images at a time do not fit; the list of sizes that were tried."""
    forward, schedule = Feed.forward, Job.schedule_lr

    def install(
        most: int, from_step: int = 1, error: RuntimeError = LINUX, training: bool = True
    ) -> list[int]:
        tried: list[int] = []
        step = [0]

        def counted(job: Job) -> None:
            schedule(job)
            step[0] = job.progress.step + 1

        def full(feed: Feed, inputs: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled() == training:
                tried.append(len(inputs))
                if len(inputs) > most and step[0] >= from_step:
                    raise error
            return forward(feed, inputs)

        monkeypatch.setattr(Feed, "forward", full)
        monkeypatch.setattr(Job, "schedule_lr", counted)
        return tried

    return install


def facts_of(folder: Path) -> Any:
    return json.loads((folder / "training.json").read_text())


def settings(tiny: Any, **changes: Any) -> Any:
    return tiny.phase(**{"train_from": 0, "batch_norm": "frozen", "epochs": 2, **changes})


@pytest.mark.parametrize("error", [LINUX, CUDA])
def test_halving_in_mid_training_equals_small_batches_from_the_start(
    tiny: Any, tmp_path: Path, memory: Any, error: RuntimeError
) -> None:
    """33 images: steps of 8, 8, 8 and 9, whether as one batch, as parts, or as batches of 4 and 5."""
    whole = execute(tiny.plan(settings(tiny, batch_size=4, accumulate=2)), tiny.backbone(), tiny.bundle(),
                    tiny.recipe(log_every=1), tmp_path / "a")  # fmt: skip
    tried, words = memory(4, from_step=6, error=error), Words()
    cut = execute(tiny.plan(settings(tiny)), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1),
                  tmp_path / "b", words)  # fmt: skip
    assert tried == [8, 8, 8, 9, 8, 8, 4, 4, 4, 4, 3, 3, 3]
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, cut.state_dict()[name], atol=2e-5), name
    ours, theirs = read_metrics(tmp_path / "b"), read_metrics(tmp_path / "a")
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    assert [r["loss"] for r in ours] == pytest.approx([r["loss"] for r in theirs], abs=1e-4)
    said = str(error).partition("\n")[0]
    assert facts_of(tmp_path / "b")["phases"]["0"]["out_of_memory"] == [
        {"step": 6, "from": 8, "to": 4, "reason": said}
    ]
    assert (
        "Out of memory at epoch 2 step 6 of phase 'finetune': from here on 4 instead of 8 images at a time; an "
        "optimizer step still sees the same images."
    ) in words.said


def test_halving_survives_a_stop(tiny: Any, tmp_path: Path, memory: Any) -> None:
    ends = []
    plan, recipe = tiny.plan(settings(tiny, batch_norm="train")), tiny.recipe(log_every=1)
    memory(4, from_step=3)
    for folder, stop in ((tmp_path / "whole", None), (tmp_path / "parts", 5)):
        if stop:
            with pytest.raises(Interrupted):
                execute(plan, tiny.backbone(), tiny.bundle(), recipe, folder, Words(stop))
        network = execute(plan, tiny.backbone(), tiny.bundle(), recipe, folder, resume=stop is not None)
        ends.append(network.state_dict())
        assert len(facts_of(folder)["phases"]["0"]["out_of_memory"]) == 1
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_validation_is_cut_too(tiny: Any, tmp_path: Path, memory: Any) -> None:
    plan, recipe = tiny.plan(settings(tiny, epochs=1)), tiny.recipe()
    execute(plan, tiny.backbone(), tiny.bundle(), recipe, tmp_path / "a")
    tried = memory(6, error=WINDOWS, training=False)
    execute(plan, tiny.backbone(), tiny.bundle(), recipe, tmp_path / "b")
    assert tried == [12, 6, 6]
    ours, theirs = read_metrics(tmp_path / "b")[-1], read_metrics(tmp_path / "a")[-1]
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-5)
    assert ours["val_accuracy"] == theirs["val_accuracy"]


def test_not_even_one_image(tiny: Any, tmp_path: Path, memory: Any) -> None:
    memory(0, error=CUDA)
    wanted = (
        r"Memory runs out at epoch 1 step 1 of phase 'finetune' even with a single image at a time \(CUDA out of "
        r"memory\. Tried to allocate 2\.00 GiB\.\)\. Train fewer stages"
    )
    with pytest.raises(TrainingError, match=wanted):
        execute(tiny.plan(settings(tiny)), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    halved = facts_of(tmp_path)["phases"]["0"]["out_of_memory"]
    assert [(h["from"], h["to"]) for h in halved] == [(8, 4), (4, 2), (2, 1)]


def test_other_errors_pass(tiny: Any, tmp_path: Path, memory: Any) -> None:
    tried = memory(0, error=RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        execute(tiny.plan(settings(tiny)), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    assert tried == [8]


def test_single_images_freeze_the_norms(tiny: Any, tmp_path: Path, memory: Any) -> None:
    network = tiny.backbone()
    before = {n: t.clone() for n, t in network.state_dict().items() if "running" in n}
    memory(1)
    phase = tiny.phase(train_from=4, epochs=1, augment="none")
    execute(tiny.plan(phase), network, tiny.bundle(9, 3), tiny.recipe(), tmp_path)
    assert before
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(("free", "size"), [(1 << 40, 8), (1, 1)])
def test_auto_respects_the_memory_and_keeps_the_choice(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, size: int
) -> None:
    monkeypatch.setattr(micro_batch, "available_memory", lambda: free)
    phase = settings(tiny, micro_batch="auto")
    words = Words(stop_at=2)
    with pytest.raises(Interrupted):
        execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path, words)
    assert facts_of(tmp_path)["micro-batch of phase 0"] == size
    split = [text for text in words.said if text.startswith("Batches of 8 images go through")]
    assert split == ([] if size == 8 else ["Batches of 8 images go through the network 1 at a time."])
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 1 << 41)
    tried = []
    forward = Feed.forward
    monkeypatch.setattr(Feed, "forward", lambda feed, x: (tried.append(len(x)), forward(feed, x))[1])
    execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(log_every=1), tmp_path, resume=True)
    assert facts_of(tmp_path)["micro-batch of phase 0"] == size
    assert max(tried) == (12 if size == 8 else 1)  # whole, 12 images are one batch of validation


def test_two_phases_that_split_alike_say_so_once(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "available_memory", lambda: 1)
    phase, words = tiny.phase(epochs=1, micro_batch="auto", batch_norm="frozen"), Words()
    execute(tiny.plan(phase, phase), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path, words)
    assert sum(text.startswith("Batches of 8") for text in words.said) == 1


def test_memory_of_an_image_against_a_known_network(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linear head on kept features keeps its input for the backward pass, and its weight, which is no activation."""
    found = []
    sample_and_bytes = lambda job: found.append(  # noqa: E731
        (micro_batch._activation_bytes(job, micro_batch._sample(job)), job.backbone.head.in_features)
    )
    monkeypatch.setattr(executor, "settle", sample_and_bytes)
    phase = tiny.phase(train_from=5, epochs=1, augment="none")
    execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)
    assert found[0][0] == 4 * found[0][1]


def test_the_search_finds_what_fits_and_leaves_no_trace(
    tiny: Any, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, with an injected memory that holds ten images; batch norms train, whose statistics must not move."""
    plan = tiny.plan(tiny.phase(train_from=0, epochs=1, batch_size=24))
    ends, found = [], []
    for number, search in enumerate([lambda job: None, lambda job: found.append(measured(job))]):

        def measured(job: Job) -> int:
            tried = memory(10, from_step=0, error=CUDA)
            size = micro_batch.largest_that_fits(job)
            monkeypatch.undo()
            assert tried == [24, 12, 6]
            assert all(p.grad is None for p in job.backbone.parameters())
            return size

        monkeypatch.setattr(executor, "settle", search)
        network = execute(plan, tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path / str(number))
        ends.append(network.state_dict())
    assert found == [6]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_the_search_says_when_nothing_fits(
    tiny: Any, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(0, from_step=0, error=CUDA)
    monkeypatch.setattr(micro_batch, "estimated", micro_batch.largest_that_fits)
    phase = settings(tiny, micro_batch="auto")
    with pytest.raises(
        TrainingError, match=r"Not even a single image fits into the device's memory \(CUDA out"
    ):
        execute(tiny.plan(phase), tiny.backbone(), tiny.bundle(), tiny.recipe(), tmp_path)


def test_recipe_keys() -> None:
    def train(**keys: Any) -> Any:
        return Recipe.from_mapping({"train": keys}).train

    assert train().images_per_step == train(batch_size="auto").images_per_step == 64
    assert train(batch_size=32, accumulate=4).images_per_step == 128
    assert train(batch_size=32, effective_batch=128).images_per_step == 128
    assert train(batch_size="auto", effective_batch=96).images_per_step == 96
    with pytest.raises(
        ConfigError, match=r"train\.accumulate: must be left out where batch_size is auto.* Got 2"
    ):
        train(batch_size="auto", accumulate=2)
    with pytest.raises(
        ConfigError, match=r"train\.effective_batch: must be a multiple of batch_size \(48\), or"
    ):
        train(batch_size=48, effective_batch=64)
    with pytest.raises(
        ConfigError, match=r"train\.effective_batch: must be batch_size \* accumulate \(32\), or acc"
    ):
        train(batch_size=16, accumulate=2, effective_batch=64)
