"""The policy ``rich`` an image at a time, for the loader: its batched form on a batch of one."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from finetune.augment.draws import Generated
from finetune.augment.rich import Rich as RichBatch
from finetune.augment.rich import left_out
from finetune.data.augment import FAMILIES, Cropped
from finetune.data.mirroring import Picture
from finetune.data.preprocessing import Preprocessing
from finetune.data.scaled import as_picture


class Rich(Cropped):
    """Every operation there is, each at a mild strength."""

    scale, ratio, families = RichBatch.scale, RichBatch.ratio, RichBatch.families
    parts: ClassVar[tuple[str, ...]] = RichBatch.parts
    """The operations that there are."""

    def __init__(self, prep: Preprocessing, flip: bool = True, avoid: Collection[str] = ()) -> None:
        super().__init__(prep, flip, {*avoid, *left_out(self.parts)})
        same = {"parts": self.parts, "crop_by": self.crop_by}
        self._batched: type[RichBatch] = type("Batch", (RichBatch,), same)
        self._policy = self._batched(prep, self.flip, self.avoid)
        # Where nothing is to be cropped, ``original`` has given the evaluation image.
        self._policy.whole = "crop" in self.avoid

    def pixels(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        return _one(self._policy, as_picture(image), rng)

    def alone(self, family: str, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if family not in self.families:
            raise KeyError(family)
        if family not in ("colour", "rotation"):
            return super().alone(family, image, rng)
        policy = self._batched(self.prep, False, [f for f in FAMILIES if f != family])
        policy.whole, policy.rare = True, False
        return _one(policy, self.whole(image), rng)


class Composed(Rich):
    """``parts`` alone, each as ``rich`` has it."""


def _one(policy: RichBatch, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    made = policy(pixels, Generated(rng), np.array([image.width / image.height]))
    return made[0].permute(1, 2, 0).numpy()
