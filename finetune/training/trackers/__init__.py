"""Other programs that draw the curves. metrics.jsonl and metrics.csv are written with or without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.registry import Registry

if TYPE_CHECKING:
    from finetune.training.trackers.base import Tracker

TRACKERS: Registry[type[Tracker]] = Registry("tracker")
TRACKERS.add(
    "tensorboard", "finetune.training.trackers.tensorboard:TensorBoard", "event files in the run folder"
)
TRACKERS.add(
    "wandb", "finetune.training.trackers.wandb:WeightsAndBiases", "Weights & Biases, online or offline"
)
TRACKERS.add("mlflow", "finetune.training.trackers.mlflow:MLflow", "a run in the MLflow tracking store")
