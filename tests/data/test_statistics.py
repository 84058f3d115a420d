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
from finetune.data.preprocessing import Preprocessing, mean_image
from finetune.data.statistics import channel_statistics, with_mean_image

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
    others = [(picture(1000 + i), i) for i in range(2)]
    return from_datasets(rows, others, others, classes=["a", "b"]).train


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
    from finetune.zoo.model_folder import load_backbone

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


def test_the_mean_image_is_the_mean_at_each_place() -> None:
    images = [picture(i, (16, 16)) for i in range(12)]
    levels = np.stack([np.asarray(i) for i in images]).astype(float)
    made = with_mean_image(image_set(images), PREP, threads=2)  # type: ignore[arg-type]
    mean = np.rint(levels.mean(0))
    assert made.mean_image is not None
    kept = (255 * mean_image(made.mean_image, 16, 16)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(kept, mean, atol=1e-3)
    std = np.sqrt(np.square(levels - mean).mean((0, 1, 2))) / 255
    assert made.std == pytest.approx(std, abs=1e-4)
    batch = torch.from_numpy(levels.astype(np.uint8)).permute(0, 3, 1, 2)
    normalised = made.normalise(batch)
    assert normalised.mean(0).abs().max() < 0.5 / 255 / min(made.std) * 1.01  # rounded to 8 bits, no further
    torch.testing.assert_close(normalised.pow(2).mean((0, 2, 3)), torch.ones(3), atol=2e-3, rtol=0)
    assert Preprocessing.from_dict(made.to_dict()) == made
    assert "mean_image" not in PREP.to_dict()


def test_a_mean_image_fits_images_of_any_size() -> None:
    flat = [Image.new("RGB", (16 + i, 16), (40, 80, 120)) for i in range(4)]
    made = with_mean_image(image_set(flat), PREP)  # type: ignore[arg-type]
    batch = torch.tensor([40, 80, 120], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 24, 20)
    assert made.normalise(batch).abs().max() < 1e-4


@pytest.mark.parametrize("strategy", ["scratch", "linear", "partial"])
def test_a_run_subtracts_the_mean_image_and_keeps_it(
    picture_folder: Path, tmp_path: Path, strategy: str
) -> None:
    from finetune.api import run
    from finetune.classifier import Classifier
    from finetune.data.transforms import evaluate_image
    from finetune.errors import ExportError
    from finetune.zoo.model_folder import load_backbone

    data = {"path": str(picture_folder), "image_size": 32, "normalise": "mean-image"}
    done = run({"data": data, "strategy": strategy, "train": TRAIN, "out": str(tmp_path / "r")},
               figures=False)  # fmt: skip
    kept = load_backbone(done.path / "model")
    assert kept.preprocessing.mean_image
    assert not kept.is_plain
    loaded = Classifier.load(done.path)
    file = sorted(picture_folder.rglob("*.png"))[0]
    with Image.open(file) as image, torch.no_grad():
        pixels = evaluate_image(image.convert("RGB"), kept.preprocessing).float() / 255
        mean = mean_image(kept.preprocessing.mean_image, 32, 32)
        std = torch.tensor(kept.preprocessing.std).view(3, 1, 1)
        wanted = kept(((pixels - mean) / std)[None]).softmax(1)
    np.testing.assert_allclose(loaded.predict_proba([file]), wanted.numpy(), rtol=1e-3, atol=1e-4)
    with pytest.raises(
        ExportError, match=r"data\.normalise=mean-image instead\. Use the run's model/ folder"
    ):
        loaded.export(tmp_path / "out", format="safetensors")
