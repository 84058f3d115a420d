"""Images of more than 8 bits: which value becomes white, what is said of nearly black ones, NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from finetune.data.datasets import as_image
from finetune.data.decode import check, open_rgb
from finetune.data.load import from_datasets, load_data
from finetune.data.scaled import open_scaled
from finetune.errors import DataError
from finetune.recipe import DataRecipe

DEEP = [(np.uint16, "PNG"), (np.uint16, "TIFF"), (np.int32, "TIFF"), (np.float32, "TIFF")]


def image(top: float, kind: Any = np.uint16, seed: int = 0) -> Image.Image:
    """Values from 0 to ``top``, both among them."""
    values = np.random.default_rng(seed).random((20, 24)) * top
    values[0, 0], values[0, 1] = 0, top
    return Image.fromarray(values.astype(kind))


def tree(root: Path, top: float, kind: Any = np.uint16, format: str = "PNG") -> Path:
    for k, name in enumerate(("ants", "bees")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            data = encoded(image(top * (1 if i else 0.5), kind, 10 * k + i), format)
            (root / name / f"{i}.{format.lower()}").write_bytes(data)
    return root


def load(path: Path, **keys: Any) -> Any:
    return load_data(DataRecipe(path=str(path), **keys), 0)


@pytest.mark.parametrize(("kind", "format"), DEEP)
def test_the_largest_value_of_the_depth_is_white(kind: Any, format: str) -> None:
    made = image(4095, kind)
    expected = np.rint(np.asarray(made).astype(np.float64) * (255 / 4095))
    data = encoded(made, format)
    for found in (
        open_rgb(data, depth=12),
        open_scaled(data, 8, depth=12).picture,
        as_image(made, "x", 12)[0],
    ):
        assert np.array_equal(np.asarray(found)[:, :, 1], expected)
    for room in (0, 10**6):
        info, kept = check(data, room=room, depth=12)
        assert info.deep == (4095, 4095)
        assert (kept is None) == (room == 0)
    with pytest.raises(DataError, match=r"from 0 to 4,095, and data.depth=10 means 0 to 1,023"):
        open_rgb(data, depth=10)


def test_floats_up_to_one_whatever_the_depth() -> None:
    for depth in (None, 12):
        assert np.asarray(open_rgb(encoded(image(1, np.float32), "TIFF"), depth=depth)).max() == 255


def test_arrays_have_a_depth_too() -> None:
    values = np.array([[0, 4095]], np.uint16)
    assert np.asarray(as_image(values, "x", 12)[0])[0, :, 0].tolist() == [0, 255]
    assert np.asarray(as_image(values, "x")[0])[0, :, 0].tolist() == [0, 16]
    with pytest.raises(
        DataError, match=r"x must be an image of 10 bits \(data.depth\), 0 to 1,023. Got 4095"
    ):
        as_image(values, "x", 10)


@pytest.mark.parametrize(("top", "bits"), [(1000, 10), (4095, 12), (8191, 14)])
def test_nearly_black_images_are_told(top: int, bits: int, tmp_path: Path) -> None:
    root = tree(tmp_path, top)
    said = (
        f"20 images have more than 8 bits a pixel and no value above {top:,} of 65,535: nearly black. "
        f"Say how many bits they use: data.depth={bits}."
    )
    assert said in load(root).notes
    mended = load(root, depth=bits)
    assert not any("more than 8 bits" in note for note in mended.notes)
    brightest = max(np.asarray(mended.train.load(i)).max() for i in range(len(mended.train)))
    assert brightest >= 127
    assert mended.train.fingerprints() != load(root).train.fingerprints()  # nothing cached fits both
    assert mended.train.fingerprints() == load(root, depth=bits).train.fingerprints()


def test_bright_or_plain_images_are_not(tmp_path: Path, picture_folder: Path) -> None:
    for path in (tree(tmp_path / "a", 9000), tree(tmp_path / "b", 20, np.int32, "TIFF"), picture_folder):
        assert not any("more than 8 bits" in note for note in load(path).notes)
    plain = load(picture_folder)
    assert plain.train.fingerprints() == load(picture_folder, depth=12).train.fingerprints()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_set_aside(value: float, tmp_path: Path) -> None:
    root = tree(tmp_path, 1, np.float32, "TIFF")
    values = np.full((8, 8), 0.5, np.float32)
    values[3, 3] = value
    (root / "ants" / "0.tiff").write_bytes(encoded(Image.fromarray(values), "TIFF"))
    (aside,) = load(root).quarantined
    assert (aside.path, aside.reason) == ("ants/0.tiff", "has values that are no numbers (NaN or infinite)")


def test_prediction_and_evaluation_have_the_depth_of_training(tmp_path: Path) -> None:
    from finetune.api import open_run, run

    root = tree(tmp_path / "deep", 4095)
    data = {"path": str(root), "image_size": 32, "depth": 12}
    done = run({"strategy": "linear", "out": str(tmp_path / "run"), "data": data}, figures=False)
    again = open_run(done.path)
    file = root / "ants" / "1.png"
    eight = open_rgb(file, depth=12)
    answers = again.predict([file, eight, Image.open(file)])
    assert len({a.probability for a in answers}) == 1
    assert again.evaluate(root).n == 20


def test_datasets_have_it() -> None:
    found = from_datasets([(image(4095, seed=i), i % 2) for i in range(20)], recipe=DataRecipe(depth=12))
    assert all(np.asarray(found.train.load(i)).max() == 255 for i in range(len(found.train)))
