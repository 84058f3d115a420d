"""Steps on a copy: the network, the optimizer, the order of the data and every random state stay as they were."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import random
from collections.abc import Iterator

import numpy as np

from finetune.events import Listener
from finetune.strategy.plan import GradientPhase
from finetune.training.checkpoint import rng_state, set_rng_state
from finetune.training.engine import Engine
from finetune.training.feed import Batch, Feed
from finetune.training.job import Job
from finetune.training.loop import grouped
from finetune.training.record import Record


@contextlib.contextmanager
def on_a_copy(job: Job, phase: GradientPhase | None = None) -> Iterator[Job]:
    """A job like the given one, at its first step, on a copy of its network, without averages of the weights;
    ``phase`` changes what it does.

    Only what is in memory is copied: logging, saving and stopping are the loop's, and the loop is not run.
    Afterwards Python's, NumPy's and torch's random states are put back, so that whatever the block drew, the
    training that follows draws the same as without it.
    """
    states = random.getstate(), np.random.get_state(), rng_state()  # noqa: NPY002 - the state others draw from
    backbone = copy.deepcopy(job.backbone)
    backbone.zero_grad(set_to_none=True)
    feed: Feed = copy.copy(job.feed)
    feed.backbone = backbone
    engine = Engine(job.engine.device, job.engine.precision)
    # A copy for which memory runs out goes on with smaller parts; that is no news about the training itself.
    desk = dataclasses.replace(job.desk, listener=Listener(), record=_Unkept())
    try:
        alone = (phase or job.phase).model_copy(update={"ema": None, "swa": None, "snapshots": None})
        trial = Job(job.index, alone, backbone, feed, engine, desk)
        trial.micro.limit(job.micro.size)
        yield trial
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        set_rng_state(states[2])


class _Unkept(Record):
    """A record that is not written."""

    def __init__(self) -> None:
        self.tree = {"phases": {}}

    def save(self) -> None:
        """Nothing is kept."""


def steps_of(job: Job) -> Iterator[list[Batch]]:
    """The micro-batches of one optimizer step after the other, as training has them, epoch after epoch."""
    for epoch in itertools.count():
        yield from grouped(job.feed.train(epoch), job.phase.accumulate)
