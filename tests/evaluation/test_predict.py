"""Predictions are the network's own, whatever the way the images come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.imageset import ImageSet
from finetune.errors import DataError
from finetune.evaluation.labelled import labelled_images
from finetune.evaluation.predict import LooseImages, predict_each, predict_images
from finetune.zoo.backbone import Backbone
from finetune.zoo.create import create_backbone

CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return create_backbone("test_resnet", pretrained=False, num_classes=3, image_size=64).eval()


def pictures(n: int = 5) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (70, 64 + 7 * i, 3), dtype=np.uint8)) for i in range(n)]


def by_hand(backbone: Backbone, images: list[Image.Image]) -> np.ndarray:
    from timm.data import create_transform

    prep = backbone.preprocessing
    transform = create_transform(
        (3, prep.size, prep.size),
        is_training=False,
        interpolation=prep.interpolation,
        mean=prep.mean,
        std=prep.std,
        crop_pct=prep.crop_pct,
    )
    with torch.inference_mode():
        return backbone(torch.stack([transform(i) for i in images])).softmax(1).numpy()


def test_same_as_timm_transform_and_a_plain_forward_pass(backbone: Backbone) -> None:
    images = pictures()
    got = predict_images(backbone, LooseImages(images, [f"{i}" for i in range(5)], CLASSES))
    np.testing.assert_allclose(got, by_hand(backbone, images), atol=2e-5)


def test_head_on_several_stages(backbone: Backbone) -> None:
    import copy

    twin = copy.deepcopy(backbone)
    taps = (1, twin.num_stages - 1)
    width = sum(twin.widths[t] for t in taps)
    twin.set_head(
        torch.randn(3, width, generator=torch.Generator().manual_seed(0)) * 0.1, torch.zeros(3), taps
    )
    images = pictures()
    got = predict_images(twin, LooseImages(images, ["x"] * 5, CLASSES))
    np.testing.assert_allclose(got, by_hand(twin, images), atol=2e-5)


def test_no_images(backbone: Backbone) -> None:
    assert predict_images(backbone, LooseImages([], [], CLASSES)).shape == (0, 3)


def test_a_bad_image_among_good_ones(backbone: Backbone, tmp_path: Path) -> None:
    good, bad, gone = tmp_path / "good ü.png", tmp_path / "bad.png", tmp_path / "gone.png"
    pictures(1)[0].save(good)
    bad.write_bytes(b"")
    answers = list(
        predict_each(backbone, CLASSES, [good, bad, pictures(1)[0], gone, np.zeros((40, 40), np.uint8)])
    )
    assert [a.error is None for a in answers] == [True, False, True, False, True]
    assert answers[0].label == answers[2].label
    assert answers[0].image == str(good)
    assert answers[0].probabilities is not None
    assert list(answers[0].probabilities.values()) == sorted(answers[0].probabilities.values(), reverse=True)
    assert sum(answers[0].probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert "0 bytes" in str(answers[1].error)
    assert "existing file" in str(answers[3].error)
    assert set(answers[3].to_dict()) == {"image", "error"}


def test_more_images_than_a_chunk(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.evaluation.predict._CHUNK", 2)
    images = pictures()
    answers = list(predict_each(backbone, CLASSES, iter(images)))
    expected = by_hand(backbone, images)
    assert [a.label for a in answers] == [CLASSES[k] for k in expected.argmax(1)]


# --- labelled folders ------------------------------------------------------------------------------


def folder(root: Path, names: tuple[str, ...], n: int = 2) -> Path:
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (20 + i, 20), (60 * k, 99, 7)).save(root / name / f"{i}.png")
    return root


def test_labels_are_the_runs_own_numbers(tmp_path: Path) -> None:
    found = labelled_images(folder(tmp_path, ("blue", "red")), CLASSES)
    assert found.images.labels.tolist() == [2, 2, 0, 0]
    assert found.images.classes == CLASSES


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_test_split_is_taken(tmp_path: Path, split: str) -> None:
    folder(tmp_path / "train", CLASSES)
    folder(tmp_path / split, CLASSES, 1)
    found = labelled_images(tmp_path, CLASSES)
    assert found.folder.endswith(split)
    assert len(found.images) == 3


def test_unreadable_images_are_set_aside(tmp_path: Path) -> None:
    folder(tmp_path, ("red", "green"))
    (tmp_path / "red" / "0.png").write_bytes(b"no image")
    found = labelled_images(tmp_path, CLASSES)
    assert len(found.images) == 3
    assert [q.path for q in found.quarantined] == ["red/0.png"]


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"--data must be an existing folder, table or archive. Got .* which does not exist"
    ):
        labelled_images(tmp_path / "none", CLASSES)
    with pytest.raises(DataError, match="with no sub-folders instead"):
        labelled_images(tmp_path, CLASSES)
    folder(tmp_path, ("red", "gren"))
    with pytest.raises(
        DataError, match=r'must be a class of the run .* Got gren instead. Did you mean "green"'
    ):
        labelled_images(tmp_path, CLASSES)
    (tmp_path / "empty" / "red").mkdir(parents=True)
    with pytest.raises(DataError, match=r"one with readable images\. Got none"):
        labelled_images(tmp_path / "empty", CLASSES)


def test_image_sets_are_checked() -> None:
    images: ImageSet = LooseImages(pictures(2), ["a", "b"], ("x", "y"))
    with pytest.raises(
        DataError, match=r"The classes of the images must be those of the run \(red, green, blue\)"
    ):
        labelled_images(images, CLASSES)
    with pytest.raises(DataError, match=r"The images must be at least one\. Got 0"):
        labelled_images(images.subset([]), ("x", "y"))
