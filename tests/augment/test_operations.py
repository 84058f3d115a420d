"""Every batched operation beside torchvision's v2 functional at fixed parameters, on photographs.

The tolerances are the documented ones (docs/guide.md). ``exact``: one level of 255, which is rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from photos import batch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from finetune.augment.colour import ColourMaps
from finetune.augment.geometry import affine, crops, flips, identity, perspectives, resample
from finetune.augment.pixelwise import (
    autocontrast,
    blur,
    equalize,
    erase,
    noise,
    posterize,
    sharpness,
    solarize,
)

SIDE, FILL = 64, (124.0, 116.0, 104.0)
BILINEAR = {"interpolation": InterpolationMode.BILINEAR, "fill": list(FILL)}
ONE = np.ones(8)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return batch(SIDE)


def away(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours.round() - theirs.float()).abs()


# --- geometry ------------------------------------------------------------------------------------------

SHEAR = math.degrees(math.atan(0.3))
ENDS = [[4, 6], [60, 2], [58, 61], [3, 55]]
GEOMETRY: dict[str, tuple[np.ndarray, Callable[[Tensor], Tensor]]] = {
    "rotate 10": (affine(degrees=-10 * ONE), lambda x: tv.rotate(x, 10, **BILINEAR)),
    "rotate -35": (affine(degrees=35 * ONE), lambda x: tv.rotate(x, -35, **BILINEAR)),
    "rotate 135": (affine(degrees=-135 * ONE), lambda x: tv.rotate(x, 135, **BILINEAR)),
    "translate": (
        affine(shift_x=7 / 64 * ONE, shift_y=-5 / 64 * ONE),
        lambda x: tv.affine(x, 0, [7, -5], 1, [0, 0], **BILINEAR),
    ),
    "shear x": (affine(shear_x=0.3 * ONE), lambda x: tv.affine(x, 0, [0, 0], 1, [SHEAR, 0], **BILINEAR)),
    "shear y": (
        affine(shear_y=-0.3 * ONE, corner=True),
        lambda x: tv.affine(x, 0, [0, 0], 1, [0, -SHEAR], center=[0, 0], **BILINEAR),
    ),
    "all at once": (
        affine(20 * ONE, 3 / 64, 2 / 64, 0.3, 0.3),
        lambda x: tv.affine(x, 20, [3, 2], 1, [SHEAR, SHEAR], **BILINEAR),
    ),
    "perspective": (
        perspectives(np.tile(np.array(ENDS) / 32 - 1, (8, 1, 1))),
        lambda x: tv.perspective(x, [[0, 0], [64, 0], [64, 64], [0, 64]], ENDS, **BILINEAR),
    ),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_is_torchvisions(name: str, photos: Tensor) -> None:
    """Two levels of 255 wherever torchvision sees only image or only fill; it blends the two in a seam of a pixel."""
    maps, theirs = GEOMETRY[name]
    cover = theirs(torch.full_like(photos, 255))  # 255 inside, the fill outside
    known = ((cover == 255) | (cover == torch.tensor(FILL).view(3, 1, 1))).all(dim=1, keepdim=True)
    assert known.float().mean() > 0.85
    difference = away(resample(photos, maps, SIDE, FILL), theirs(photos)) * known
    assert difference.max() <= 2
    assert difference.mean() < 0.1


def test_elastic_warp_is_torchvisions(photos: Tensor) -> None:
    bends = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 2, 6, 6))
    shift = torch.nn.functional.interpolate(
        torch.from_numpy(bends).float(), (SIDE, SIDE), mode="bicubic", align_corners=True
    ).permute(0, 2, 3, 1)
    theirs = tv.elastic(photos, shift, **BILINEAR)
    cover = tv.elastic(torch.full_like(photos, 255), shift, **BILINEAR)
    difference = away(resample(photos, identity(8), SIDE, FILL, np.repeat(bends, 8, 0)), theirs)
    assert difference[cover == 255].max() <= 2


def test_flip_is_exact(photos: Tensor) -> None:
    assert torch.equal(resample(photos, flips(ONE > 0), SIDE, FILL), photos.flip(3).float())


def test_chain_is_one_after_the_other(photos: Tensor) -> None:
    """Crop, flip, rotate in one resampling: the pixels of three, but sharper; means of 8 x 8 pixels agree."""
    box = np.tile([0.1, 0.2, 0.8, 0.9], (8, 1))
    maps = crops(box) @ flips(ONE > 0) @ affine(degrees=-15 * ONE)
    ours = resample(photos, maps, SIDE, FILL)
    theirs = resample(photos, crops(box), SIDE, FILL).round().to(torch.uint8)
    theirs = tv.rotate(tv.horizontal_flip(theirs), 15, **BILINEAR)
    inside = slice(16, 48)  # what is beyond the crop is still there for ours, and fill for theirs
    coarse = [torch.nn.functional.avg_pool2d(x[..., inside, inside].float(), 8) for x in (ours, theirs)]
    assert (coarse[0] - coarse[1]).abs().max() < 3


@pytest.mark.parametrize("share", [1.0, 0.95, 0.85, 0.75, 0.6, 0.5])
def test_crops_are_near_the_antialiased_ones(share: float) -> None:
    """From 128 to 64 pixels and less: within 2.5 levels of 255 on average of Pillow's antialiased crop."""
    whole = batch(128)
    box = np.tile([(1 - share) / 2] * 2 + [(1 + share) / 2] * 2, (8, 1))
    theirs = [
        Image.fromarray(x.permute(1, 2, 0).numpy()).resize(
            (SIDE, SIDE), Image.Resampling.BILINEAR, box=tuple(box[0] * 128)
        )
        for x in whole
    ]
    reference = torch.from_numpy(np.stack([np.asarray(t) for t in theirs])).permute(0, 3, 1, 2)
    assert away(resample(whole, crops(box), SIDE, FILL), reference).mean() < 2.5


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_fine_stripes_become_grey(factor: int) -> None:
    """Aliasing would make black, white or broad stripes of them."""
    side = SIDE * factor
    stripes = torch.zeros((1, 3, side, side), dtype=torch.uint8)
    stripes[..., ::2] = 255
    assert (resample(stripes, identity(1), SIDE, FILL) - 127.5).abs().max() < 64
    assert (resample(stripes.mT.contiguous(), identity(1), SIDE, FILL) - 127.5).abs().max() < 64


# --- colours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 1.99])
def test_colours_are_torchvisions(name: str, factor: float, photos: Tensor) -> None:
    maps = ColourMaps(8)
    getattr(maps, name)(factor * ONE)
    theirs = getattr(tv, f"adjust_{name}")(photos, factor)
    assert away(maps.apply(photos.float()), theirs).max() <= 1  # torchvision cuts decimals off, we round


def test_composed_colours_are_torchvisions_where_nothing_is_cut_off(photos: Tensor) -> None:
    """In any order: the mean grey that contrast looks at has moved with the earlier changes."""
    dull = (photos.float() * 0.4 + 76).round().to(torch.uint8)  # between 76 and 178: nothing is cut off
    for order in (("brightness", "contrast", "saturation"), ("saturation", "contrast", "brightness"),
                  ("contrast", "brightness", "contrast")):  # fmt: skip
        maps, theirs = ColourMaps(8), dull
        for name, factor in zip(order, (1.15, 0.8, 1.2), strict=True):
            getattr(maps, name)(factor * ONE)
            theirs = getattr(tv, f"adjust_{name}")(theirs, factor)
        assert away(maps.apply(dull.float()), theirs).max() <= 3  # three times the decimals


def test_composed_colours_may_come_back_from_beyond_white(photos: Tensor) -> None:
    """torchvision cuts off at 255 after every change, we once: on bright photographs 4 levels on average."""
    maps = ColourMaps(8)
    maps.brightness(1.1 * ONE)
    maps.contrast(0.85 * ONE)
    maps.saturation(1.15 * ONE)
    theirs = tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(photos, 1.1), 0.85), 1.15)
    assert away(maps.apply(photos.float()), theirs).mean() < 4


@pytest.mark.parametrize("turn", [1 / 3, -1 / 3])
def test_hue_exchanges_channels_as_torchvisions_does(turn: float, photos: Tensor) -> None:
    maps = ColourMaps(8)
    maps.hue(turn * ONE)
    assert away(maps.apply(photos.float()), tv.adjust_hue(photos, turn)).float().quantile(0.999) <= 3


@pytest.mark.parametrize("turn", [0.05, -0.05])
def test_hue_turns_as_far_as_torchvisions(turn: float, photos: Tensor) -> None:
    """The same hue to 2% of the circle (median) where there is colour, the colours within 7 levels on average, greys
    and the sum of the channels as they were."""
    maps = ColourMaps(8)
    maps.hue(turn * ONE)
    soft = photos.float() * 0.5 + 64  # nothing is cut off
    ours, theirs = maps.apply(soft), tv.adjust_hue(soft / 255, turn) * 255
    assert (ours - theirs).abs().mean() < 7
    torch.testing.assert_close(ours.sum(1), soft.sum(1), atol=0.01, rtol=0)
    angles = [
        torch.atan2(3**0.5 * (x[:, 1] - x[:, 2]), 2 * x[:, 0] - x[:, 1] - x[:, 2]) for x in (ours, theirs)
    ]
    apart = ((angles[0] - angles[1]) / (2 * torch.pi) + 0.5).remainder(1) - 0.5
    coloured = soft.amax(1) - soft.amin(1) > 20
    assert apart[coloured].abs().median() < 0.02
    grey = photos.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert away(maps.apply(grey), grey).max() <= 1


def test_cast_and_invert(photos: Tensor) -> None:
    maps = ColourMaps(8)
    maps.cast(np.tile([10.0, -20.0, 0.0], (8, 1)))
    shift = torch.tensor([10.0, -20.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(maps.apply(photos.float()), (photos + shift).clamp(0, 255))
    turned = ColourMaps(8)
    turned.invert(np.arange(8) % 2 == 0)
    made = turned.apply(photos.float())
    assert away(made[0::2], tv.invert(photos[0::2])).max() == 0
    assert away(made[1::2], photos[1::2]).max() == 0


def test_lighting_moves_along_the_principal_components() -> None:
    """AlexNet's: eigenvectors times eigenvalues times the drawn numbers; grey moves along red + green + blue most."""
    maps = ColourMaps(2)
    maps.lighting(np.array([[0.1, 0.0, 0.0], [0.0, 0.1, 0.0]]))
    moved = maps.apply(torch.full((2, 3, 1, 1), 100.0)).view(2, 3) - 100
    torch.testing.assert_close(
        moved[0], 0.1 * 55.46 * torch.tensor([-0.5675, -0.5808, -0.5836]), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        moved[1], 0.1 * 4.794 * torch.tensor([0.7192, -0.0045, -0.6948]), atol=1e-3, rtol=0
    )


# --- the rest ------------------------------------------------------------------------------------------

POINTWISE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "posterize 2": (lambda x: posterize(x, 2 * ONE), lambda x: tv.posterize(x, 2)),
    "posterize 7": (lambda x: posterize(x, 7 * ONE), lambda x: tv.posterize(x, 7)),
    "solarize 0": (lambda x: solarize(x, 0 * ONE), lambda x: tv.solarize(x, 0)),
    "solarize 100": (lambda x: solarize(x, 100 * ONE), lambda x: tv.solarize(x, 100)),
    "autocontrast": (lambda x: autocontrast(x, ONE), tv.autocontrast),
    "equalize": (lambda x: equalize(x, ONE), tv.equalize),
    "sharpness 0.1": (lambda x: sharpness(x, 0.1 * ONE), lambda x: tv.adjust_sharpness(x, 0.1)),
    "sharpness 1.9": (lambda x: sharpness(x, 1.9 * ONE), lambda x: tv.adjust_sharpness(x, 1.9)),
    "blur 0.3": (lambda x: blur(x, 0.3 * ONE), lambda x: tv.gaussian_blur(x, [7, 7], [0.3, 0.3])),
    "blur 1.2": (lambda x: blur(x, 1.2 * ONE), lambda x: tv.gaussian_blur(x, [7, 7], [1.2, 1.2])),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_changes_are_torchvisions(name: str, photos: Tensor) -> None:
    ours, theirs = POINTWISE[name]
    assert away(ours(photos.float()), theirs(photos)).max() <= 1


@pytest.mark.parametrize("change", [autocontrast, equalize])
def test_flat_channels_stay(change: Callable[[Tensor, np.ndarray], Tensor]) -> None:
    flat = torch.full((1, 3, 8, 8), 77.0)
    assert torch.equal(change(flat, ONE[:1]), flat)


def test_amounts_differ_within_a_batch(photos: Tensor) -> None:
    bits = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    made = posterize(photos.float(), bits)
    for i, b in enumerate(bits):
        assert away(made[i], tv.posterize(photos[i], int(b))).max() == 0


def test_erased_boxes_are_torchvisions(photos: Tensor) -> None:
    boxes = np.tile([8 / 64, 16 / 64, 40 / 64, 20 / 64], (8, 1))
    colour = torch.tensor(FILL).view(3, 1, 1)
    assert torch.equal(erase(photos.float(), boxes, FILL), tv.erase(photos.float(), 16, 8, 4, 32, colour))


def test_noise_has_its_deviation_and_follows_the_place_alone() -> None:
    grey = torch.full((4, 3, 64, 64), 128.0)
    deviations, places = np.array([0.0, 5.0, 10.0, 20.0]), np.array([0.1, 0.2, 0.3, 0.4])
    made = noise(grey, deviations, places)
    assert torch.equal(made[0], grey[0])
    for i in (1, 2, 3):
        assert abs(float((made[i] - 128).std()) / deviations[i] - 1) < 0.05
    assert torch.equal(noise(grey[2:3], deviations[2:3], places[2:3])[0], made[2])
