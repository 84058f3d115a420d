"""Batches: the right pixels, the same ones whatever the threads, the memory and the entry point."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture, write_tree

from finetune.data import AUGMENTATIONS
from finetune.data.batches import TrainBatches, eval_batches, eval_tensor, to_device
from finetune.data.folder import Decoded
from finetune.data.imageset import ImageSet
from finetune.data.load import from_datasets, load_data
from finetune.data.preprocessing import Preprocessing
from finetune.data.threads import for_each, worker_count
from finetune.data.transforms import evaluate_image
from finetune.errors import ConfigError, DataError
from finetune.recipe import DataRecipe

PREP = Preprocessing(16, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def images(count: int) -> ImageSet:
    rows = [(picture(i, (20 + i % 5, 30)), i % 2) for i in range(count)]
    spare = [(picture(1000 + i), i % 2) for i in range(4)]
    return from_datasets(rows, spare, spare, classes=["ant", "bee"]).train


def test_eval_tensor_and_batches() -> None:
    data = images(70)
    whole = eval_tensor(data, PREP, threads=1)
    assert whole.shape == (70, 3, 16, 16)
    assert whole.dtype == torch.uint8
    assert torch.equal(whole[69], evaluate_image(data.load(69), PREP))
    assert torch.equal(whole, eval_tensor(data, PREP, threads=3))
    batches = list(eval_batches(data, PREP, 32, threads=2))
    assert [len(b) for b in batches] == [32, 32, 6]
    assert torch.equal(torch.cat(batches), whole)
    none = data.subset([])
    assert eval_tensor(none, PREP).shape == (0, 3, 16, 16)
    assert list(eval_batches(none, PREP, 4)) == []


@pytest.mark.parametrize("policy", AUGMENTATIONS.names())
def test_threads_memory_and_entry_point_change_nothing(policy: str) -> None:
    data = images(23)
    torch.manual_seed(1)
    reference = list(TrainBatches(data, PREP, policy, 5, seed=7, threads=1).epoch(3))
    assert [len(y) for _, y in reference] == [5, 5, 5, 5, 3]
    torch.manual_seed(2)
    other = TrainBatches(data, PREP, policy, 5, seed=7, threads=4, memory=9000)
    list(other.epoch(2))
    for start in (0, 2, 5):
        again = list(other.epoch(3, start))
        assert len(again) == 5 - start
        for (x, y), (x2, y2) in zip(reference[start:], again, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)


def test_each_image_once_with_its_label() -> None:
    data = images(12)
    batches = TrainBatches(data, PREP, "none", 4, seed=0)
    still = eval_tensor(data, PREP)
    for epoch in range(2):
        order = batches.order(epoch)
        assert sorted(order) == list(range(12))
        x = torch.cat([x for x, _ in batches.epoch(epoch)])
        y = torch.cat([y for _, y in batches.epoch(epoch)])
        assert y.dtype == torch.int64
        assert torch.equal(x, still[torch.from_numpy(order)])
        assert y.tolist() == data.labels[order].tolist()
    assert not np.array_equal(batches.order(0), batches.order(1))
    assert not np.array_equal(batches.order(0), TrainBatches(data, PREP, "none", 4, seed=1).order(0))


def test_epochs_and_samples_are_augmented_differently() -> None:
    batches = TrainBatches(images(8), PREP, "standard", 8, seed=0)
    (first, _), (second, _) = next(batches.epoch(0)), next(batches.epoch(1))
    undo = np.argsort(batches.order(0)), np.argsort(batches.order(1))
    differs = first[torch.from_numpy(undo[0])] != second[torch.from_numpy(undo[1])]
    assert differs.flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (9, 4, [4, 5]),
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (3, 4, [3]),
        (5, 4, [5]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_no_batch_of_one_is_left_over(count: int, size: int, expected: list[int]) -> None:
    data = images(16).subset(list(range(count)))
    batches = TrainBatches(data, PREP, "none", size, seed=0)
    assert len(batches) == len(expected)
    assert [len(y) for _, y in batches.epoch(0)] == expected


class Counting(ImageSet):
    """Counts the decodes."""

    def __init__(self, base: ImageSet) -> None:
        self.base, self.labels, self.classes = base, base.labels, base.classes
        self.loads = 0

    def load(self, index: int):  # type: ignore[no-untyped-def]
        self.loads += 1
        return self.base.load(index)

    def name(self, index: int) -> str:
        return self.base.name(index)

    def fingerprint(self, index: int) -> bytes:
        return self.base.fingerprint(index)


def test_originals_are_decoded_once_while_they_fit() -> None:
    data = Counting(images(12))
    batches = TrainBatches(data, PREP, "light", 4, seed=0)
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert data.loads == 12
    poor = TrainBatches(data, PREP, "light", 4, seed=0, memory=0)
    for epoch in range(2):
        list(poor.epoch(epoch))
    assert data.loads == 12 + 24


def test_files_are_decoded_once_from_checking_to_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import finetune.data.decode as decode

    calls = []
    real = decode.to_rgb
    monkeypatch.setattr(decode, "to_rgb", lambda *args: (calls.append(1), real(*args))[1])
    bundle = load_data(DataRecipe(path=str(write_tree(tmp_path, ant=10, bee=10))), 0)
    for part in (bundle.train, bundle.val, bundle.test):
        eval_tensor(part, PREP)
    assert len(calls) == 20


def test_flip_follows_the_class_names() -> None:
    assert TrainBatches(images(4), PREP, "light", 2, seed=0).flip
    digits = from_datasets([(picture(i), i % 2) for i in range(20)]).train
    assert not TrainBatches(digits, PREP, "light", 2, seed=0).flip
    assert TrainBatches(digits, PREP, "light", 2, seed=0, flip=True).flip


def test_unknown_policy() -> None:
    with pytest.raises(ConfigError, match=r'augmentation must be one of none, light.* Did you mean "strong"'):
        TrainBatches(images(4), PREP, "strongg", 2, seed=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_reach_the_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr("finetune.data.load.default_decoded", lambda: Decoded(0))
    train = load_data(DataRecipe(path=str(write_tree(tmp_path, ant=40, bee=40))), 0).train
    (tmp_path / train.name(7)).write_bytes(b"")
    for read in (
        lambda: eval_tensor(train, PREP, threads),
        lambda: list(eval_batches(train, PREP, 8, threads)),
        lambda: list(TrainBatches(train, PREP, "light", 8, 0, threads).epoch(0)),
    ):
        with pytest.raises(
            DataError, match=rf"{train.name(7)}' must be a whole image file. Got one that is empty"
        ):
            read()


def test_leaving_an_epoch_early_ends_its_threads() -> None:
    before = threading.active_count()
    batches = TrainBatches(images(40), PREP, "light", 4, seed=0, threads=3).epoch(0)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_for_each_and_worker_count() -> None:
    done: list[int] = []
    for_each(100, done.append, 4)
    assert sorted(done) == list(range(100))

    def fail(index: int) -> None:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        for_each(1000, fail, 4)
    assert worker_count(3) == 3
    assert 1 <= worker_count("auto") <= 8


def test_only_what_lies_in_the_cpus_memory_is_pinned() -> None:
    """Batches that were augmented on a GPU are there already, and cannot be pinned."""

    class Told:
        def __init__(self, where: str) -> None:
            self.device, self.calls = torch.device(where), list[str]()

        def pin_memory(self) -> Told:
            self.calls.append("pinned")
            return self

        def to(self, device: torch.device, non_blocking: bool = False) -> Told:
            self.calls.append(f"to {device.type}, {non_blocking}")
            return self

    here, there = Told("cpu"), Told("cuda")
    to_device([here, there], torch.device("cuda"))  # type: ignore[list-item]
    assert here.calls == ["pinned", "to cuda, True"]
    assert there.calls == ["to cuda, True"]
