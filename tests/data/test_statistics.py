"""Mean and std of the pixels: the formula, and that a run uses, keeps and says them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image

from finetune.data import statistics
from finetune.data.load import from_datasets
from finetune.data.preprocessing import Preprocessing
from finetune.data.statistics import channel_statistics

PREP = Preprocessing(16, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TRAIN = {
    "epochs": 1,
    "batch_size": 16,
    "precision": "fp32",
    "channels_last": False,
    "refit": False,
    "avoid": [],
}


def image_set(images: list[Image.Image]) -> object:
    rows = [(image, i % 2) for i, image in enumerate(images)]
    return from_datasets(rows, rows[:2], rows[:2], classes=["a", "b"]).train


def test_the_formula() -> None:
    images = [picture(i, (16, 16)) for i in range(12)]
    pixels = np.concatenate([np.asarray(i).reshape(-1, 3) for i in images]) / 255
    mean, std = channel_statistics(image_set(images), PREP, threads=2)  # type: ignore[arg-type]
    assert mean == pytest.approx(pixels.mean(0), abs=1e-4)
    assert std == pytest.approx(pixels.std(0), abs=1e-4)


def test_a_flat_channel_can_still_be_divided_by() -> None:
    red = [Image.new("RGB", (16, 16), (200, v, 0)) for v in (0, 100, 200, 50)]
    mean, std = channel_statistics(image_set(red), PREP)  # type: ignore[arg-type]
    assert mean == pytest.approx((200 / 255, 87.5 / 255, 0), abs=1e-4)
    assert std[0] == std[2] == round(1 / 255, 4)


def test_many_images_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST", 3)
    images = [Image.new("RGB", (16, 16), (10 * i, 0, 0)) for i in range(21)]
    mean, _ = channel_statistics(image_set(images), PREP)  # type: ignore[arg-type]
    assert mean[0] == pytest.approx(100 / 255, abs=1e-4)


@pytest.mark.parametrize("strategy", ["scratch", "linear"])
def test_a_run_normalises_by_its_own_images(picture_folder: Path, tmp_path: Path, strategy: str) -> None:
    from finetune.api import run
    from finetune.events import Listener
    from finetune.zoo.create import load_backbone

    class Words(Listener):
        said: tuple[str, ...] = ()

        def on_message(self, text: str) -> None:
            self.said = (*self.said, text)

    words = Words()
    keys = {
        "data": {"path": str(picture_folder), "image_size": 32, "normalise": "data"},
        "strategy": strategy,
    }
    done = run({**keys, "train": TRAIN, "out": str(tmp_path / "r")},
               figures=False, listener=words)  # fmt: skip
    assert any("Pixels are normalised by the training images' own mean" in text for text in words.said)
    assert not any("Failure" in text for text in words.said)
    kept = load_backbone(done.path / "model").preprocessing
    card = json.loads((done.path / "model" / "config.json").read_text())["pretrained_cfg"]
    assert list(kept.mean) == card["mean"]
    assert kept.mean != (0.485, 0.456, 0.406)
    batch = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor(kept.mean)) / torch.tensor(kept.std)
    torch.testing.assert_close(kept.normalise(batch)[0, :, 0, 0], expected)
