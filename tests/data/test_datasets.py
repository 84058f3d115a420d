"""torch Datasets of (image, label) in every shape people have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import picture
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from finetune.data.datasets import as_image
from finetune.data.load import from_datasets
from finetune.data.profile import profile
from finetune.errors import DataError
from finetune.recipe import DataRecipe


def pairs(labels: list[object], start: int = 0) -> list[tuple[object, object]]:
    return [(picture(start + i), label) for i, label in enumerate(labels)]


class Named(Dataset):
    """As torchvision's datasets are: with class names."""

    classes = ("ant", "bee", "wasp")

    def __init__(self, labels: list[int], start: int = 0) -> None:
        self.items = pairs(labels, start)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self.items[index]


def test_one_dataset_is_split() -> None:
    bundle = from_datasets(pairs([0, 1] * 20), seed=1)
    assert bundle.classes == ("0", "1")
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [28, 6, 6]
    assert bundle.source == "list"
    image = bundle.train.load(0)
    assert image.mode == "RGB"
    assert bundle.train.name(0).startswith("train[")
    assert profile(bundle).widths == (24, 24, 24)


def test_three_datasets() -> None:
    bundle = from_datasets(pairs([0, 1] * 6), pairs([0, 1], 50), pairs([1, 1], 60))
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [12, 2, 2]
    assert bundle.test.labels.tolist() == [1, 1]
    assert (np.asarray(bundle.val.load(1)) == np.asarray(picture(51))).all()


def test_class_names() -> None:
    assert from_datasets(Named([0, 1, 2] * 5)).classes == ("ant", "bee", "wasp")
    some = from_datasets(Subset(Named([2, 0] * 10), range(18)))
    assert some.classes == ("ant", "wasp")
    assert "Class 'bee' has no training image and is left out." in some.notes
    assert from_datasets(pairs([0, 1] * 10), classes=["no", "yes"]).classes == ("no", "yes")
    assert from_datasets(pairs(["b", "a"] * 10)).classes == ("a", "b")
    numbers = from_datasets(pairs([10, 2] * 10))
    assert numbers.classes == ("2", "10")


@pytest.mark.parametrize("label", [np.int64(1), torch.tensor(1), 1])
def test_kinds_of_labels(label: object) -> None:
    assert from_datasets(pairs([0, label] * 10)).classes == ("0", "1")


PIXELS = np.asarray(picture(3))


@pytest.mark.parametrize(
    "value",
    [
        picture(3),
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        torch.from_numpy(PIXELS.copy()),
        torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
        torch.from_numpy(PIXELS / 255.0).permute(2, 0, 1),
        torch.from_numpy(PIXELS / 255.0).permute(2, 0, 1).float(),
        (PIXELS / 255.0).astype(np.float16),
        PIXELS.astype(np.int64),
        PIXELS.astype(np.uint16) * 257,
        np.dstack([PIXELS, np.full(PIXELS.shape[:2], 255, np.uint8)]),
    ],
)
def test_kinds_of_images(value: object) -> None:
    image, _ = as_image(value, "x")
    tolerance = 1 if str(getattr(value, "dtype", "")) == "float16" else 0
    assert np.abs(np.asarray(image).astype(int) - PIXELS).max() <= tolerance


def test_grey_and_bool_images() -> None:
    grey = PIXELS[:, :, 0]
    for value in (grey, grey[None], grey[:, :, None], torch.from_numpy(grey.copy())[None]):
        assert (np.asarray(as_image(value, "x")[0]) == grey[:, :, None]).all()
    assert np.asarray(as_image(grey > 127, "x")[0]).max() == 255


def test_tensor_dataset() -> None:
    images, labels = torch.randint(0, 256, (20, 3, 8, 9), dtype=torch.uint8), torch.arange(20) % 2
    bundle = from_datasets(TensorDataset(images, labels))
    assert bundle.train.load(0).size == (9, 8)


def test_pixels_beyond_memory_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.data.folder import Decoded

    monkeypatch.setattr("finetune.data.datasets.default_decoded", lambda: Decoded(0))
    items = pairs([0, 1] * 10)
    bundle = from_datasets(items)
    for i in range(len(bundle.val)):
        row = int(bundle.val.name(i)[6:-1])
        assert (np.asarray(bundle.val.load(i)) == np.asarray(items[row][0])).all()


class Stream(IterableDataset):
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(pairs([0, 1]))


class Broken(Named):
    def __getitem__(self, index: int) -> tuple[object, object]:
        raise OSError("disk on fire")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "train must be a dataset of .* Got None"),
        ([], "train must be a dataset with at least one image"),
        ("folder", r"train must be a dataset with len\(\) and \[index\] .* Got str"),
        (Stream(), r"train must be a dataset with len\(\)"),
        (Broken([0, 1]), r"train\[0\] must be readable. Got OSError: disk on fire"),
        ([picture(1)], r"train\[0\] must be a \(image, label\) pair"),
        ([("a.png", 1)], r"train\[0\] must be .* Got an image of type str"),
        (
            [(PIXELS - 1.0, 1)],
            r"train\[0\] must be a float image with values in \[0, 1\].*Take Normalize out",
        ),
        ([(PIXELS * np.nan, 1)], r"must be a float image with values in \[0, 1\]"),
        ([(PIXELS.astype(np.int32) * 9, 1)], r"must be an integer image with values in \[0, 255\]"),
        ([(np.zeros((5, 8, 8), np.uint8), 1)], r"must be an image of shape \(H, W\).* Got \(5, 8, 8\)"),
        (pairs([0.5]), r"The label of train\[0\] must be one int or str per image. Got 0.5"),
        (
            pairs([torch.tensor([0, 1])]),
            r"Got Tensor of shape \(2,\) instead. Several labels: data.task=multi",
        ),
        (pairs([0, "a"] * 4), "Labels must be all ints or all strings"),
        (pairs([3] * 8), "train must hold readable images of at least 2 classes. Got only '3'"),
    ],
)
def test_refused(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_datasets(data)


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(
        DataError, match=r"The label of train\[2\] must be in 0..1, one of the 2 classes. Got 2"
    ):
        from_datasets(pairs([0, 1, 2]), classes=["a", "b"])
    with pytest.raises(
        DataError, match=r"The label of train\[1\] must be one of the 2 classes. Got 'c' instead"
    ):
        from_datasets(pairs(["a", "c"] * 4), classes=["a", "b"])
    with pytest.raises(DataError, match=r"classes must be different names. Got \['a'\] instead"):
        from_datasets(pairs([0, 1] * 4), classes=["a", "a"])
    with pytest.raises(DataError, match=r"val must only hold classes of train. Got '2' \(1 images\)"):
        from_datasets(pairs([0, 1] * 5), pairs([0, 2]))


def test_recipe_and_seed_are_used() -> None:
    items = pairs([0, 1] * 20)
    assert len(from_datasets(items, recipe=DataRecipe(test_fraction=0.3)).test) == 12
    first, other = (from_datasets(items, seed=s) for s in (0, 1))
    assert [first.test.name(i) for i in range(6)] != [other.test.name(i) for i in range(6)]
