"""Arrays in memory as scikit-learn takes them, and torchvision's data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded, picture, write_tree
from PIL import Image

from finetune.data.load import from_datasets
from finetune.data.samples import labels_of_dataset, samples_of
from finetune.errors import DataError
from finetune.recipe import DataRecipe

X = np.stack([np.asarray(picture(i, (20, 20))) for i in range(24)])  # (N, H, W, 3) uint8
Y = np.arange(24) % 2
GREY = X[..., 0]


def pixels(bundle: Any) -> dict[int, np.ndarray]:
    parts = (bundle.train, bundle.val, bundle.test)
    return {int(part.name(i)[6:-1]): np.asarray(part.load(i)) for part in parts for i in range(len(part))}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (X, X),
        (X.transpose(0, 3, 1, 2), X),
        (X / 255.0, X),
        ((X / 255.0).astype(np.float32), X),
        (torch.from_numpy(X).permute(0, 3, 1, 2), X),
        (torch.from_numpy(X).permute(0, 3, 1, 2).float() / 255, X),
        (GREY, np.repeat(GREY[..., None], 3, 3)),
        (GREY[..., None] / 255, np.repeat(GREY[..., None], 3, 3)),
        (GREY > 128, np.repeat((GREY > 128)[..., None] * np.uint8(255), 3, 3)),
        ([Image.fromarray(x) for x in X], X),
        (list(X), X),
    ],
)
def test_kinds_of_images(images: Any, expected: np.ndarray) -> None:
    for bundle in (from_datasets((images, Y)), from_datasets(images, Y)):
        found = pixels(bundle)
        assert all(np.array_equal(found[i], expected[i]) for i in range(24))
        assert bundle.classes == ("0", "1")
        assert bundle.source == "arrays"
        for part in (bundle.train, bundle.val, bundle.test):
            assert all(int(part.name(i)[6:-1]) % 2 == part.labels[i] for i in range(len(part)))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (Y.tolist(), ("0", "1")),
        (Y.astype(np.float64), ("0", "1")),
        (Y.astype(bool), ("0", "1")),
        (Y[:, None], ("0", "1")),
        (torch.from_numpy(Y), ("0", "1")),
        (Y.astype(np.int8), ("0", "1")),
        (np.array(["cat", "dog"])[Y], ("cat", "dog")),
        (np.array(["cat", "dog"], dtype=object)[Y], ("cat", "dog")),
        (["cat", "dog"] * 12, ("cat", "dog")),
    ],
)
def test_kinds_of_labels(labels: Any, classes: tuple[str, str]) -> None:
    assert from_datasets(X, labels).classes == classes


def test_given_sets_and_names() -> None:
    bundle = from_datasets((X[:12], Y[:12]), (X[12:18], Y[12:18]), (X[18:], Y[18:]), classes=["no", "yes"])
    assert (len(bundle.train), len(bundle.val), len(bundle.test)) == (12, 6, 6)
    assert bundle.classes == ("no", "yes")
    assert np.array_equal(np.asarray(bundle.test.load(0)), X[18])
    held = from_datasets(X[:18], Y[:18], (X[18:], Y[18:]))  # fit(X, y, test)
    assert len(held.test) == 6
    two = from_datasets([(X[i], int(Y[i])) for i in range(6)])  # pairs are a dataset as before
    assert two.source == "list"


def test_other_tasks() -> None:
    values = np.stack([Y, 1 - Y], 1)
    bundle = from_datasets(X, values, recipe=DataRecipe(task="multi-label"), classes=["odd", "even"])
    assert {bundle.train.truth(i) for i in range(len(bundle.train))} == {"odd", "even"}
    numbers = from_datasets(X, np.linspace(0, 1, 24), recipe=DataRecipe(task="regression"))
    assert numbers.train.values is not None
    assert numbers.train.values.shape == (len(numbers.train), 1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            X.reshape(24, -1),
            Y,
            r"images of train must be images of shape .* Got shape \(24, 1200\).*reshape them",
        ),
        (X[:, :, :, :2], Y, r"with C of 1, 3 or 4. Got shape \(24, 20, 20, 2\)"),
        (X[:0], Y[:0], r"Got shape \(0, 20, 20, 3\)"),
        (
            X.astype(float),
            Y,
            r"Float images of train must be in \[0, 1\]. Got values in \[0, 25\d\].* Divide them by",
        ),
        (X / 127.5 - 1, Y, r"must be in \[0, 1\]. Got values in \[-1, .*Do not normalise them"),
        (np.full((24, 8, 8), np.nan), Y, r"must be in \[0, 1\]. Got NaN"),
        (torch.full((24, 3, 8, 8), float("inf")), Y, r"must be in \[0, 1\]"),
        (X, Y[:-1], "labels of train must be one for each image. Got 23 for 24 images"),
        (X, np.stack([Y, Y], 1), r"must be one for each image. Got shape \(24, 2\).*argmax"),
        (X, Y + 0.5, "must be classes: ints or texts. Got 0.5 instead. data.task=regression"),
        (X, np.where(Y, np.nan, 0), "must be classes: ints or texts. Got nan"),
        (X, Y * 0, "images of at least 2 classes. Got only '0'"),
        (
            X,
            None,
            r"train must be images with labels. Got an array of shape \(24, 20, 20, 3\) alone.*Call fit\(X, y\)",
        ),
    ],
)
def test_bad_arrays(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_datasets(images, labels)


def test_a_classifier_takes_arrays_like_scikit_learn() -> None:
    from finetune import Classifier

    rng = np.random.default_rng(0)
    stripes = np.indices((32, 32))[:, :, :] % 8 > 3
    x = (rng.integers(0, 60, (40, 32, 32)) + 180 * stripes[np.arange(40) % 2]).astype(np.uint8)
    model = Classifier("linear", image_size=32).fit(x, np.arange(40) % 2 + 5)
    assert model.classes_.tolist() == [5, 6]
    assert model.predict(x[:4]).tolist() == [5, 6, 5, 6]
    assert model.score(x, np.arange(40) % 2 + 5) == 1.0
    assert model.score((x, np.arange(40) % 2 + 5)) == 1.0
    assert model.predict_proba(x[:4] / 255).shape == (4, 2)
    text = [str(label) for label in np.arange(40) % 2 + 5]  # digits, but not numbers
    model = Classifier("linear", image_size=32).fit(x, text)
    assert model.predict(x[:4]).tolist() == ["5", "6", "5", "6"]
    assert model.score(x, text) == 1.0


def test_labels_of_torchvision_are_known_without_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.data import Subset
    from torchvision.datasets import CIFAR10, FakeData, ImageFolder

    write_tree(tmp_path / "d", ant=6, bee=6, wasp=6)
    whole = ImageFolder(str(tmp_path / "d"))
    assert labels_of_dataset(whole) == [0] * 6 + [1] * 6 + [2] * 6
    assert labels_of_dataset(Subset(Subset(whole, range(6, 18)), [0, 11])) == [1, 2]
    assert labels_of_dataset(ImageFolder(str(tmp_path / "d"), target_transform=lambda k: 2 - k)) is None
    assert labels_of_dataset(FakeData(3)) is None

    class Own(ImageFolder):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0], 1

    assert labels_of_dataset(Own(str(tmp_path / "d"))) is None
    # CIFAR10 without its files: a wrong label is told although no image can be had.
    cifar = CIFAR10.__new__(CIFAR10)
    cifar.data, cifar.targets, cifar.classes = (
        np.zeros((4, 32, 32, 3), np.uint8),
        [0, 1, 0, 12],
        list("abcdefghij"),
    )
    cifar.transform = cifar.target_transform = cifar.transforms = None
    monkeypatch.setattr(CIFAR10, "__len__", lambda self: 4)
    with pytest.raises(
        DataError, match=r"label of train\[3\] must be in 0..9, one of the 10 classes. Got 12"
    ):
        from_datasets(cifar)
    cifar.targets = [3] * 4
    with pytest.raises(DataError, match="at least 2 classes"):
        from_datasets(cifar)


def test_the_files_of_an_image_folder_are_opened_as_those_of_a_folder(tmp_path: Path) -> None:
    from torch.utils.data import Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    from finetune.data.load import load_data

    root = write_tree(tmp_path / "d", ant=8, bee=8)
    (root / "bee" / "broken.png").write_bytes(encoded(picture(1))[:60])
    found, folder = from_datasets(ImageFolder(str(root))), load_data(DataRecipe(path=str(root)), 0)
    assert [q.path for q in found.quarantined] == ["bee/broken.png"]
    assert found.classes == folder.classes
    assert [found.train.name(i) for i in range(len(found.train))] == [
        folder.train.name(i) for i in range(len(folder.train))
    ]
    assert found.train.file(0) == root / found.train.name(0)
    assert samples_of(ImageFolder(str(root), transform=ToTensor())) is None
    part = from_datasets(Subset(ImageFolder(str(root)), [*range(4), *range(9, 14)]))
    assert len(part.train) + len(part.val) + len(part.test) == 9
