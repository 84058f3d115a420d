"""The loop: fit, train_epoch, train_step, evaluate. It executes a phase and knows nothing of strategies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from finetune.training.desk import Scores
from finetune.training.feed import Batch
from finetune.training.job import Job
from finetune.training.meter import Meter
from finetune.training.rollback import recovering


def fit(job: Job) -> None:
    """Train from where the job's progress stands to its last epoch; the best weights end up in the model.

    Raises Interrupted after saving, TrainingError where training diverges for good, RunError on a full disk.
    """
    with job.saved_when_stopped():
        job.begin()
        while not job.over:
            with recovering(job):
                train_epoch(job, job.progress.epoch)
                job.close_epoch()
                with job.average.applied():
                    scores = evaluate(job)
                    job.keep_best(scores, job.progress.epoch + 1)
                job.end_epoch(scores)
    job.finish()


def train_epoch(job: Job, epoch: int) -> None:
    """One pass over the training images, from the first batch that the progress has not seen."""
    job.backbone.train()
    batches = job.feed.train(epoch, job.progress.batch)
    for group in grouped(batches, job.phase.accumulate):
        if job.progress.step >= job.steps:  # the phase's time allows no more
            break
        job.schedule_lr()
        loss = train_step(job, group)
        job.average.update()
        job.after_step(len(group), job.united.images, loss)


def train_step(job: Job, group: list[Batch]) -> Tensor:
    """One optimizer step on the mean loss of the group's micro-batches, which is returned, on the device."""
    images, largest = job.united.begin(group), max(len(labels) for _, labels in group)
    with job.united.passes():
        total, seen = job.micro.fitted(lambda: backward(job, group, images), largest)
    total = job.united.end(total)
    job.meter.add_step(seen, images)
    if job.penalty:
        job.penalty.add_gradients(job.engine.loss_scale)
    job.move()
    return total


def backward(job: Job, group: list[Batch], images: int) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Gradients of the group's part in the mean loss over so many images; that part, and (mean loss, logits, labels)
    of each micro-batch."""
    total = torch.zeros((), device=job.engine.device)
    seen = []
    for inputs, labels in job.micro.cut(group):  # (B, 3, S, S) images or activations; (B,) int64 or (B, K)
        with job.engine.autocast():
            logits = job.feed.forward(inputs)  # (B, K)
            # Mean over B; without images a process only keeps step with the others.
            loss = job.criterion(logits.float(), labels) if len(labels) else logits.float().sum()
        share = loss * (len(labels) / images)
        job.engine.backward(share)
        seen.append((loss.detach(), logits.detach(), labels))
        total += share.detach()
    return total, seen


@torch.no_grad()
def evaluate(job: Job) -> Scores | None:
    """Mean plain loss (cross-entropy in nats, not smoothed) and score on the validation split; None if it is empty."""
    job.backbone.eval()
    meter = Meter(job.engine.device, job.feed.objective)
    for inputs, labels in job.feed.validation():
        with job.engine.autocast():
            logits = job.micro.logits(inputs).float()  # (B, K)
        if len(labels):
            meter.add(meter.objective.loss(logits, labels), logits, labels)
        job.check_stop()
    meter.unite()
    values = meter.read()
    return Scores(values["loss"], values[meter.objective.score]) if len(job.feed.val_labels) else None


def grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` micro-batches; the last may be shorter and is a full step of its own."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group
