"""From the loader to augmented batches on the device: whole images come up, augmented ones come out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.augment.draws import Counted
from finetune.augment.policies import Batched, batched
from finetune.data.augment import Augmentation
from finetune.data.batches import TrainBatches, share_rows, to_device
from finetune.data.imageset import ImageSet
from finetune.data.mirroring import Picture
from finetune.data.order import returns
from finetune.data.preprocessing import Preprocessing
from finetune.data.scaled import Scaled
from finetune.data.transforms import resize


class Squared(Augmentation):
    """What the loader does for a batched policy: every image whole, resized once to a square of one size.

    Its width over height is known from elsewhere; crops take it into account.
    """

    def __init__(self, prep: Preprocessing, side: int) -> None:
        super().__init__(prep)
        self.side = self.short = side

    @property
    def keeps(self) -> dict[str, Any]:
        return {"square": self.side, "interpolation": self.prep.interpolation}

    def original(self, image: Image.Image | Scaled) -> Image.Image:
        return resize(image, (self.side, self.side), self.prep.interpolation)

    def pixels(self, image: Picture, rng: np.random.Generator) -> np.ndarray:
        return np.asarray(image)


class DeviceBatches(TrainBatches):
    """TrainBatches whose images are augmented on a device, a batch at a time.

    Order, batches and labels are those of TrainBatches; the augmentation of a sample comes from (seed, epoch, sample)
    alone, whatever batch or process it is in. Arguments are those of TrainBatches, ``device`` beside them. Raises
    ConfigError where the policy has no batched form.
    """

    def __init__(
        self, images: ImageSet, prep: Preprocessing, policy: str, *args: Any, device: torch.device,
        flip: bool | None = None, avoid: Collection[str] = (), **keys: Any,
    ) -> None:  # fmt: skip
        super().__init__(images, prep, "none", *args, flip=flip, **keys)
        self.policy: Batched = batched(policy, prep, self.flip, avoid)
        self.augmentation = Squared(prep, self.policy.kept)
        self.device = device
        self._aspects = np.zeros(len(images))

    def epoch(self, epoch: int, start: int = 0, neighbour: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches number ``start`` and on, as those of TrainBatches, the images on the device."""
        order = self.order(epoch)
        again = returns(order)
        for number, (images, labels) in enumerate(super().epoch(epoch, start, neighbour), start):
            begin = number * self.batch_size
            rows = begin + share_rows(self.size(number), neighbour)
            samples = order[rows]
            draws = Counted(self.seed, epoch, samples, again[rows])
            (whole,) = to_device([images], self.device)
            yield self.policy(whole, draws, self.aspects(samples)) if len(samples) else whole, labels

    def aspects(self, samples: np.ndarray) -> np.ndarray:
        """(B,) width over height of the images as they are."""
        for sample in samples[self._aspects[samples] == 0]:
            info = self.images.info(int(sample))
            self._aspects[sample] = info.width / info.height
        found: np.ndarray = self._aspects[samples]
        return found
