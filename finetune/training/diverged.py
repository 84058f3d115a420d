"""The batch at which training was seen to diverge, kept in the run folder for a person to look at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from finetune.files import atomic_path, atomic_write_json

if TYPE_CHECKING:
    from finetune.training.job import Job

FOLDER = "diverged"
_PICTURES = 64
"""At most this many images are shown ..."""
_SIDE = 128
"""... of at most this many pixels a side."""
_LISTED = 1024
"""At most this many images are listed."""


def save_batch(job: Job, reason: str) -> Path | None:
    """Write the images of the last finished step; the picture's path, or None where no step was done.

    ``diverged/phase0-step123.png`` shows them as the network saw them, row by row; the ``.json`` beside it lists
    their names, indices in the training split and labels. Raises RunError (full disk).
    """
    if job.last_step is None:
        return None
    epoch, first, count = job.last_step
    images, _, indices = job.feed.step_images(epoch, first, count)  # (B, 3, S, S) uint8
    source = job.feed.train_images
    stem = job.desk.record.path.parent / FOLDER / f"phase{job.index}-step{job.progress.step}"
    facts = {
        "reason": reason,
        "phase": job.phase.name,
        "epoch": epoch + 1,
        "step": job.progress.step,
        "lr_scale": job.guard.lr_scale,
        "images": [
            {"index": index, "name": source.name(index), "label": source.truth(index)}
            for index in indices[:_LISTED]
        ],
    }
    with atomic_path(stem.with_suffix(".png")) as temporary:
        contact_sheet(images[:_PICTURES]).save(temporary, format="png")
    atomic_write_json(stem.with_suffix(".json"), facts)
    return stem.with_suffix(".png")


def contact_sheet(images: Tensor) -> Image.Image:
    """(B, 3, S, S) uint8 images side by side, row by row, in about a square.

    >>> contact_sheet(torch.zeros(5, 3, 8, 8, dtype=torch.uint8)).size
    (24, 16)
    """
    stride = -(-images.shape[-1] // _SIDE)
    small = images[:, :, ::stride, ::stride]
    side, columns = small.shape[-1], math.ceil(math.sqrt(len(small)))
    rows = -(-len(small) // columns)
    sheet = torch.zeros(3, rows * side, columns * side, dtype=torch.uint8)
    for number, image in enumerate(small):
        row, column = divmod(number, columns)
        sheet[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = image
    return Image.fromarray(sheet.permute(1, 2, 0).numpy())
