"""Crops by the short side: torchvision's pixels in both forms, the paper's sizes, originals that are large enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image
from torchvision.transforms import InterpolationMode

from finetune.augment import BATCHED
from finetune.augment.draws import Counted, Draws
from finetune.augment.geometry import crops, resample, short_side_boxes
from finetune.data import AUGMENTATIONS
from finetune.data.preprocessing import Preprocessing
from finetune.data.short_side import SHORT, most_needed, short_side_box

PREP = Preprocessing(32, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Fixed(Draws):
    """The numbers that are given, in this order."""

    rows = 1

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def columns(self, count: int) -> np.ndarray:
        taken, self.numbers = self.numbers[:count], self.numbers[count:]
        return np.array([taken])


class Chosen:
    """Stands for a NumPy generator: the share of the short side, then left and top."""

    def __init__(self, scale: float, left: int, top: int) -> None:
        self.scale, self.places = scale, [left, top]

    def uniform(self, low: float, high: float) -> float:
        assert low <= self.scale <= high
        return self.scale

    def integers(self, low: int, high: int) -> int:
        assert low <= self.places[0] < high
        return self.places.pop(0)


def photo(width: int, height: int) -> Image.Image:
    """Piece of a photograph."""
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")[:height, :width])


def theirs(image: Image.Image, short: int, left: int, top: int) -> np.ndarray:
    """torchvision: the short side scaled, 32 x 32 cut out."""
    scaled = tv.resize(image, [short], InterpolationMode.BILINEAR)
    return np.asarray(tv.crop(scaled, top, left, 32, 32)).astype(int)


@pytest.mark.parametrize("size", [(128, 96), (96, 144)])
def test_both_forms_are_torchvisions(size: tuple[int, int]) -> None:
    """The short side of 96 scaled to 48, so that a square of 64 becomes the input; its place in whole pixels."""
    image, left, top = photo(*size), 20, 12
    expected = theirs(image, 48, left // 2, top // 2)
    policy = AUGMENTATIONS.get("light/short-side")(PREP, flip=False)
    made = np.asarray(policy.crop(image, Chosen(1.5, left, top))).astype(int)
    assert np.abs(made - expected).max() <= 1
    arrays = np.asarray(policy.crop(np.array(image), Chosen(1.5, left, top))).astype(int)
    assert np.abs(arrays - expected).mean() < 0.5  # torch's kernels do not look beyond the crop
    draws = Fixed((1.5 - SHORT[0]) / (SHORT[1] - SHORT[0]), left / (size[0] - 64), top / (size[1] - 64))
    boxes = short_side_boxes(draws, np.array([size[0] / size[1]]))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    batched = resample(pixels, crops(boxes), 32, (0.0, 0.0, 0.0))[0].permute(1, 2, 0).numpy()
    assert (
        np.abs(batched - expected).mean() < 2.5
    )  # halved, then bilinear: the documented difference of crops
    assert np.allclose(boxes[0] * [*size, *size], [left, top, left + 64, top + 64])


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (50, 50), (3, 700)])
def test_sizes_are_the_papers(size: tuple[int, int]) -> None:
    short, random = min(size), np.random.default_rng(0)
    boxes = np.array([short_side_box(size, random) for _ in range(3000)])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    assert (width == height).all()
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= size).all()
    if short >= 50:
        scaled = 224 * short / width
        assert 250 < scaled.min() < 262
        assert 470 < scaled.max() < 490
        assert abs(scaled.mean() - 368) < 4
    aspects = np.full(3000, size[0] / size[1])
    shares = short_side_boxes(Counted(0, 0, np.arange(3000), np.zeros(3000)), aspects)
    pixels = shares * [*size, *size]
    w, h = (pixels[:, 2:] - pixels[:, :2]).T
    assert np.allclose(w, h)
    assert shares.min() >= 0
    assert shares.max() <= 1 + 1e-9
    if short >= 50:
        assert abs(w.mean() - width.mean()) < 0.01 * short
        assert np.allclose(pixels.mean(0), boxes.mean(0), atol=0.02 * max(size))


@pytest.mark.parametrize("name", ["light", "strong", "rich", "crop+flip"])
def test_originals_are_large_enough_and_crops_can_be_left_out(name: str) -> None:
    assert most_needed(224) == 480
    image = photo(400, 300)
    policy = AUGMENTATIONS.get(f"{name}/short-side")(PREP)
    assert policy.short == most_needed(32) == 69
    assert min(policy.original(image).size) == 69
    assert policy.keeps == {"short side": 69, "interpolation": "bilinear"}
    assert BATCHED.get(f"{name}/short-side")(PREP).kept == 72
    assert (
        BATCHED.get(f"{name}/short-side")(PREP, avoid=["crop"]).kept
        == BATCHED.get(name)(PREP, avoid=["crop"]).kept
    )
    still, plain = (AUGMENTATIONS.get(n)(PREP, avoid=["crop"]) for n in (f"{name}/short-side", name))
    for seed in range(5):
        made = [policy(image, np.random.default_rng(seed)) for policy in (still, plain)]
        assert torch.equal(*made)
    others = AUGMENTATIONS.get(name)(PREP)(image, np.random.default_rng(0))
    assert not torch.equal(policy(image, np.random.default_rng(0)), others)


def test_what_has_no_crop_stays_as_it_is() -> None:
    image = photo(80, 60)
    for name in ("none", "flip+noise"):
        made = [
            AUGMENTATIONS.get(n)(PREP)(image, np.random.default_rng(1)) for n in (name, f"{name}/short-side")
        ]
        assert torch.equal(*made)
    assert "none/short-side" not in BATCHED
