"""Reduced decoding: the same picture within the stated tolerance, whatever the size, the turn and the memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, picture
from PIL import Image

from finetune.data.batches import eval_tensor
from finetune.data.decode import check, open_rgb
from finetune.data.folder import Decoded, FolderImages
from finetune.data.load import load_data, read_folder
from finetune.data.preprocessing import Preprocessing
from finetune.data.reading import MARGIN, Reading, expected_side, needed_side
from finetune.data.resample import cut_out
from finetune.data.scaled import decode_scaled, open_scaled, upright_box
from finetune.data.transforms import evaluate_pixels
from finetune.errors import ConfigError, DataError
from finetune.recipe import DataRecipe, Recipe

PREP = Preprocessing(28, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """Octaves of noise: a photo's spectrum."""
    rng, made = np.random.default_rng(seed), np.zeros((size[1], size[0], 3), np.float32)
    for level in range(2, 8):
        noise = rng.normal(size=(2**level, 2**level, 3)).astype(np.float32)
        for c in range(3):
            made[..., c] += (
                np.asarray(Image.fromarray(noise[..., c]).resize(size, Image.Resampling.BICUBIC)) / 2**level
            )
    return Image.fromarray((128 + 50 * made / made.std()).clip(0, 255).astype(np.uint8))


def photos(root: Path, count: int = 4, size: tuple[int, int] = (333, 250)) -> Path:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            scene(i + 10 * (name == "bee"), size).save(root / name / f"{i}.jpg", quality=90)
    return root


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_same_picture_at_any_turn(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(1, (663, 501)), "JPEG", quality=90, exif=exif)  # no multiples of 2, 4, 8
    full = open_rgb(data)
    for short, scale in ((200, 2), (100, 4), (62, 8)):
        found = decode_scaled(data, short)
        assert found.size == full.size
        assert min(found.picture.size) == -(-501 // scale)
        prep = Preprocessing(int(0.875 * short / MARGIN), 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3)
        apart = np.abs(evaluate_pixels(found, prep).astype(int) - evaluate_pixels(full, prep))
        assert apart.mean() < 1.5
        if scale == 8:  # a shift by the part of a pixel that libjpeg adds would show
            still = evaluate_pixels(found.picture, prep).astype(int)
            assert apart.mean() < np.abs(still - evaluate_pixels(full, prep)).mean()


def test_boxes_turn_with_the_image() -> None:
    marked = np.zeros((4, 6), np.uint8)
    marked[1:3, 0:4] = 1
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Pillow's number of the operation
    for orientation, operation in turns.items():
        turned = np.asarray(Image.fromarray(marked).transpose(Image.Transpose(operation)))
        left, top, right, bottom = (int(v) for v in upright_box((0, 1, 4, 3), (6, 4), orientation))
        expected = np.zeros_like(turned)
        expected[top:bottom, left:right] = 1
        assert (turned == expected).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_arrays_hold_the_same_pixels(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(2, (50, 38)).convert(mode), "JPEG", exif=exif, quality=88)
    found = decode_scaled(data, 1000, array=True)
    assert isinstance(found.pixels, np.ndarray)
    assert (found.pixels == np.asarray(open_rgb(data))).all()
    assert found.size == open_rgb(data).size


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_other_formats_are_decoded_in_full(format: str) -> None:
    data = encoded(picture(3, (200, 160)), format)
    assert (np.asarray(decode_scaled(data, 10).picture) == np.asarray(open_rgb(data))).all()
    found = decode_scaled(data, 10, array=True).pixels
    assert isinstance(found, np.ndarray)
    assert found.flags.writeable


def test_damage_is_told_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(scene(1, (320, 240)), "JPEG")[:-900])
    for short in (20, 1000):
        for array in (False, True):
            with pytest.raises(
                DataError, match=r"a.jpg' must be a whole image file. Got one that is cut short"
            ):
                open_scaled(path, short, array=array)


def test_small_images_are_the_same_fast_or_exact(tmp_path: Path) -> None:
    root = photos(tmp_path, size=(90, 70))
    fast, exact = (load_data(DataRecipe(path=str(root), decode=d), 0).train for d in ("fast", "exact"))  # type: ignore[arg-type]
    assert fast.reading == Reading(True, "auto", 640)
    assert torch.equal(eval_tensor(fast, PREP), eval_tensor(exact, PREP))
    assert all(fast.key(i, 80) == fast.fingerprint(i) for i in range(len(fast)))


def test_pixels_do_not_depend_on_what_was_kept_when_reading(tmp_path: Path) -> None:
    root = photos(tmp_path, size=(336, 256))
    made = []
    for room in (0, 10**9):
        for size in (None, PREP.size, 64):  # the guess of what will be asked for
            recipe = DataRecipe(path=str(root), image_size=size, cache="memory")
            images = read_folder(recipe, Decoded(room)).given["all"]
            assert images.load(0).size == (336, 256)
            assert [images.info(0).width, images.info(0).height] == [336, 256]
            made.append(eval_tensor(images, PREP))
    assert all(torch.equal(made[0], other) for other in made)
    exact = eval_tensor(read_folder(DataRecipe(path=str(root), decode="exact")).given["all"], PREP)
    apart = (made[0].short() - exact.short()).abs().float()
    assert 0 < apart.mean() < 1.5


def test_what_was_decoded_for_the_check_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = photos(tmp_path, size=(336, 256))
    images = read_folder(DataRecipe(path=str(root), image_size=PREP.size)).given["all"]
    opened: list[object] = []
    monkeypatch.setattr("finetune.data.folder.open_scaled", lambda *args, **kwargs: opened.append(args))
    eval_tensor(images, PREP)
    assert opened == []


def test_the_key_tells_the_scale(tmp_path: Path) -> None:
    images = read_folder(DataRecipe(path=str(photos(tmp_path)))).given["all"]
    assert isinstance(images.base, FolderImages)  # type: ignore[attr-defined]
    keys = [images.key(0, short) for short in (1000, 125, 100, 62)]
    assert keys[0] == images.fingerprint(0)
    assert keys[1] == keys[2]
    assert len(set(keys)) == 3
    assert images.key(0, 62) != images.key(1, 62)


def test_sizes_that_are_asked_for() -> None:
    prep = Preprocessing(224, 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert needed_side(prep) == 640 == expected_side(DataRecipe())
    assert needed_side(prep, 700) == 700
    assert expected_side(DataRecipe(decode="exact")) is None
    assert expected_side(DataRecipe(image_size=64)) == 183


def test_the_check_decodes_at_the_scale_that_is_needed() -> None:
    data = encoded(scene(1, (320, 240)), "JPEG")
    for room, short, size in (
        (10**6, None, (320, 240)),
        (10**6, 60, (80, 60)),
        (5000, 60, (80, 60)),
        (4000, 60, None),
    ):
        info, kept = check(data, room=room, short=short)
        assert (info.width, info.height, info.jpeg) == (320, 240, True)
        assert (kept.size if kept else None) == size
    info, kept = check(encoded(scene(1, (321, 240)), "JPEG"), room=10**6, short=60)
    assert (info.width, info.height) == (321, 240)
    assert kept is None  # its reduced form ends within a pixel


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_crops_by_torch_are_those_of_pillow(interpolation: str) -> None:
    image, rng = scene(5, (200, 150)), np.random.default_rng(0)
    pixels = np.array(image)
    for side in (24, 64, 120):
        for _ in range(5):
            left, top = int(rng.integers(0, 60)), int(rng.integers(0, 40))
            box = (left, top, left + int(rng.integers(50, 140)), top + int(rng.integers(50, 110)))
            part = image.crop(box)
            pillow = np.asarray(cut_out(part, (0, 0, *part.size), side, interpolation)).astype(int)
            torchs = cut_out(pixels, box, side, interpolation)
            assert isinstance(torchs, np.ndarray)
            if interpolation == "lanczos":  # torch has none; Pillow looks over the edge of the box
                assert (torchs == np.asarray(cut_out(image, box, side, interpolation))).all()
            else:
                assert np.abs(torchs - pillow).max() <= 2
                assert np.abs(torchs - pillow).mean() < 0.3


def test_recipe_keys() -> None:
    with pytest.raises(ConfigError, match=r"data.decode: must be 'fast' or 'exact'. Got 'slow' instead"):
        Recipe.from_mapping({"data": {"decode": "slow"}})
    with pytest.raises(ConfigError, match=r"data.cache: must be 'auto', 'memory' or 'disk'"):
        Recipe.from_mapping({"data": {"cache": "ram"}})
