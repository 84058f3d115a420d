"""What the processes of a training do together at each optimizer step; where there is only one, nothing.

Every process computes the gradients of its share of the step's images, weighted by the images of all shares. Their
sum over the processes is therefore the gradient of the mean over the step's images, whatever the shares are, and
every process takes the same step. Gradients are added up once a step, after the last micro-batch: memory that runs
out in one process is its own affair until the next step, from which on all cut their batches alike.

Li et al. 2020, https://arxiv.org/abs/2006.15704 (PyTorch distributed).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from finetune import ranks
from finetune.training.norms import moving
from finetune.training.sharded import is_sharded
from finetune.training.sync_norms import SyncedNorms

if TYPE_CHECKING:
    from finetune.training.feed import Batch
    from finetune.training.job import Job

_BUCKET = 25 * 2**20
"""Bytes of gradients that are added up at once."""


class United:
    """One phase's processes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.images = 0
        """Of the present step, over all processes."""
        self._share, self._all_have = 1.0, True
        self._statistics: list[Tensor] | None = None
        self._synced: bool | None = None

    @property
    def synced(self) -> bool:
        """Whether batch norms that train see the batches of all processes, which then pass through the network in
        step. Not where batches are cut to fit the memory, each process's in parts of its own."""
        if self._synced is None:
            job = self.job
            wanted = job.desk.sync_norms and job.micro.size is None and not ranks.alone()
            self._synced = wanted and bool(moving(job.backbone))
        return self._synced

    def norms_line(self) -> str | None:
        """What several processes make of batch norms that train; None where there are none or one process."""
        if ranks.alone() or not moving(self.job.backbone):
            return None
        if self.synced:
            return "Batch norms train on whole batches, over all processes (train.sync_norms)."
        return (
            "Batch norms train on each process's share of a batch, not on whole batches; their running statistics are "
            "the mean of all."
        )

    def passes(self) -> AbstractContextManager[object]:
        """Around the forward and backward passes of a step."""
        return SyncedNorms() if self.synced else nullcontext()

    def begin(self, group: list[Batch]) -> int:
        """Before a step: how many images it has, and how many at most go through the network at once."""
        job, mine = self.job, sum(len(labels) for _, labels in group)
        self.images = mine
        if ranks.alone():
            return mine
        told = ranks.numbers(mine, job.micro.size or 0)
        self.images = sum(int(images) for images, _ in told)
        self._share, self._all_have = mine / self.images, all(images for images, _ in told)
        job.micro.follow(min((int(size) for _, size in told if size), default=None))
        if ranks.rank():
            # The main process draws its dropout as a single one would, from the state in the checkpoint. The others
            # draw from where they are alone, so that no checkpoint needs their states.
            place = (job.feed.seed, job.progress.step, len(job.guard.events), ranks.rank())
            torch.manual_seed(int(np.random.default_rng(place).integers(2**63)))
        return self.images

    def end(self, total: Tensor) -> Tensor:
        """After the backward passes: gradients and running statistics of all processes; the mean loss of all."""
        if ranks.alone():
            return total
        job = self.job
        trained = [p for p in job.backbone.parameters() if p.requires_grad]
        if is_sharded(trained):  # their gradients are added up by the backward pass
            trained = []
        if not self._all_have:  # a process without images must not say 0 of what nobody computed
            computed = ranks.any_of(*(p.grad is not None for p in trained))
            trained = [p for p, there in zip(trained, computed, strict=True) if there]
        else:
            trained = [p for p in trained if p.grad is not None]
        add_up_gradients(trained)
        ranks.add_up([total])
        if not self.synced:
            self._unite_statistics()
        return total

    def _unite_statistics(self) -> None:
        """Running statistics are of each process's share; their mean over the images is everybody's."""
        if self._statistics is None:
            buffers = [b for layer in moving(self.job.backbone) for b in layer.buffers(recurse=False)]
            self._statistics = [b for b in buffers if b.is_floating_point()]
        if not self._statistics:
            return
        flat = torch.cat([b.flatten() for b in self._statistics])
        flat = (
            flat * self._share if self._share else torch.zeros_like(flat)
        )  # of no images they are no numbers
        ranks.add_up([flat])
        parts = torch.split(flat, [b.numel() for b in self._statistics])
        for buffer, part in zip(self._statistics, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


@torch.no_grad()
def add_up_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes; one that is missing here counts as 0."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    buckets: list[list[Tensor]] = []
    room, kind = 0, None
    for parameter in parameters:
        grad = parameter.grad
        assert grad is not None
        size = grad.numel() * grad.element_size()
        if size > room or grad.dtype != kind:
            buckets.append([])
            room, kind = _BUCKET, grad.dtype
        buckets[-1].append(grad)
        room -= size
    flats = [torch.cat([grad.reshape(-1) for grad in bucket]) for bucket in buckets]
    ranks.add_up(flats)
    for bucket, flat in zip(buckets, flats, strict=True):
        for grad, part in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
            grad.copy_(part.view_as(grad))
