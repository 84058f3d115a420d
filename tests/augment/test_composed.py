"""Policies of single operations: each does what it is called and nothing else, as strong as in ``rich``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photos import batch, photographs

from finetune.augment import BATCHED
from finetune.augment.changes import Changes
from finetune.augment.colour import ColourMaps
from finetune.augment.draws import Counted
from finetune.data import AUGMENTATIONS
from finetune.data.augment import FAMILIES
from finetune.data.policies import FAMILY_OF, families_of
from finetune.data.preprocessing import Preprocessing
from finetune.data.transforms import evaluate_image
from finetune.errors import ConfigError
from finetune.recipe import Recipe
from finetune.recipe_values import PARTS

PREP = Preprocessing(32, 1.0, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ROWS = 400


def draws(rows: int = ROWS) -> Counted:
    return Counted(1, 0, np.arange(rows), np.zeros(rows))


def changes(name: str, **keys: object) -> Changes:
    found: Changes = BATCHED.get(name)(PREP, **keys).changes(draws(), np.ones(ROWS))
    return found


def colours(found: Changes) -> ColourMaps:
    """The only step."""
    ((rows, maps),) = found.steps
    assert isinstance(maps, ColourMaps)
    assert len(rows) == ROWS
    return maps


def test_all_operations_are_rich() -> None:
    name, photos, aspects = "+".join(PARTS), batch(64), np.linspace(0.7, 1.5, 8)
    both = [BATCHED.get(n)(PREP)(photos, draws(8), aspects) for n in (name, "rich")]
    assert torch.equal(*both)
    for seed in range(5):
        single = [
            AUGMENTATIONS.get(n)(PREP)(photographs()[0], np.random.default_rng(seed)) for n in (name, "rich")
        ]
        assert torch.equal(*single)
    assert BATCHED.get(name).families == AUGMENTATIONS.get(name).families == FAMILIES


@pytest.mark.parametrize("part", PARTS)
def test_an_operation_does_itself_alone(part: str) -> None:
    found = changes(part)
    kind = dict.fromkeys(("crop", "flip", "rotation", "translation", "shear", "perspective"), "maps")
    kind |= {p: "steps" for p, family in FAMILY_OF.items() if family == "colour"}
    kind |= {"elastic": "bends", "blur": "steps", "noise": "noise", "erasing": "erased"}
    still = np.abs(found.maps - np.eye(3)).max() < 1e-9
    assert {
        "maps": not still, "bends": found.bends is not None, "steps": bool(found.steps),
        "noise": found.noise is not None, "erased": found.erased is not None,
    } == {key: key == kind[part] for key in ("maps", "bends", "steps", "noise", "erased")}  # fmt: skip
    assert families_of([part]) == ((FAMILY_OF[part],) if part in FAMILY_OF else ())
    if part in FAMILY_OF:
        without = changes(part, avoid=[FAMILY_OF[part]])
        assert np.allclose(without.maps, np.eye(3))
        assert not without.steps
        assert without.bends is without.noise is without.erased is None


def test_geometry_has_the_strengths_of_rich() -> None:
    turned = changes("rotation").maps
    degrees = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert 9 < np.abs(degrees).max() <= 10
    assert np.allclose(np.linalg.det(turned), 1)
    assert np.abs(turned[:, :2, 2]).max() < 1e-9
    moved = changes("translation").maps
    assert np.allclose(moved[:, :2, :2], np.eye(2))
    assert 0.09 < np.abs(moved[:, :2, 2]).max() <= 0.1 + 1e-9  # of coordinates that are 2 wide
    sheared = changes("shear").maps
    assert np.abs(sheared[:, :2, 2]).max() < 1e-9
    assert 0.08 < np.abs(sheared[:, 0, 1]).max() < 0.11
    assert (changes("flip").maps[:, 0, 0] < 0).mean() == pytest.approx(0.5, abs=0.08)
    bent = np.abs(changes("perspective").maps[:, 2, :2]).max(axis=1) > 1e-6
    assert bent.mean() == pytest.approx(0.25, abs=0.07)
    bends = changes("elastic").bends
    assert bends is not None
    assert (np.abs(bends).max(axis=(1, 2, 3)) > 0).mean() == pytest.approx(0.25, abs=0.07)
    assert 0.07 < np.abs(bends).max() <= 0.08


def test_colours_have_the_strengths_of_rich() -> None:
    brightness = colours(changes("brightness")).own
    factors = brightness[:, 0, 0]
    assert np.allclose(brightness, factors[:, None, None] * np.eye(3))
    assert 0.8 <= factors.min() < 0.82 < 1.18 < factors.max() <= 1.2
    contrast = colours(changes("contrast"))
    assert np.allclose(contrast.own[:, 0, 1], 0)
    assert np.abs(contrast.mean).max() > 0.05
    saturation = colours(changes("saturation"))
    assert np.abs(saturation.mean).max() == 0
    assert np.allclose(saturation.own.sum(axis=2), 1, atol=1e-3)  # greys stay
    assert 0.05 < np.abs(colours(changes("hue")).own[:, 0, 1]).max() < 0.2
    cast = colours(changes("cast"))
    assert np.allclose(cast.own, np.eye(3))
    assert 18 < np.abs(cast.shift).max() <= 20
    assert (np.abs(cast.shift).max(axis=1) > 0).mean() == pytest.approx(0.5, abs=0.08)
    lighting = colours(changes("lighting")).shift
    first = 0.1 * 55.46 * np.array([0.5675, 0.5808, 0.5836])  # the largest component by far
    assert lighting.std(axis=0) == pytest.approx(first, rel=0.15)


def test_without_crop_the_evaluation_image_is_changed() -> None:
    photo = photographs()[1].resize((70, 50))
    plain = evaluate_image(photo, PREP)
    made = [AUGMENTATIONS.get("flip")(PREP)(photo, np.random.default_rng(seed)) for seed in range(20)]
    assert {bytes(m.numpy().tobytes()) for m in made} == {
        plain.numpy().tobytes(), plain.flip(2).contiguous().numpy().tobytes()
    }  # fmt: skip
    changed = AUGMENTATIONS.get("brightness")(PREP)(photo, np.random.default_rng(3)).float()
    assert torch.corrcoef(torch.stack([changed.flatten(), plain.float().flatten()]))[0, 1] > 0.98
    assert AUGMENTATIONS.get("brightness")(PREP, flip=True).flip is False


def test_order_does_not_matter_and_names_are_checked() -> None:
    one, two = (AUGMENTATIONS.get(n)(PREP) for n in ("flip+crop+noise", "noise+flip+crop"))
    photo = photographs()[2]
    assert torch.equal(one(photo, np.random.default_rng(0)), two(photo, np.random.default_rng(0)))
    assert "crop+noise" in AUGMENTATIONS
    assert "crop+noice" not in BATCHED
    with pytest.raises(ConfigError, match=r"Got 'noice' instead. Did you mean \"noise\""):
        AUGMENTATIONS.get("crop+noice")
    with pytest.raises(ConfigError, match=r"Did you mean \"rotation\""):
        BATCHED.get("rotatio")
    with pytest.raises(ConfigError, match=r"crops by area or short-side. Got 'short' instead"):
        AUGMENTATIONS.get("light/short")


def test_recipes_take_lists() -> None:
    for given in ("[flip,crop]", "flip+crop"):
        recipe = Recipe().override(f"train.augment={given}", "train.crop=short-side")
        assert recipe.train.augment == ("flip", "crop")
    assert Recipe().override("train.augment=noise").train.augment == ("noise",)
    assert Recipe().override("train.augment=rich").train.augment == "rich"
    for given, said in (
        (
            "[crop,flp]",
            r"must be a list of crop, .*erasing \(Did you mean \"flip\"\?\). Got \['crop', 'flp'\]",
        ),
        ("stong", r"must be one of none, .* or a list of operations \(Did you mean \"strong\"\?\)"),
        ("[]", "for no augmentation write none"),
        ("[crop,crop]", "each operation once"),
        ("3", "or a list of operations. Got 3"),
    ):
        with pytest.raises(ConfigError, match=said):
            Recipe().override(f"train.augment={given}")
    with pytest.raises(ConfigError, match="train.crop: must be 'area' or 'short-side'"):
        Recipe().override("train.crop=short")
