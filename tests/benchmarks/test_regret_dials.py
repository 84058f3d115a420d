"""Dial targets: the pixels that are promised, written once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.regret import dials
from benchmarks.regret.cases import make_case
from benchmarks.regret.dials import DIALS, PATCHES, make_dial
from finetune.data.load import load_data
from finetune.errors import ConfigError
from finetune.recipe import DataRecipe


@pytest.fixture
def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1)))
    return Image.fromarray(smooth.astype(np.uint8))


def turned(name: str, image: Image.Image, times: int = 1) -> Image.Image:
    for _ in range(times):
        image = DIALS[name](image, np.random.default_rng(3))
    return image


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode == "RGB" and np.array_equal(np.asarray(a), np.asarray(b))


def test_inverted_twice_and_hue_three_times_are_the_identity(photo: Image.Image) -> None:
    assert same(turned("inverted", photo, 2), photo)
    assert not same(turned("inverted", photo), photo)
    assert same(turned("hue", photo, 3), photo)
    red = Image.new("RGB", (2, 2), (200, 10, 0))
    assert turned("hue", red).getpixel((0, 0)) == (0, 200, 10)  # red has become green


def test_shuffling_moves_patches_and_changes_none(photo: Image.Image) -> None:
    mixed = turned("shuffled", photo)
    assert not same(mixed, photo)

    def patches(image: Image.Image) -> list[bytes]:
        side = image.width // PATCHES
        boxes = [(x, y, x + side, y + side) for y in range(0, 32, side) for x in range(0, 32, side)]
        return sorted(image.crop(box).tobytes() for box in boxes)

    assert patches(mixed) == patches(photo)
    order = np.random.default_rng(3).permutation(PATCHES**2)
    first = photo.crop((8 * int(order[0] % 4), 8 * int(order[0] // 4), 8 * int(order[0] % 4) + 8,
                        8 * int(order[0] // 4) + 8))  # fmt: skip
    assert same(mixed.crop((0, 0, 8, 8)), first)
    assert turned("shuffled", photo.resize((35, 33))).size == (32, 32)
    tiny = photo.resize((3, 3))
    assert same(turned("shuffled", tiny), tiny)


def test_edges_are_grey_and_flat_images_have_none(photo: Image.Image) -> None:
    made = np.asarray(turned("edges", photo))
    assert (made[:, :, 0] == made[:, :, 1]).all()
    assert made[1, 1].max() == 0  # inside a block of one colour
    assert made.max() == 255
    assert np.asarray(turned("edges", Image.new("RGB", (9, 9), (90, 90, 90)))).max() == 0


def test_blurring_smooths(photo: Image.Image) -> None:
    rough, smooth = (np.abs(np.diff(np.asarray(p, dtype=float), axis=1)).mean() for p in
                     (photo, turned("blurred", photo)))  # fmt: skip
    assert smooth < rough


def test_a_target_is_a_data_set_made_once(picture_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for split in ("train", "val"):
        (tmp_path / "src" / split).symlink_to(picture_folder)
    made = make_dial(tmp_path / "src", "inverted", per_class=5, cache=tmp_path / "cache")
    assert made.name == "src~inverted"
    assert make_case(made, {}).family == "src"
    assert {p.name for p in made.iterdir()} == {"train", "val"}
    files = sorted((made / "train" / "disc").glob("*.png"))
    assert len(files) == 5
    stamps = [f.stat().st_mtime_ns for f in files]
    assert make_dial(tmp_path / "src", "inverted", per_class=5, cache=tmp_path / "cache") == made
    assert [f.stat().st_mtime_ns for f in files] == stamps
    originals = {Image.open(f).convert("RGB").tobytes() for f in (picture_folder / "disc").iterdir()}
    for file in files:
        assert (
            dials.inverted(Image.open(file).convert("RGB"), np.random.default_rng(0)).tobytes() in originals
        )
    assert len(load_data(DataRecipe(path=str(made), workers=1), 0).test) == 15
    twice = make_dial(made, "inverted", per_class=5, cache=tmp_path / "cache")
    assert twice.name == "src~inverted~inverted"
    assert {Image.open(f).tobytes() for f in (twice / "train" / "disc").iterdir()} <= originals


def test_a_stop_half_way_leaves_nothing(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def stop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        calls.append(image)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return image

    monkeypatch.setitem(DIALS, "hue", stop)
    with pytest.raises(KeyboardInterrupt):
        make_dial(picture_folder, "hue", cache=tmp_path / "cache")
    assert [p for home in (tmp_path / "cache").iterdir() for p in home.iterdir()] == []


def test_unknown_dial(picture_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a dial must be one of inverted, .* Did you mean \"blurred\""):
        make_dial(picture_folder, "blured")
