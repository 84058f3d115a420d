"""The batched policies: what they draw, from what it follows, and that they do what their namesakes do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photos import batch, photographs
from PIL import Image

from finetune.augment import BATCHED, where
from finetune.augment.changes import Changes
from finetune.augment.draws import Counted, Generated, philox
from finetune.augment.geometry import crop_boxes
from finetune.augment.policies import Batched, batched, evaluated
from finetune.data import AUGMENTATIONS
from finetune.data.augment import FAMILIES
from finetune.data.operations import AUTO_PAIRS, NAMES, RAND_LEVEL, narrowed
from finetune.data.preprocessing import Preprocessing
from finetune.data.transforms import evaluate_pixels
from finetune.errors import ConfigError

PREP = Preprocessing(32, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
POLICIES = [*BATCHED.names(), "light/short-side", "rich/short-side", "flip+crop+rotation+elastic+lighting"]


def draws(samples: np.ndarray | int = 8, seed: int = 1, epoch: int = 0, time: int = 0) -> Counted:
    chosen = np.arange(samples) if isinstance(samples, int) else samples
    return Counted(seed, epoch, chosen, np.full(len(chosen), time))


def make(name: str, **keys: object) -> Batched:
    policy: Batched = BATCHED.get(name)(PREP, **keys)
    return policy


def numbers(found: Changes) -> list[np.ndarray]:
    """Everything a batch was told to undergo, spread over its images."""
    rows = len(found.maps)
    out = [found.maps, np.zeros(1) if found.bends is None else found.bends]
    steps = [(r, m.own, m.mean, m.shift) if not isinstance(m, tuple) else (r, m[1]) for r, m in found.steps]
    for r, *parts in [*steps, *filter(None, [found.noise, found.erased])]:
        for part in parts:
            spread = np.zeros((rows, *np.shape(part)[1:]))
            spread[r] = part
            out.append(spread)
    return out


# --- numbers -------------------------------------------------------------------------------------------


def test_philox_gives_the_published_words() -> None:
    """The known answers of Random123, philox4x32 10 rounds."""
    known = [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]  # fmt: skip
    for counter, key, words in known:
        assert tuple(int(w) for w in philox(np.array(counter), key)) == words


def test_numbers_follow_from_seed_epoch_sample_and_time_alone() -> None:
    whole = draws(50).columns(9)
    assert np.array_equal(draws(np.array([7, 3])).columns(9), whole[[7, 3]])
    assert len(np.unique(whole)) > 440
    for other in ({"seed": 2}, {"epoch": 1}, {"time": 1}, {"seed": 1 + 2**32}):
        assert not (draws(50, **other).columns(9) == whole).any()


def test_numbers_have_their_distributions() -> None:
    many = draws(20_000)
    assert abs(many.uniform(2, 4).mean() - 3) < 0.02
    assert np.allclose(np.bincount(many.below(5)) / 20_000, 0.2, atol=0.02)
    assert abs(many.chance(0.3).mean() - 0.3) < 0.02
    assert abs(many.sign().mean()) < 0.03
    normal = many.normal(2)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert abs(np.corrcoef(many.columns(2).T)[0, 1]) < 0.03
    assert Generated(np.random.default_rng(0)).uniform(0, 1, 3).shape == (1, 3)


@pytest.mark.parametrize("name", POLICIES)
def test_neither_batch_nor_order_changes_an_image(name: str) -> None:
    """The parameters are equal, the pixels to the rounding of a sum."""
    policy, photos = make(name), batch(96)
    aspects = np.linspace(0.7, 1.6, 8)
    samples = np.array([5, 90, 31, 4_000_000_000, 17, 2, 64, 8])
    whole = policy(photos, draws(samples), aspects)
    assert whole.shape == (8, 3, 32, 32)
    assert whole.dtype == torch.uint8
    for rows in ([6, 1, 3], [0], [7, 6, 5, 4, 3, 2, 1, 0]):
        part = policy(photos[rows], draws(samples[rows]), aspects[rows])
        assert (part.int() - whole[rows].int()).abs().max() <= 1
        assert np.array_equal(
            policy.changes(draws(samples[rows]), aspects[rows]).maps,
            policy.changes(draws(samples), aspects).maps[rows],
        )
    again = policy(photos, draws(samples, epoch=1), aspects)
    assert (again != whole).flatten(1).any(1).sum() >= 7


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("size", [(24, 20), (1, 1), (5, 300), (33, 130)])
def test_any_size_of_images(name: str, size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8)
    before, state = images.clone(), torch.get_rng_state()
    made = make(name)(images, draws(6), np.full(6, size[1] / size[0]))
    assert made.shape == (6, 3, 32, 32)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


# --- crops ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("aspect", [1.0, 4 / 3, 0.5, 30.0])
def test_crops_have_torchvisions_areas_and_ratios(aspect: float) -> None:
    from finetune.data.augment import crop_box

    boxes = crop_boxes(draws(4000), np.full(4000, aspect), (0.35, 1.0), (3 / 4, 4 / 3))
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-9
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    random, height = np.random.default_rng(0), 900
    theirs = np.array(
        [crop_box((round(height * aspect), height), (0.35, 1.0), (3 / 4, 4 / 3), random) for _ in range(2000)]
    ) / np.array([height * aspect, height, height * aspect, height])
    tw, th = theirs[:, 2] - theirs[:, 0], theirs[:, 3] - theirs[:, 1]
    assert abs((w * h).mean() - (tw * th).mean()) < 0.015
    assert abs((w * aspect / h).mean() - (tw * aspect / th).mean()) < 0.015
    assert np.allclose(boxes.mean(0), theirs.mean(0), atol=0.02)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (64, 64)])
def test_without_crops_the_evaluation_image_is_shown(mode: str, size: tuple[int, int]) -> None:
    prep = Preprocessing(32, 0.875, "bilinear", PREP.mean, PREP.std, mode)  # type: ignore[arg-type]
    policy = batched("light", prep, False, ["crop"])
    photo = photographs()[0].resize(size)
    side = policy.kept
    square = torch.from_numpy(np.array(photo.resize((side, side), Image.Resampling.BILINEAR)))
    made = policy(square.permute(2, 0, 1)[None], draws(1), np.array([size[0] / size[1]]))
    theirs = torch.from_numpy(evaluate_pixels(photo, prep).copy()).permute(2, 0, 1)
    # Evaluation rounds to whole pixels: up to half a pixel's shift.
    apart = (made[0].float() - theirs.float()).abs().mean()
    assert apart < 12
    assert apart < (made[0].flip(1).float() - theirs.float()).abs().mean() / 3
    assert np.allclose(evaluated(prep, np.array([1.0])).sum(), 2)


@pytest.mark.parametrize("name", ["light", "standard", "light/short-side", "crop+hue+shear"])
def test_both_forms_make_the_same_pictures_on_average(name: str) -> None:
    """Mean over 120 draws of a photograph of 4:3, pixel by pixel."""
    photo = photographs()[1].resize((120, 90))
    single, policy = AUGMENTATIONS.get(name)(PREP), make(name)
    kept = single.original(photo)
    theirs = np.mean(
        [single.pixels(kept, np.random.default_rng(i)).astype(float) for i in range(120)], axis=0
    )
    square = torch.from_numpy(np.array(photo.resize((policy.kept, policy.kept), Image.Resampling.BICUBIC)))
    whole = square.permute(2, 0, 1)[None].expand(120, -1, -1, -1).contiguous()
    ours = policy(whole, draws(120), np.full(120, 4 / 3)).float().mean(0).permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).mean() < 9
    unlike = np.abs(ours[::-1] - theirs).mean()
    assert np.abs(ours - theirs).mean() < unlike / 3


# --- the automatic policies ----------------------------------------------------------------------------


def test_auto_augment_is_torchvisions_table() -> None:
    from torchvision.transforms.v2 import AutoAugment

    def plain(name: str) -> str:
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_").replace("__", "_")

    theirs = AutoAugment()._policies
    assert len(AUTO_PAIRS) == len(theirs) == 25
    for ours, pair in zip(AUTO_PAIRS, theirs, strict=True):
        for (name, p, ninths), (their_name, their_p, their_level) in zip(ours, pair, strict=True):
            known = {"auto_contrast": "autocontrast", "brightness": "brightness"}
            assert name == known.get(plain(their_name), plain(their_name))
            assert (p, ninths) == (their_p, their_level or 0)


@pytest.mark.parametrize("which", ["RandAugment", "AutoAugment"])
def test_strengths_are_torchvisions(which: str) -> None:
    """Tangent, share of the side, degrees, factor, bits: of every operation at every ninth."""
    from torchvision.transforms import v2

    kind = getattr(v2, which)
    bins = 10 if which == "AutoAugment" else 31
    units = {"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 1 / 7, "TranslateY": 1 / 7, "Rotate": 135.0,
             "Brightness": 0.99, "Color": 0.99, "Contrast": 0.99, "Sharpness": 0.99}  # fmt: skip
    names = {"ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x",
             "TranslateY": "translate_y"}  # fmt: skip
    for theirs, (space, _) in kind._AUGMENTATION_SPACE.items():
        level = space(bins, 1, 1)
        if level is None:
            continue
        for i in range(bins):
            ours = narrowed(names.get(theirs, theirs.lower()), i / (bins - 1))
            if theirs == "Posterize":
                assert round(8 - 6 * ours) == int(level[i])
            elif theirs == "Solarize":
                assert 1 - ours == pytest.approx(float(level[i]), abs=1e-6)
            else:
                assert ours * units[theirs] == pytest.approx(float(level[i]), rel=1e-5, abs=1e-6)
    assert RAND_LEVEL == 9 / 30


@pytest.mark.parametrize("name", ["trivial", "rand", "autoaugment"])
@pytest.mark.parametrize("operation", [*NAMES, "invert"])
def test_operations_of_both_forms_agree(name: str, operation: str) -> None:
    """At the same level and sign, from the same pixels; torchvision looks geometry up without interpolation there."""
    from finetune.augment.automatic import operate
    from finetune.augment.geometry import identity
    from finetune.data.operations import OPERATIONS

    level = narrowed(operation, 0.5) if name != "trivial" else 0.7
    photos = batch(32)
    found = Changes(identity(8))
    operate(found, operation, np.arange(8), np.full(8, level), np.ones(8))
    ours = found.apply(photos, 32, (1.0, 2.0, 3.0)).round()
    images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in photos]
    theirs = torch.from_numpy(
        np.stack([np.asarray(OPERATIONS[operation](image, level, 1.0, [1, 2, 3])) for image in images])
    ).permute(0, 3, 1, 2)
    difference = (ours - theirs.float()).abs()
    if operation in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        coarse = [torch.nn.functional.avg_pool2d(x.float(), 8) for x in (ours, theirs)]
        assert (coarse[0] - coarse[1]).abs().mean() < 6
    elif operation == "autocontrast":  # Pillow's and torchvision's tensors disagree by a level
        assert difference.max() <= 2
    elif operation == "equalize":
        assert difference.mean() <= 2
    else:
        assert difference.max() <= 1


# --- families ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_families_are_those_of_the_loader(name: str) -> None:
    assert make(name).families == AUGMENTATIONS.get(name).families


@pytest.mark.parametrize("name", POLICIES)
def test_flips_crops_and_rotations_are_left_out(name: str) -> None:
    still = make(name, avoid=("flip", "crop", "rotation")).changes(draws(400), np.ones(400))
    assert still.bends is None
    turned = still.maps[:, :2, :2] - still.maps[:1, 0, 0] * np.eye(2)
    assert np.abs(turned).max() < 1e-9  # shifts may remain: they belong to no family
    assert np.abs(still.maps[:, 2] - [0, 0, 1]).max() < 1e-9
    some = {"avoid": ("crop", "rotation")}
    mirrored = make(name, **some).changes(draws(400), np.ones(400)).maps[:, 0, 0] < 0
    assert 0.4 < mirrored.mean() < 0.6
    assert (make(name, flip=False, **some).changes(draws(400), np.ones(400)).maps[:, 0, 0] > 0).all()
    if "rotation" in make(name).families:
        free = make(name, avoid=("flip", "crop")).changes(draws(400), np.ones(400)).maps
        assert np.abs(free[:, 0, 1]).max() > 0.05


@pytest.mark.parametrize("name", POLICIES)
def test_colours_are_left_out(name: str) -> None:
    policy = make(name, avoid=("colour",))
    red = torch.tensor([200, 10, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(200, 3, 40, 40).contiguous()
    found = policy.changes(draws(200), np.ones(200))
    assert all(isinstance(step, tuple) and step[0] in ("sharpness", "blur") for _, step in found.steps)
    found.noise, found.steps = None, []  # they belong to no family
    seen = found.apply(red, 32, policy.fill).round().permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)
    assert {tuple(c) for c in seen.tolist()} <= {(200, 10, 30), policy.fill}


def test_a_policy_can_leave_out_everything() -> None:
    for name in POLICIES:
        make(name, avoid=FAMILIES)(batch(40), draws(8), np.ones(8))


# --- where ---------------------------------------------------------------------------------------------


def test_where_it_is_computed() -> None:
    assert [where("auto", "standard", d) for d in ("cpu", "cuda", "mps")] == ["loader", "device", "device"]
    assert [where("device", "standard", d) for d in ("cpu", "cuda")] == ["device", "device"]
    assert [where("loader", "standard", d) for d in ("cpu", "cuda")] == ["loader", "loader"]
    assert where("device", "none", "cuda") == "loader"
    assert set(AUGMENTATIONS.names()) == {"none", *BATCHED.names()}


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"batched augmentation must be one of light.* Did you mean \"light\""
    ):
        batched("ligth", PREP, True, ())
