"""Small trainings, as one of several processes: ``worker.py OUT NAME ...`` carries out some scenarios in turn.

Each process leaves ``OUT/NAME/rank0.json`` ...: a digest of its final weights, the error that ended it, and what it
was told. The test itself calls ``carry_out`` for the same training in one process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from finetune import process_group, ranks
from finetune.data.targets import strata_of_labels, strata_of_numbers
from finetune.errors import FinetuneError
from finetune.events import Listener
from finetune.strategy.plan import ProbePhase
from finetune.task import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from finetune.training import rollback
from finetune.training.execute import execute
from finetune.training.feed import Feed
from finetune.training.job import Job

TRAIN = 35
"""Batches of 8: four whole ones and one of 3, of which the second of two processes has nothing."""


def load_tiny() -> ModuleType:
    path = Path(__file__).parents[1] / "training" / "tiny_run.py"
    spec = importlib.util.spec_from_file_location("tiny_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


tiny = sys.modules.get("tiny_run") or load_tiny()


class Heard(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def on_message(self, text: str) -> None:
        self.messages.append(text)


def phases(name: str) -> list[Any]:
    """The plan of a scenario. Norms are frozen where nothing else is said."""
    phase = lambda **keys: tiny.phase(**{"batch_norm": "frozen", **keys})  # noqa: E731
    last = tiny.backbone().num_stages - 1
    number = phase(loss="mse", label_smoothing=0.0, ema=None, blend=(0.5, 1.0), epochs=2)
    return {
        "plain": [phase(batch_size=8)],
        "accumulate": [phase(batch_size=4, accumulate=2, clip_grad=0.5, l1=1e-4, class_weights="balanced")],
        "mixed": [phase(mixup=0.4, cutmix=1.0, input_noise=0.1, ema=None)],
        "cached": [phase(augment="none", train_from=last)],
        "probe": [ProbePhase(candidates=((last,),), folds=2), phase(blend=(0.0, 0.5, 1.0), epochs=2)],
        "patience": [phase(epochs=12, patience=2, lr=1.0, head_lr=1.0, ema=None, clip_grad=None)],
        "diverges": [phase()],
        "memory": [phase(ema=None)],
        "stopped": [phase()],
        "dropout": [phase(dropout=0.2)],
        "dropout-stopped": [phase(dropout=0.2)],
        "norms": [phase(batch_norm="train", batch_size=8)],
        "shares": [phase(batch_norm="train")],
        "time": [phase(epochs=500, time=1.0)],
        "swa": [phase(swa=0.5, ema=None, keep="last", batch_norm="train")],
        "shard": [ProbePhase(candidates=((last,),), folds=2), phase(ema=None, blend=(0.0, 0.5, 1.0), train_from=0)],
        "shard-stopped": [phase(ema=None, optimizer="adamw", lr=1e-3, head_lr=1e-2)],
        "shard-whole": [phase(ema=None, optimizer="adamw", lr=1e-3, head_lr=1e-2)],
        "shard-norms": [phase(ema=None, batch_norm="train", accumulate=2, train_from=1)],
        "labels": [phase(loss="bce")],
        "number": [ProbePhase(candidates=((last,),), folds=2), number],
        "shard-number": [ProbePhase(candidates=((last,),), folds=2), number],
        "snapshots": [phase(snapshots=2, epochs=2, ema=None, keep="last")],
    }[name]  # fmt: skip


def task_of(name: str) -> Task:
    return {"labels": MULTI_LABEL, "number": REGRESSION}.get(name.rpartition("-")[2], SINGLE_LABEL)


def bundle(task: Task) -> Any:
    """Patches with their class, with two labels (odd, above 0), or with a number."""
    made = tiny.bundle(TRAIN)
    for images in (made.train, made.val, made.test):
        if task == MULTI_LABEL:
            images.values = np.stack([images.labels % 2 == 1, images.labels > 0], axis=1).astype(np.float32)
            images.classes, images.labels = ("odd", "positive"), strata_of_labels(images.values)
        elif task == REGRESSION:
            images.values, images.classes = (
                (1000 + 100 * images.labels[:, None]).astype(np.float32),
                ("size",),
            )
            images.labels = strata_of_numbers(images.values[:, 0], images.values[:, 0])
        images.task = task
    return made


def stop_at(step: int) -> None:
    """The last process gets SIGTERM at this step."""
    take = Job.after_step

    def after_step(job: Job, *values: Any) -> None:
        if job.progress.step + 1 == step and ranks.rank() == ranks.world() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        take(job, *values)

    Job.after_step = after_step  # type: ignore[method-assign]


def run_out_of_memory(step: int, images: int) -> None:
    """From this step on the last process has no room for so many images at once."""
    forward, schedule, armed = Feed.forward, Job.schedule_lr, [False]

    def scheduled(job: Job) -> None:
        schedule(job)
        armed[0] = armed[0] or job.progress.step + 1 == step

    def full(feed: Feed, inputs: torch.Tensor) -> torch.Tensor:
        if armed[0] and len(inputs) >= images and ranks.rank() == ranks.world() - 1:
            raise RuntimeError("CUDA out of memory (a test)")
        return forward(feed, inputs)

    Feed.forward, Job.schedule_lr = full, scheduled  # type: ignore[method-assign]


def prepare(name: str) -> None:
    """What a scenario changes in the program."""
    if name == "diverges":
        rollback._STEPS_APART = 4
        tiny.poison(7)
    if name == "memory":
        run_out_of_memory(3, 3)
    if name.endswith("stopped"):
        stop_at(7)


def carry_out(name: str, folder: Path, resume: bool = False) -> dict[str, Any]:
    """Train in ``folder``; what this process has to say about it."""
    kept = {(kind, method): getattr(kind, method) for kind, method in
            ((Job, "after_step"), (Job, "schedule_lr"), (Feed, "forward"))}  # fmt: skip
    apart = rollback._STEPS_APART
    heard, answer = Heard(), {"error": None}  # type: tuple[Heard, dict[str, Any]]
    folder.mkdir(parents=True, exist_ok=True)
    network, images = tiny.backbone(), bundle(task_of(name))
    if task_of(name) != SINGLE_LABEL:
        network.reset_head(len(images.classes), 0)
        network.task = task_of(name).name
    try:
        if not resume:
            prepare(name)
        settings = tiny.recipe(
            log_every=1,
            save_every=5,
            shard=name.startswith("shard-") or name == "shard",
            sync_norms=name != "shares",
        )
        execute(tiny.plan(*phases(name)), network, images, settings, folder, heard, resume)
    except FinetuneError as error:
        answer["error"] = str(error)
    finally:
        for (kind, method), function in kept.items():
            setattr(kind, method, function)
        rollback._STEPS_APART = apart
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    if ranks.main():
        torch.save(network.state_dict(), folder / "final.pt")
    return {**answer, "digest": digest.hexdigest(), "told": heard.messages}


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    with process_group.session(lambda: torch.device("cpu")):
        for name in names:
            scenario, _, resume = name.partition("+")
            answer = carry_out(scenario, out / scenario, bool(resume))
            (out / scenario / f"{resume}rank{ranks.rank()}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
