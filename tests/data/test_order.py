"""Balanced epochs: every class equally often, spread evenly over its images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.batches import TrainBatches
from finetune.data.imageset import ImageSet
from finetune.data.order import balanced_order, returns
from finetune.data.preprocessing import Preprocessing

PREP = Preprocessing(size=16, crop_pct=1.0, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
LABELS = np.repeat([0, 1, 2], [20, 6, 3])


class Noise(ImageSet):
    def __init__(self, labels: Iterable[int]) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = ("cat", "dog", "hen")

    def load(self, index: int) -> Image.Image:
        pixels = np.random.default_rng(index).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    def name(self, index: int) -> str:
        return str(index)

    def fingerprint(self, index: int) -> bytes:
        return str(index).encode()


def test_classes_come_equally_often_and_images_of_a_class_evenly() -> None:
    order = balanced_order(LABELS, np.random.default_rng(0))
    assert len(order) == len(LABELS)
    per_class = np.bincount(LABELS[order])
    assert sorted(per_class) == [9, 10, 10]
    for label in range(3):
        times = np.bincount(order, minlength=len(LABELS))[label == LABELS]
        assert times.max() - times.min() <= 1


def test_all_images_of_a_large_class_get_their_turn() -> None:
    seen = {int(i) for epoch in range(12) for i in balanced_order(LABELS, np.random.default_rng((0, epoch)))}
    assert seen == set(range(len(LABELS)))


def test_a_class_without_images_and_fewer_images_than_classes() -> None:
    labels = np.array([4, 0, 0])
    assert sorted(np.bincount(labels[balanced_order(labels, np.random.default_rng(0))])) == [0, 0, 0, 1, 2]
    assert len(balanced_order(np.array([3]), np.random.default_rng(0))) == 1


def test_mean_frequency_is_that_of_torch_s_weighted_sampler() -> None:
    counts = np.bincount(LABELS)
    wanted = (1 / counts[LABELS]) / (1 / counts[LABELS]).sum()
    drawn = np.concatenate([balanced_order(LABELS, np.random.default_rng((1, e))) for e in range(400)])
    assert np.bincount(drawn) / len(drawn) == pytest.approx(wanted, rel=0.25)


def test_returns_counts_earlier_places() -> None:
    order = np.array([5, 1, 5, 5, 1, 0])
    assert returns(order).tolist() == [0, 0, 1, 2, 1, 0]


def test_batches_of_a_balanced_epoch() -> None:
    made = TrainBatches(Noise(LABELS), PREP, "light", 8, seed=3, balanced=True)
    batches = list(made.epoch(1))
    labels = torch.cat([y for _, y in batches]).numpy()
    order = made.order(1)
    assert (labels == LABELS[order]).all()
    again = list(TrainBatches(Noise(LABELS), PREP, "light", 8, seed=3, threads=3, balanced=True).epoch(1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches[2:], again, strict=True))
    pixels = torch.cat([x for x, _ in batches])
    twice = next(i for i in order if (order == i).sum() > 1)
    first, second = np.flatnonzero(order == twice)[:2]
    assert not torch.equal(pixels[first], pixels[second])  # an image that returns is augmented anew


def test_the_first_time_of_an_image_looks_as_in_a_natural_epoch() -> None:
    images = Noise(LABELS)
    natural = TrainBatches(images, PREP, "light", 64, seed=3)
    balanced = TrainBatches(images, PREP, "light", 64, seed=3, balanced=True)
    ours, theirs = next(balanced.epoch(0))[0], next(natural.epoch(0))[0]
    order = balanced.order(0)
    place = int(np.flatnonzero(returns(order) == 0)[0])
    there = int(np.flatnonzero(natural.order(0) == order[place])[0])
    assert torch.equal(ours[place], theirs[there])
