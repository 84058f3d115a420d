"""The policy ``rich`` an image at a time, for the loader: its batched form on a batch of one."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from finetune.augment.draws import Draws, Generated
from finetune.augment.rich import Rich as RichBatch
from finetune.data.augment import FAMILIES, Cropped
from finetune.data.mirroring import Picture
from finetune.data.scaled import as_picture


class Rich(Cropped):
    """Every operation there is, each at a mild strength."""

    scale, ratio, families = RichBatch.scale, RichBatch.ratio, RichBatch.families

    def pixels(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        # Where nothing is to be cropped, ``original`` has given the evaluation image.
        kind = Whole if "crop" in self.avoid else RichBatch
        return _one(kind(self.prep, self.flip, self.avoid), as_picture(image), rng)

    def alone(self, family: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if family not in ("colour", "rotation"):
            return super().alone(family, image, rng)
        policy = Whole(self.prep, False, [f for f in FAMILIES if f != family])
        policy.rare = False
        return _one(policy, self.whole(image), rng)


class Whole(RichBatch):
    """The policy on images that are what evaluation shows already."""

    def boxes(self, draws: Draws, aspects: np.ndarray) -> np.ndarray:
        return np.tile([0.0, 0.0, 1.0, 1.0], (len(aspects), 1))


def _one(policy: RichBatch, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    made = policy(pixels, Generated(rng), np.array([image.width / image.height]))
    return made[0].permute(1, 2, 0).numpy()
