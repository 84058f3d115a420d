"""Weights & Biases. ``WANDB_MODE=offline`` keeps everything in the run folder; ``wandb sync`` uploads it later."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import final

from finetune.training.trackers.base import Tracked, Tracker


@final
class WeightsAndBiases(Tracker):
    """A run of the project ``finetune``, or of ``$WANDB_PROJECT``; wandb's own environment variables count."""

    package, extra = "wandb", "wandb"

    def __init__(self, run: Tracked) -> None:
        import wandb

        run.memory.setdefault("id", uuid.uuid4().hex[:8])
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "finetune"),
            name=run.folder.name,
            id=run.memory["id"],
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config=dict(run.parameters),
            # The terminal is the run's own, and code and git state are nobody's business unasked.
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, name: str, path: Path) -> None:
        self._run.log({name: self._image(str(path))})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)
