"""One trial: a run without its test, watched by the pruner, judged on the validation images."""

from __future__ import annotations

import copy
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.advice import Setup, planned
from finetune.events import Listener
from finetune.recipe import Recipe
from finetune.run_folder import RunFolder
from finetune.search.measure import SCORES
from finetune.strategy.plan import GradientPhase, Plan

if TYPE_CHECKING:
    import optuna

VAL = "val.npz"
"""In a trial's folder: ``losses`` (V,) float64 and ``right`` (V,) bool or float64 of each validation image."""


class Dropped(Exception):
    """A trial ends before its schedule does; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What a finished trial says of the validation images."""

    losses: np.ndarray
    """(V,) of the task, see evaluation/each.py: of classes nats."""
    right: np.ndarray
    """(V,) score of each image: of classes bool, of another task float64."""
    seconds: float
    head_alone: bool = False
    """Whether the safety net, or the best epoch, left nothing of the training."""

    @property
    def log_loss(self) -> float:
        """Mean of the losses, whatever the task calls it."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Mean of the scores: of classes the share of right answers, else F1 or R2."""
        return float(self.right.mean())

    def save(self, folder: Path) -> None:
        """Into val.npz, to compare trials image by image."""
        np.savez(folder / VAL, losses=self.losses, right=self.right)

    @classmethod
    def load(cls, folder: Path, seconds: float = 0.0) -> Outcome | None:
        """What ``save`` wrote; None where it is gone."""
        try:
            with np.load(folder / VAL, allow_pickle=False) as kept:
                return cls(kept["losses"], kept["right"], seconds)
        except (OSError, ValueError, KeyError):
            return None


class Watch(Listener):
    """Hands a trial's figures to its pruner and drops it where it is hopeless or the time is up.

    ``metric``: see measure.py. A training that diverges ends by itself (training/rollback.py).
    """

    def __init__(
        self,
        outer: Listener,
        trial: optuna.Trial,
        *,
        metric: str,
        keep: bool = False,
        deadline: float | None = None,
        alive: Any = lambda: True,
    ) -> None:
        self.outer, self.trial, self.keep, self.deadline, self.alive = outer, trial, keep, deadline, alive
        self._key = f"val_{metric}" if metric in SCORES else "val_loss"
        self._epochs = 0

    def on_row(self, row: dict[str, Any]) -> None:
        """A row of the trial's metrics."""
        value = row.get(self._key)
        if row.get("kind") == "epoch" and row.get("epoch", 0) > 0 and isinstance(value, float):
            self._epochs += 1
            self.trial.report(value, self._epochs)
            if not self.keep and self.trial.should_prune():
                raise Dropped(f"worse than others after {self._epochs} epochs")

    def on_step(self, row: dict[str, Any]) -> None:
        self._check()
        self.outer.on_step(row)

    def on_epoch(self, row: dict[str, Any]) -> None:
        self._check()

    def on_progress(self, what: str, done: int, total: int) -> None:
        self.outer.on_progress(what, done, total)

    def _check(self) -> None:
        if self.deadline is not None and time.time() > self.deadline:
            raise Dropped("the time is up")
        if not self.alive():
            raise KeyboardInterrupt


def run_trial(recipe: Recipe, setup: Setup, path: Path, listener: Listener, undo: bool = True) -> Outcome:
    """Carry out ``recipe`` in the run folder ``path`` up to its test, and judge it on the validation images.

    Without ``undo`` the first divergence ends it: what goes back halves its learning rate, and its figures would not
    be those of the values that were tried. Where the recipe says how often to go back, that counts.
    ``finetune resume`` makes a whole run of the folder. Raises FinetuneError and what the listener raises.
    """
    from finetune.evaluation.each import each_loss, each_score
    from finetune.evaluation.predict import predict_images
    from finetune.pipeline import starting_backbone
    from finetune.training.execute import execute
    from finetune.training.trackers.told import tracked

    began = time.perf_counter()
    folder, bundle = RunFolder(path), setup.bundle
    plan, decision = planned(recipe, setup, listener)
    folder.create(recipe)
    folder.write_text("plan.yaml", plan.to_yaml())
    folder.write_json("decision.json", decision.to_dict())
    backbone = starting_backbone(plan, recipe, bundle, setup.backbone)
    if backbone is setup.backbone:
        backbone = copy.deepcopy(backbone)
    with tracked(recipe, path, listener, False) as told:
        unchecked = recipe.override("train.preflight=false")  # trials are many, and alike in what it looks at
        if not undo and "rollbacks" not in recipe.train.model_fields_set:
            unchecked = unchecked.override("train.rollbacks=0")
        backbone = execute(plan, backbone, bundle, unchecked, path, told)
    answers = predict_images(
        backbone, bundle.val, cache=untouched(plan) and recipe.probe.cache, threads=recipe.data.workers
    )
    judged = (bundle.task, bundle.val.targets, answers)
    seconds = time.perf_counter() - began
    folder.write_json("timing.json", {"seconds": seconds})
    kept = folder.kept() or {}
    head_alone = kept.get("blend", kept.get("epoch")) == 0
    outcome = Outcome(each_loss(*judged), each_score(*judged), seconds, head_alone)
    outcome.save(path)
    return outcome


def untouched(plan: Plan) -> bool:
    """Whether the network below the head stays the pretrained one."""
    return plan.init == "pretrained" and not any(isinstance(p, GradientPhase) for p in plan.phases)


def slim(path: Path) -> None:
    """Keep the figures of a trial and drop its weights; the recipe makes them again."""
    shutil.rmtree(path / "checkpoints", ignore_errors=True)


def precision_of(plan: Plan, setup: Setup, recipe: Recipe, trials: int) -> dict[str, Any]:
    """``precision`` and ``channels_last`` for all trials alike, measured once; empty where nothing trains."""
    from finetune.data.batches import TrainBatches
    from finetune.data.threads import worker_count
    from finetune.training.precision import choose_precision

    phase = next((p for p in plan.phases if isinstance(p, GradientPhase)), None)
    if phase is None:
        return {}
    model = copy.deepcopy(setup.backbone)
    model.freeze_below(phase.train_from)
    images = setup.bundle.train
    batches = TrainBatches(
        images, model.preprocessing, phase.policy, phase.batch_size, recipe.seed,
        worker_count(recipe.data.workers), avoid=phase.avoid,
    )  # fmt: skip
    pixels, _ = next(iter(batches.epoch(0)))
    found = choose_precision(
        model,
        lambda network, x: network(x),
        model.preprocessing.normalise(pixels.to(setup.device)),
        device=setup.device,
        wanted=recipe.train.precision,
        channels_last=recipe.train.channels_last,
        images=trials * phase.epochs * len(images),
    )
    return {"precision": found.dtype, "channels_last": found.channels_last}
