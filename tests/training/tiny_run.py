"""A small run on images made on the fly: a helper of the tests, and a server of runs that they kill.

Each line of standard input is a JSON list: ``[RUN_DIR, --resume, --delay, SECONDS, --probe, --diverge, STEP]``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from finetune.data.imageset import DataBundle, ImageSet
from finetune.errors import FinetuneError
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.strategy.plan import GradientPhase, Plan, ProbePhase
from finetune.training import rollback
from finetune.training.execute import execute
from finetune.training.feed import Feed
from finetune.training.job import Job
from finetune.zoo.create import create_backbone

SIZE = 32


class Patches(ImageSet):
    """Noisy images whose class is the colour of their brighter half."""

    def __init__(self, n: int, seed: int = 0, classes: int = 3) -> None:
        self.classes = tuple(f"class {k}" for k in range(classes))
        self.labels = np.arange(n, dtype=np.int64) % classes
        random = np.random.default_rng(seed)
        self._pixels = random.integers(0, 140, (n, SIZE, SIZE, 3), dtype=np.uint8)
        for i, label in enumerate(self.labels):
            self._pixels[i, : SIZE // 2, :, label] += 90
        self._seed = seed

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self._pixels[index])

    def name(self, index: int) -> str:
        return f"patch {self._seed}/{index}"

    def fingerprint(self, index: int) -> bytes:
        return self._pixels[index].tobytes()


def bundle(train: int = 33, val: int = 12) -> DataBundle:
    """Three classes; 33 = 4 batches of 8 and one image left over."""
    return DataBundle(Patches(train, 1), Patches(val, 2), Patches(6, 3))


def phase(**changes: Any) -> GradientPhase:
    """Train the last stages with everything that has state: momentum, EMA, running statistics, warm-up."""
    settings: dict[str, Any] = {
        "train_from": 2, "epochs": 3, "lr": 0.02, "head_lr": 0.05, "stage_decay": 0.5, "batch_size": 8,
        "ema": 0.9, "augment": "light", "batch_norm": "train", "label_smoothing": 0.1,
    }  # fmt: skip
    return GradientPhase(**{**settings, **changes})


def plan(*phases: Any) -> Plan:
    return Plan(strategy="test", init="random", phases=phases or (phase(),))


def recipe(**train: Any) -> Recipe:
    """Everything measured is pinned, so that two runs compute alike; no preflight, which has its own tests."""
    pinned = {"precision": "fp32", "channels_last": False, "log_every": 2, "preflight": False, **train}
    return Recipe.from_mapping({"train": pinned, "threads": 1, "device": "cpu", "data": {"workers": 1}})


def backbone(arch: str = "test_resnet", seed: int = 5, **options: Any) -> Any:
    """Random weights; three classes."""
    return create_backbone(arch, pretrained=False, num_classes=3, image_size=SIZE, seed=seed, **options)


def poison(step: int, lr_scale: float = 1.0) -> None:
    """From here on the loss of this optimizer step is NaN as long as the learning rate was not halved."""
    schedule, forward, armed = Job.schedule_lr, Feed.forward, [False]

    def watched(job: Job) -> None:
        schedule(job)
        armed[0] = job.progress.step + 1 == step and job.guard.lr_scale >= lr_scale

    def poisoned(feed: Feed, inputs: torch.Tensor) -> torch.Tensor:
        logits = forward(feed, inputs)
        return logits * torch.nan if armed[0] and torch.is_grad_enabled() else logits

    Job.schedule_lr, Feed.forward = watched, poisoned  # type: ignore[method-assign]


class Slow(Listener):
    """Gives the test time to send its signal, and tells it that training is under way."""

    def __init__(self, delay: float) -> None:
        self.delay = delay

    def on_step(self, row: dict[str, Any]) -> None:
        print("step", row["step"], flush=True)
        time.sleep(self.delay)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--diverge", type=int)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.diverge:
        rollback._STEPS_APART = 4  # an epoch
        poison(options.diverge)
    phases: list[Any] = [phase(batch_size=4, accumulate=2)]
    network = backbone()
    if options.probe:
        phases.insert(0, ProbePhase(candidates=((network.num_stages - 1,),), folds=2))
    settings = recipe(log_every=1, save_every=2)
    listener = Slow(options.delay)
    done = execute(plan(*phases), network, bundle(), settings, options.run, listener, options.resume)
    torch.save(done.state_dict(), options.run / "final.pt")


def serve() -> None:
    """Run one command line after the other, each in a fresh fork: imports are paid once."""
    for module in ("timm", "torchvision", "accelerate", "finetune.data.batches", "finetune.features.extract"):
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                main(json.loads(line))
            except FinetuneError as error:
                print("error", error, flush=True)
                os._exit(error.exit_code)
            except BaseException:
                print("traceback", repr(traceback.format_exc()), flush=True)
                os._exit(1)
            os._exit(0)
        print("pid", child, flush=True)
        _, status = os.waitpid(child, 0)
        print("exit", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
