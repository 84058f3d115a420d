"""Where a phase's batches come from, and the way from a batch to the logits.

Batches are uint8 images, or, where the frozen part of the network would give the same activations every
epoch, those activations, computed once: always for the validation images, for the training images where the
phase does not augment, mix or add noise. ``forward`` takes either. Of several processes each has its share of every
batch and of the validation images.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from finetune import ranks
from finetune.augment.device import DeviceBatches
from finetune.data.batches import TrainBatches, eval_tensor, share_rows, to_device
from finetune.strategy.plan import GradientPhase
from finetune.training.mixing import Disturbance, disturbs
from finetune.training.objectives import objective_of
from finetune.training.precision import Precision

if TYPE_CHECKING:
    from finetune.data.imageset import DataBundle, ImageSet
    from finetune.zoo.backbone import Backbone

Batch = tuple[Tensor, Tensor]
_MEMORY_SHARE = 0.25
"""Activations are kept where they fit in this share of the machine's memory ..."""
_GROWTH = 16
"""... and are at most this many times the image's bytes: larger ones come from early stages, cheap to run."""


class Feed:
    """The batches of one phase, on the device, and the network behind them."""

    def __init__(
        self,
        backbone: Backbone,
        bundle: DataBundle,
        phase: GradientPhase,
        *,
        seed: int,
        threads: int,
        device: torch.device,
        lockstep: bool = False,
    ) -> None:
        self.backbone, self.phase, self.device, self.seed = backbone, phase, device, seed
        self.threads = threads
        self.lockstep = lockstep
        """Whether all processes must run the network equally often, and as a whole: a sharded one."""
        self.split = 0 if lockstep else _cut(backbone, phase.train_from)
        prep = backbone.preprocessing
        self.objective = objective_of(bundle.train)
        self.classes = tuple(bundle.classes)
        self.train_labels = self.objective.targets(bundle.train)
        kind = partial(DeviceBatches, device=device) if phase.on_device else TrainBatches
        self._train: TrainBatches = kind(
            bundle.train, prep, phase.policy, phase.batch_size, seed, threads, avoid=phase.avoid,
            balanced=phase.sampling == "balanced", targets=self.train_labels,
        )  # fmt: skip
        self._disturb = Disturbance(phase, len(self.classes), seed) if disturbs(phase) else None
        self.val_labels = self.objective.targets(bundle.val)
        mine = range(*ranks.rows(len(bundle.val)))
        self._val = eval_tensor(bundle.val.subset(mine), prep, threads)  # (N, 3, S, S) uint8
        self._val_mine = self.val_labels[mine.start : mine.stop]
        self._train_hidden: Tensor | None = None
        self._precision = Precision("fp32", False)
        self._fixed_images = (
            (lambda: eval_tensor(bundle.train, prep, threads))
            if phase.augment == "none" and self._disturb is None
            else None
        )
        self._image_shape = (3, prep.size, prep.size)

    def sample(self) -> Tensor:
        """One batch of training images on the device, normalised: (B, 3, S, S) float32."""
        images, _ = next(iter(self._train.epoch(0)))
        return self.backbone.preprocessing.normalise(images.to(self.device))

    def prepare(self, precision: Precision) -> str | None:
        """Compute once what would be the same in every epoch; a sentence about it, or None."""
        self._precision = precision
        if not self.split:
            return None
        kept = []
        self.backbone.eval()
        hidden = self._hidden(self._val) if len(self._val) else None
        if hidden is not None:
            self._val = hidden
            kept.append("validation")
        if self._fixed_images is not None:
            self._train_hidden = self._hidden(self._fixed_images())
            kept += ["training"] if self._train_hidden is not None else []
        where = f"the frozen stages 0 to {self.split - 1} run once"
        if not kept:
            return None
        return f"{' and '.join(kept).capitalize()} images: {where}; activations kept in memory."

    @torch.no_grad()
    def _hidden(self, images: Tensor) -> Tensor | None:
        """Activations entering the first trained stage for (N, 3, S, S) uint8 images; None if too large."""
        kept: Tensor | None = None
        for start in range(0, len(images), self.phase.batch_size):
            hidden = self._prefix(images[start : start + self.phase.batch_size].to(self.device))
            if kept is None:
                size = hidden[0].numel() * hidden.element_size()
                if hidden.shape[1:] == self._image_shape:
                    return None  # ``forward`` tells activations from images by their shape
                room = _MEMORY_SHARE * _memory_bytes() / ranks.local_world()
                if size * len(images) > room or size > _GROWTH * images[0].numel():
                    return None
                kept = torch.empty((len(images), *hidden.shape[1:]), dtype=hidden.dtype)
            kept[start : start + len(hidden)] = hidden.cpu()
        return kept

    def _arranged(self, images: Tensor) -> Tensor:
        """Normalised, in the layout that the network computes in."""
        normalised = images if images.is_floating_point() else self.backbone.preprocessing.normalise(images)
        return self._precision.arrange(normalised)

    def _prefix(self, images: Tensor) -> Tensor:
        x = self._arranged(images)
        if self.split == self.backbone.num_stages:
            taps = self.backbone.taps(x)
            return torch.cat([taps[i] for i in self.backbone.head_taps], 1)
        return self.backbone.prefix(x, self.split)

    def _suffix(self, hidden: Tensor) -> Tensor:
        if self.split == self.backbone.num_stages:
            logits: Tensor = self.backbone.head(hidden)
            return logits
        return self.backbone.suffix(self._precision.arrange(hidden), self.split)

    def __len__(self) -> int:
        """Micro-batches an epoch."""
        return len(self._train)

    @property
    def images(self) -> int:
        """Training images an epoch."""
        return len(self.train_labels)

    def resident(self) -> float:
        """Share of the training images that need no decoding after the first epoch, in [0, 1]; an estimate."""
        return self._train.resident() if self._train_hidden is None else 1.0

    def train(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch from number ``start`` on: their order comes from (seed, epoch) alone.

        Images come as uint8, or as normalised floats where the phase mixes them or adds noise; mixed labels
        are (B, K) shares of the classes.
        """
        mixes = self._disturb is not None and self._disturb.mixes
        source = (
            self._train.epoch(epoch, start, mixes)
            if self._train_hidden is None
            else self._cached(epoch, start)
        )
        for number, (inputs, labels) in enumerate(source, start):
            inputs, labels = to_device((inputs, labels), self.device)
            if self._disturb is not None and len(labels):
                images = self.backbone.preprocessing.normalise(inputs)
                whole = self._train.size(number)
                inputs, labels = self._disturb(images, labels, epoch, number, (*ranks.rows(whole), whole))
            yield inputs, labels

    def _cached(self, epoch: int, start: int) -> Iterator[Batch]:
        assert self._train_hidden is not None
        order, size = torch.from_numpy(self._train.order(epoch)), self.phase.batch_size
        for number in range(start, len(self)):
            # As TrainBatches does: a single image that is left over joins the last batch.
            end = None if number == len(self) - 1 else (number + 1) * size
            chosen = order[number * size : end]
            chosen = chosen[share_rows(len(chosen))]
            yield self._train_hidden[chosen], self.train_labels[chosen]

    @property
    def train_images(self) -> ImageSet:
        """The training images themselves."""
        return self._train.images

    def step_images(self, epoch: int, first: int, count: int) -> tuple[Tensor, Tensor, list[int]]:
        """Micro-batches ``first`` to ``first + count`` once more: (B, 3, S, S) uint8, (B,) labels, B indices."""
        parts = list(itertools.islice(self._train.epoch(epoch, first), count))
        images, labels = torch.cat([p[0].cpu() for p in parts]), torch.cat([p[1] for p in parts])
        begin = first * self.phase.batch_size
        return images, labels, self._train.order(epoch)[begin : begin + len(labels)].tolist()

    def validation(self) -> Iterator[Batch]:
        """Validation batches of this process's share in order; none where that is empty.

        In lockstep as many as the largest share has, the last ones without images.
        """
        size, most = 2 * self.phase.batch_size, len(self._val_mine)
        if self.lockstep:
            most = ranks.share_of(len(self.val_labels), 0, ranks.world())[1]
        for start in range(0, most, size):
            inputs, labels = to_device(
                (self._val[start : start + size], self._val_mine[start : start + size]), self.device
            )
            yield inputs, labels

    @torch.no_grad()
    def entering(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, S, S) -> the activations that enter the trained part; the images where nothing is
        cut. ``forward`` takes either."""
        hidden = self._prefix(images) if self.split else images
        return images if hidden.shape[1:] == self._image_shape else hidden

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, S, S), uint8 or normalised, or kept activations (B, ...) -> (B, K) logits."""
        if inputs.shape[1:] != self._image_shape:
            return self._suffix(inputs)
        if not self.split:
            logits: Tensor = self.backbone(self._arranged(inputs))
            return logits
        with torch.no_grad():
            hidden = self._prefix(inputs)
        return self._suffix(hidden)


def _cut(backbone: Backbone, stage: int) -> int:
    """Where the network is cut in a frozen and a trained part; 0 where it cannot be cut at that stage."""
    if stage == backbone.num_stages:
        return stage
    possible = stage > 0 and backbone.can_split(stage) and min(backbone.head_taps) >= stage
    return stage if possible else 0


def _memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 << 30
