"""simplejpeg in Pillow's place: the same pixels, and Pillow's word on everything odd."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data import turbo
from finetune.data.batches import TrainBatches
from finetune.data.folder import Decoded
from finetune.data.load import read_folder
from finetune.data.preprocessing import Preprocessing
from finetune.data.scaled import decode_scaled
from finetune.data.turbo import decode_jpeg
from finetune.errors import DataError
from finetune.recipe import DataRecipe
from tests.data.test_scaled import encoded, scene

PREP = Preprocessing(24, 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(params=["simplejpeg", "none"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With simplejpeg, and as if it were not installed."""
    if request.param == "simplejpeg":
        pytest.importorskip("simplejpeg")
    else:
        monkeypatch.setitem(sys.modules, "simplejpeg", None)
    turbo._decoder.cache_clear()
    monkeypatch.setattr(turbo, "_decoder", turbo._decoder.__wrapped__)
    return str(request.param)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_the_same_pixels_as_pillow(scale: int, subsampling: int, progressive: bool) -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(scene(3, (336, 248)), "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
    size = (336 // scale, 248 // scale)
    found = decode_jpeg(data, size, scale)
    assert found is not None
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", size)
        assert image.size == size
        assert (found == np.asarray(image)).all()


def test_another_size_than_told_or_damage_is_left_to_pillow() -> None:
    pytest.importorskip("simplejpeg")
    data = encoded(scene(3, (320, 240)), "JPEG")
    assert decode_jpeg(data, (320, 240), 1) is not None
    for size in ((320, 232), (328, 240), (640, 480)):
        assert decode_jpeg(data, size, 1) is None
    assert decode_jpeg(data[:-700], (320, 240), 1) is None
    assert decode_jpeg(b"\xff\xd8 no photo", (320, 240), 1) is None
    assert decode_jpeg(b"", (320, 240), 1) is None
    with pytest.raises(DataError, match="cut short"):
        decode_scaled(data[:-700], None, array=True)
    # Bytes behind the image are no damage to Pillow, whatever libjpeg warns of.
    assert isinstance(decode_scaled(data + b"tail", None, array=True).pixels, np.ndarray)


def _epoch(root: Path, room: int) -> torch.Tensor:
    recipe = DataRecipe(path=str(root), cache="memory", image_size=24)
    images = read_folder(recipe, Decoded(room)).given["all"]
    return torch.cat([x for x, _ in TrainBatches(images, PREP, "light", 4, seed=1).epoch(0)])


def test_training_crops_do_not_depend_on_the_decoder(
    tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for i, size in enumerate(((336, 256), (333, 250), (64, 56), (120, 90))):
        for name in ("ant", "bee"):
            (tmp_path / name).mkdir(exist_ok=True)
            scene(i, size).save(tmp_path / name / f"{i}.jpg", quality=90)
            scene(i + 4, size).save(tmp_path / name / f"{i}r.jpg", quality=90, exif=exif)
            scene(i + 8, size).convert("L").save(tmp_path / name / f"{i}g.jpg")
    found = [_epoch(tmp_path, room) for room in (0, 10**9)]
    assert torch.equal(found[0], found[1])  # decoded anew, or kept since the check
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert torch.equal(found[0], _epoch(tmp_path, 0))
