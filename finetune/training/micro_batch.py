"""Micro-batches that fit the memory: chosen before a phase begins, halved where memory runs out in it.

A batch is cut into parts whose gradients are added up, so that every optimizer step sees the same images with
the same weights whatever the parts are. What differs is float rounding, dropout, and batch norms that train:
those take their statistics from the part.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from finetune.data.memory import available_memory
from finetune.errors import TrainingError

if TYPE_CHECKING:
    from finetune.training.feed import Batch
    from finetune.training.job import Job

T = TypeVar("T")

_WORDS = ("out of memory", "not enough memory", "can't allocate memory")
"""How CUDA and MPS, Windows, and torch's allocator on Linux say it."""
_SHARE = 0.5
"""Of the free memory that activations may take on a CPU or MPS, where an attempt too large ends the process."""
_STATES = 2
"""Tensors that an optimizer keeps for each parameter, at most."""


class MicroBatches:
    """How one phase's batches are cut into parts. ``size`` None: not at all."""

    def __init__(self, job: Job) -> None:
        self.job, self.size = job, None  # type: tuple[Job, int | None]

    def limit(self, size: int | None) -> None:
        """Let at most ``size`` images through the network at once; norms freeze where it is a single one."""
        self.size = size
        if size == 1:  # statistics of a single image are no statistics
            self.job.backbone.freeze_norms(True)

    def follow(self, size: int | None) -> None:
        """Take ``size``, the least of all processes, where memory ran out in another one."""
        if size is None or size == self.size:
            return
        before = self.size
        self.limit(size)
        self._note(before, "in another process")
        self.job.desk.listener.on_message(
            f"Out of memory in another process: from here on {size} images at a time in every one; an optimizer step "
            "still sees the same images."
        )

    def cut(self, batches: list[Batch]) -> Iterator[Batch]:
        """The parts of some batches, in order, each batch's about equal; no part of one image but where all are."""
        for inputs, labels in batches:
            if len(labels) == 0 and not self._in_step:  # this process has no share of it
                continue
            yield from zip(split(inputs, self.size), split(labels, self.size), strict=True)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (B, K) for evaluation; without gradients only."""

        def work() -> Tensor:
            parts = [self.job.feed.forward(part) for part in split(inputs, self.size)]
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        return self.fitted(work, len(inputs))

    def fitted(self, work: Callable[[], T], images: int) -> T:
        """What ``work`` returns, called again with half the size as long as memory runs out in it.

        ``work`` must leave nothing behind but gradients, which are cleared in between. Raises TrainingError
        where even single images are too many.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                said = str(error).partition("\n")[0]
            # Outside the handler, where the traceback no longer holds the activations.
            self._halve(min(self.size or images, images), said)

    @property
    def _in_step(self) -> bool:
        """Whether all processes must run the network equally often."""
        return self.job.feed.lockstep or self.job.united.synced

    def _halve(self, size: int, said: str) -> None:
        job = self.job
        gc.collect()  # what cycles of the failed pass still hold
        job.engine.clear()
        place = f"epoch {job.progress.epoch + 1} step {job.progress.step + 1} of phase {job.phase.name!r}"
        if size == 1:
            raise TrainingError(
                f"Memory runs out at {place} even with a single image at a time ({said}). Train fewer stages "
                "(strategy partial, or linear), take smaller images (data.image_size) or a smaller backbone, or end "
                "other programs."
            )
        if self._in_step:
            why, cure = "with train.shard", ""
            if not job.feed.lockstep:
                why, cure = "with batch norms over all processes", ", or train.sync_norms=false"
            raise TrainingError(
                f"Memory runs out at {place} ({said}), and {why} no process can cut its batches by itself. "
                f"Take a smaller train.batch_size with a larger train.accumulate, or more processes{cure}."
            )
        self.limit(size // 2)
        self._note(size, said)
        norms = " Batch norms now see so many at a time." if job.phase.batch_norm == "train" else ""
        job.desk.listener.on_message(
            f"Out of memory at {place}: from here on {self.size} instead of {size} images at a time; an optimizer "
            f"step still sees the same images.{norms}"
        )

    def _note(self, before: int | None, said: str) -> None:
        """Into the run's record."""
        job = self.job
        facts = job.desk.record.phase(job.index)
        event = {"step": job.progress.step + 1, "from": before, "to": self.size, "reason": said}
        facts["out_of_memory"] = [*facts.get("out_of_memory", []), event]
        job.desk.record.save()


def split(tensor: Tensor, size: int | None) -> tuple[Tensor, ...]:
    """Views of at most ``size`` rows each, of about equal length.

    A single row by itself would stop batch norms, so two parts become one where that avoids it.

    >>> [[len(part) for part in split(torch.zeros(9), size)] for size in (None, 9, 8, 4, 2, 1)]
    [[9], [9], [5, 4], [3, 3, 3], [3, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1, 1]]
    """
    n = len(tensor)
    if size is None or n <= size:
        return (tensor,)
    count = -(-n // size)
    if size > 1 and n // count == 1:
        count = max(1, n // 2)
    return torch.tensor_split(tensor, count)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that memory ran out, on any device.

    >>> out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    """
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in _WORDS)


def shrinking(batch: Tensor, work: Callable[[Tensor], T]) -> T:
    """``work(batch)``, or with as many images less as memory asks for, half of them at a time."""
    while True:
        try:
            return work(batch)
        except RuntimeError as error:
            if not out_of_memory(error) or len(batch) == 1:
                raise
        batch = batch[: len(batch) // 2]


def settle(job: Job) -> None:
    """Apply the phase's ``micro_batch``; what ``auto`` finds is kept for a resumed run. Raises TrainingError."""
    asked = job.phase.micro_batch
    if asked == "auto":
        find = largest_that_fits if job.engine.device.type == "cuda" else estimated
        size = job.desk.record.once(f"micro-batch of phase {job.index}", lambda: find(job))
    elif asked is not None:
        size = asked
    else:
        return
    if size < job.phase.batch_size:
        job.micro.limit(size)
        if asked == "auto":
            job.desk.say_once(
                f"Batches of {job.phase.batch_size} images go through the network {size} at a time."
            )


def largest_that_fits(job: Job) -> int:
    """The whole batch, or the half, the quarter ... of it, of which a training step's forward and backward fit.

    Room for the optimizer's tensors is kept free meanwhile. Weights, running statistics and random state stay.
    """
    trained = sum(p.numel() * p.element_size() for p in job.backbone.parameters() if p.requires_grad)
    size = job.phase.batch_size
    with _untouched(job):
        sample = _sample(job)
        while (said := _attempt(job, sample, size, _STATES * trained)) is not None:
            job.engine.clear()
            if size == 1:
                raise TrainingError(
                    f"Not even a single image fits into the device's memory ({said}). Train fewer stages (strategy "
                    "partial, or linear), or take smaller images (data.image_size) or a smaller backbone."
                )
            size //= 2
    return size


def estimated(job: Job) -> int:
    """The whole batch, or the half, the quarter ... of it, whose activations fit into half the free memory.

    What one image keeps for the backward pass is measured on two; nothing large is tried, since a CPU's system
    ends a process that takes too much instead of refusing.
    """
    size = job.phase.batch_size
    with _untouched(job):
        each = _activation_bytes(job, _sample(job))
    while size > 1 and size * each > _SHARE * available_memory():
        size //= 2
    return size


def _activation_bytes(job: Job, sample: Tensor) -> int:
    """Bytes a training image that autograd keeps for the backward pass, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in job.backbone.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = sample.expand(2, *sample.shape[1:]).contiguous()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), job.engine.autocast():
        logits = job.feed.forward(inputs)
    del logits
    return max(1, sum(kept.values()) // 2)


def _attempt(job: Job, sample: Tensor, size: int, reserve: int) -> str | None:
    """Forward and backward with ``reserve`` bytes kept free; what torch says where memory runs out, else None."""
    try:
        room = torch.empty(reserve, dtype=torch.uint8, device=job.engine.device)
        inputs = sample.expand(size, *sample.shape[1:]).contiguous()
        with job.engine.autocast():
            logits = job.feed.forward(inputs)
        job.engine.backward(logits.float().logsumexp(1).mean())
        del room
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return str(error).partition("\n")[0]
    return None


def _sample(job: Job) -> Tensor:
    """One training input (1, ...), as the network gets it."""
    (inputs, _), *_ = itertools.islice(job.feed.train(0), 1)
    return inputs[:1]


@contextlib.contextmanager
def _untouched(job: Job) -> Iterator[None]:
    """Inside the block the network trains; afterwards its buffers, gradients and the random state are as before."""
    device, network = job.engine.device, job.backbone
    buffers = {name: tensor.clone() for name, tensor in network.named_buffers()}
    was = network.training
    network.train()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in network.named_buffers():
                tensor.copy_(buffers[name])
        network.train(was)
        job.engine.clear()
