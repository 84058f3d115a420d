"""TensorBoard: event files in the run folder. ``tensorboard --logdir runs`` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import final

from finetune.training.trackers.base import Tracked, Tracker


@final
class TensorBoard(Tracker):
    """Scalars, the recipe as text, the figures as images, in ``tensorboard/`` of the run folder."""

    package, extra, replaces = "tensorboard", "tensorboard", True

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Readers drop what an interrupted attempt wrote at and after the purge step.
        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=run.first)
        if run.first is None:
            self._writer.add_text("recipe", f"```yaml\n{run.recipe}```")
        self._last = 0

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._last = step
        self._writer.flush()

    def picture(self, name: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, self._last, dataformats="HWC")

    def close(self, finished: bool) -> None:
        self._writer.close()
