"""The images come faster than the network can train on them."""

from __future__ import annotations

import time

from finetune.training.checks import Check, Scene, skipped
from finetune.training.feed import Feed

NAME = "loader"
_BATCHES = 2
_MARGIN = 0.9
"""Of the network's rate: what is as fast within the error of so short a measurement is fast enough."""


def loader(scene: Scene) -> Check:
    """Images a second of decoding and augmenting against those of a training step, both measured for moments.

    The first epoch decodes; later ones only those images that memory has no room for.
    """
    if scene.rate is None:
        return skipped(NAME, "the network's speed is not known")
    feed, epochs = scene.job.feed, scene.job.phase.epochs
    decoding = scene.decodes * feed.threads
    if scene.left() < 2 * _BATCHES * feed.phase.batch_size / decoding:
        rate, about = decoding, "about "
    else:
        augmenting = max(_pace(feed), _pace(feed))  # the second time all of them are decoded
        kept = feed.resident() * (epochs - 1) / epochs
        rate, about = 1 / ((1 - kept) / decoding + 1 / augmenting), ""
    said = f"{about}{rate:.0f} images/s, the network trains on {scene.rate:.0f}"
    if rate >= _MARGIN * scene.rate:
        return Check(NAME, "ok", said)
    return Check(NAME, "warning", f"{said}: it will wait for the images.",
                 "More threads (data.workers), smaller files, lighter augmentation (train.augment).")  # fmt: skip


def _pace(feed: Feed) -> float:
    """Images a second over the last batches of an epoch: nothing is made ahead of what comes after them."""
    images, began = 0, time.perf_counter()
    for _, labels in feed.train(0, max(0, len(feed) - _BATCHES)):
        images += len(labels)
    return images / max(time.perf_counter() - began, 1e-9)
