"""Images of a batch mixed with each other, and noise on them: on the device, after normalising.

What is drawn comes from (seed, epoch, batch) alone, so a run that is gone on with mixes as before. The
mixing is torchvision's (``transforms.v2.MixUp``, ``CutMix``): image i meets image i - 1 of its batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from finetune.compiler import without_compiler
from finetune.strategy.plan import GradientPhase

_MIX, _NOISE = 3, 4
"""Beside the numbers that order and augmentation are drawn with."""


def disturbs(phase: GradientPhase) -> bool:
    """Whether the phase changes its batches on the device."""
    return bool(phase.mixup or phase.cutmix or phase.input_noise)


class Disturbance:
    """Mixup or CutMix, then noise, as a phase asks."""

    def __init__(self, phase: GradientPhase, classes: int, seed: int) -> None:
        with without_compiler():
            from torchvision.transforms import v2

        self.seed, self.noise = seed, phase.input_noise
        self.mixers: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if phase.mixup:
            self.mixers.append(v2.MixUp(alpha=phase.mixup, num_classes=classes))
        if phase.cutmix:
            self.mixers.append(v2.CutMix(alpha=phase.cutmix, num_classes=classes))

    @property
    def mixes(self) -> bool:
        """Whether an image meets the one before it in its batch."""
        return bool(self.mixers)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        epoch: int,
        batch: int,
        share: tuple[int, int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) normalised images and (B,) classes -> mixed images and (B, K) shares of the classes.

        The labels stay classes where nothing is mixed. ``share``: where the rows begin and end in the batch, and
        its size; where something is mixed a share comes with the row before it, which goes again.
        """
        begin, end, whole = share or (0, len(images), len(images))
        if self.mixers:
            rng = np.random.default_rng((self.seed, _MIX, epoch, batch))
            mixer = self.mixers[int(rng.integers(len(self.mixers)))]
            with torch.random.fork_rng(devices=[]):
                # torchvision draws from the processor's generator. That of a GPU, which dropout draws from,
                # is left alone: torch.manual_seed would set it too.
                torch.default_generator.manual_seed(int(rng.integers(2**63)))
                images, labels = mixer(images, labels)
            images, labels = images[len(images) - (end - begin) :], labels[len(labels) - (end - begin) :]
        if self.noise:
            drawn = np.random.default_rng((self.seed, _NOISE, epoch, batch)).integers(2**63)
            generator = torch.Generator(images.device).manual_seed(int(drawn))
            noise = torch.randn(
                (whole, *images.shape[1:]), generator=generator, device=images.device, dtype=images.dtype
            )
            images = images + self.noise * noise[begin:end]
        return images, labels
