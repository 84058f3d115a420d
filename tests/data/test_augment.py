"""Every augmentation of the registry: shape, determinism, and torchvision's arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from pictures import picture
from PIL import Image

from finetune.data import AUGMENTATIONS
from finetune.data import augment as module
from finetune.data import operations as vocabulary
from finetune.data.augment import crop_box
from finetune.data.mirroring import flip_safe
from finetune.data.operations import trivial_augment
from finetune.data.preprocessing import Preprocessing
from finetune.data.transforms import evaluate_image

PREP = Preprocessing(32, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
POLICIES = [*AUGMENTATIONS.names(), "strong/short-side", "none/short-side", "crop+rotation+hue", "noise"]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [(24, 20), (32, 32), (300, 40), (40, 300), (5, 700), (1, 1), (400, 380)])
def test_shape_and_determinism(name: str, size: tuple[int, int]) -> None:
    policy = AUGMENTATIONS.get(name)(PREP)
    image = picture(1, size)
    before = image.tobytes()
    state = torch.get_rng_state()
    for seed in range(8):
        made = policy(image, rng(seed))
        assert made.shape == (3, 32, 32)
        assert made.dtype == torch.uint8
        assert torch.equal(made, policy(image, rng(seed)))
    assert image.tobytes() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_seeds_differ_and_the_picture_is_recognisable(name: str) -> None:
    policy = AUGMENTATIONS.get(name)(PREP)
    image = picture(2, (64, 64))
    made = [policy(image, rng(seed)).float() for seed in range(10)]
    assert all(not torch.equal(made[0], other) for other in made[1:])
    centre = torch.stack(made).mean(0) - evaluate_image(image, PREP).float()
    assert centre.abs().mean() < 60


def test_none_is_the_evaluation_image() -> None:
    for size in ((50, 40), (20, 90)):
        image = picture(3, size)
        assert torch.equal(AUGMENTATIONS.get("none")(PREP)(image, rng()), evaluate_image(image, PREP))


@pytest.mark.parametrize("name", ["light", "standard", "strong"])
def test_flips_can_be_banned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "NAMES", ("identity", "brightness"))
    ramp = Image.fromarray(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2))

    def flipped(flip: bool) -> int:
        policy = AUGMENTATIONS.get(name)(PREP, flip=flip)
        made = [policy(ramp, rng(seed))[0].float() for seed in range(30)]
        return sum(bool(m[:, :8].mean() > m[:, -8:].mean()) for m in made)

    assert flipped(False) == 0
    assert 5 <= flipped(True) <= 25


def test_light_keeps_colours() -> None:
    red = Image.new("RGB", (50, 50), (200, 10, 30))
    assert AUGMENTATIONS.get("light")(PREP)(red, rng()).flatten(1).unique(dim=1).tolist() == [
        [200],
        [10],
        [30],
    ]


def test_originals_are_reduced_to_what_is_needed() -> None:
    standard = AUGMENTATIONS.get("standard")(PREP)
    assert min(standard.original(picture(1, (400, 300))).size) == 55  # 32 / sqrt(0.35)
    assert standard.original(picture(1, (50, 60))).size == (50, 60)
    assert AUGMENTATIONS.get("none")(PREP).original(picture(1, (400, 300))).size == (32, 32)


def test_crop_box_follows_torchvision() -> None:
    areas, ratios = [], []
    random = rng(1)
    for _ in range(2000):
        left, top, right, bottom = crop_box((200, 150), (0.35, 1.0), (3 / 4, 4 / 3), random)
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 150
        areas.append((right - left) * (bottom - top) / 30_000)
        ratios.append((right - left) / (bottom - top))
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(10, scale=(0.35, 1.0))
    drawn = [theirs.make_params([Image.new("RGB", (200, 150))]) for _ in range(2000)]
    assert abs(np.mean(areas) - np.mean([p["height"] * p["width"] / 30_000 for p in drawn])) < 0.02
    assert abs(np.mean(ratios) - np.mean([p["width"] / p["height"] for p in drawn])) < 0.02
    assert crop_box((300, 10), (0.9, 1.0), (1.0, 1.0), random) == (145, 0, 155, 10)


@pytest.mark.parametrize("name", sorted(set(vocabulary.NAMES)))
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_trivial_augment_is_torchvisions(name: str, sign: float) -> None:
    """The same pixels as torchvision's class at the same operation and magnitude (a float32 there)."""
    theirs = v2.TrivialAugmentWide(fill=None)
    image, level = picture(4, (32, 32)), 20 / 30
    id_ = {"autocontrast": "AutoContrast"}.get(name, "".join(p.capitalize() for p in name.split("_")))
    space, signed = v2.TrivialAugmentWide._AUGMENTATION_SPACE[id_]
    bins = space(31, 32, 32)
    magnitude = float(bins[20]) * (sign if signed else 1.0) if bins is not None else 0.0
    if name.startswith("translate"):
        magnitude *= 32 / 7 / 32.0  # relative to the side: 32 pixels of 224
    expected = theirs._apply_image_or_video_transform(
        image, id_, magnitude, "nearest", {Image.Image: [1, 2, 3]}
    )
    made = vocabulary.OPERATIONS[name](image, level, sign, [1, 2, 3])
    assert np.abs(np.asarray(made).astype(int) - np.asarray(expected)).max() <= 1


def test_trivial_augment_covers_every_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    operations = {
        name: (lambda image, level, sign, fill, name=name: (seen.add((name, sign)), image)[1])
        for name in vocabulary.NAMES
    }
    monkeypatch.setattr(vocabulary, "OPERATIONS", operations)
    random = rng()
    for _ in range(600):
        trivial_augment(picture(1), random, (0, 0, 0))
    assert len(seen) == 2 * 14


def test_flip_safe() -> None:
    assert flip_safe(["ants", "bees"])
    assert flip_safe(["bright", "leftover"])
    assert not flip_safe(["00", "01", "42"])
    assert not flip_safe(["A", "B", "ñ"])
    assert not flip_safe(["Turn Left", "stop"])
    assert not flip_safe(["arrow-right", "stop"])


# --- families that are left out ------------------------------------------------------------------------


def test_flip_and_crop_are_left_out() -> None:
    ramp = Image.fromarray(np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2))
    still = AUGMENTATIONS.get("light")(PREP, avoid=("flip", "crop"))
    evaluated = evaluate_image(ramp, PREP)
    assert all(torch.equal(still(ramp, rng(seed)), evaluated) for seed in range(5))
    mirrored = AUGMENTATIONS.get("light")(PREP, avoid=("crop",))
    seen = {bytes(mirrored(ramp, rng(seed)).numpy().tobytes()) for seed in range(20)}
    assert seen == {evaluated.numpy().tobytes(), evaluated.flip(2).contiguous().numpy().tobytes()}


@pytest.mark.parametrize("name", ["standard", "strong"])
def test_colours_stay_where_they_are_to_be_left_alone(name: str) -> None:
    red = Image.new("RGB", (50, 50), (200, 10, 30))
    policy = AUGMENTATIONS.get(name)(PREP, avoid=("colour",))
    fill = {(200, 10, 30), tuple(round(255 * v) for v in PREP.mean)}
    for seed in range(40):
        made = policy(red, rng(seed)).flatten(1).T.unique(dim=0).tolist()
        assert {tuple(c) for c in made} <= fill, seed


def test_rotations_are_left_out_of_strong(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    operations = {
        key: (lambda image, level, sign, fill, key=key: (drawn.append(key), image)[1])
        for key in vocabulary.NAMES
    }
    monkeypatch.setattr(vocabulary, "OPERATIONS", operations)
    policy = AUGMENTATIONS.get("strong")(PREP, avoid=("rotation",))
    for seed in range(200):
        policy(picture(1, (40, 40)), rng(seed))
    assert set(drawn) == set(vocabulary.NAMES) - {"rotate", "shear_x", "shear_y"}


@pytest.mark.parametrize("name", POLICIES)
def test_one_family_alone(name: str) -> None:
    policy, image = AUGMENTATIONS.get(name)(PREP), picture(5, (60, 50))
    plain = evaluate_image(image, PREP).permute(1, 2, 0).numpy()
    for family in policy.families:
        made = [policy.alone(family, image, rng(seed)) for seed in range(6)]
        assert all(m.shape == (32, 32, 3) and m.dtype == np.uint8 for m in made)
        assert any((m != plain).any() for m in made), family
        assert np.array_equal(policy.alone(family, image, rng(3)), made[3])
    if "flip" in policy.families:
        assert np.array_equal(policy.alone("flip", image, rng()), plain[:, ::-1])
    for family in set(module.FAMILIES) - set(policy.families):
        with pytest.raises(KeyError, match=family):
            policy.alone(family, image, rng())
