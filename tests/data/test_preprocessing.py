"""Evaluation is pixel for pixel, and after normalising bit for bit, what timm does."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from finetune.data.preprocessing import Preprocessing
from finetune.data.transforms import evaluate_image
from finetune.errors import ConfigError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SIZES = [(64, 64), (100, 70), (70, 101), (333, 17), (1, 5), (500, 333)]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("size", "crop_pct"), [(64, 0.875), (97, 0.9), (32, 1.0), (48, 1.2)])
def test_equals_timm(mode: str, interpolation: str, size: int, crop_pct: float) -> None:
    prep = Preprocessing(size, crop_pct, interpolation, **IMAGENET, crop_mode=mode)
    timms = {"input_size": (3, size, size), "is_training": False, "interpolation": interpolation, **IMAGENET,
             "crop_pct": crop_pct, "crop_mode": mode}  # fmt: skip
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        ours = evaluate_image(image, prep)
        assert ours.shape == (3, size, size)
        assert ours.dtype == torch.uint8
        assert torch.equal(torch.as_tensor(create_transform(**timms, normalize=False)(image)), ours)
        assert torch.equal(create_transform(**timms)(image), prep.normalise(ours[None])[0])


def test_normalise_keeps_shape_and_memory_format() -> None:
    prep = Preprocessing(8, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    batch = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8).to(memory_format=torch.channels_last)
    before = batch.clone()
    made = prep.normalise(batch)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch, before)
    assert made.min() >= -1
    assert made.max() <= 1


def test_dict_and_back() -> None:
    prep = Preprocessing(224, 0.95, "bicubic", **IMAGENET, crop_mode="squash")
    assert Preprocessing.from_dict(prep.to_dict()) == prep
    assert prep.to_dict()["mean"] == [0.485, 0.456, 0.406]
    assert prep.scale_size == 235


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, r"preprocessing.size must be an int > 0. Got 0 instead"),
        ({"size": 64.0}, r"preprocessing.size must be an int > 0"),
        ({"crop_pct": 0}, r"preprocessing.crop_pct must be a float in \(0, 2\]"),
        ({"interpolation": "cubic"}, r"interpolation must be one of nearest, bilinear.* Got 'cubic' instead"),
        ({"crop_mode": "middle"}, r"crop_mode must be one of center, squash, border. Got 'middle'"),
        ({"mean": (0.5,)}, r"preprocessing.mean must be three floats"),
        ({"std": (0.5, 0.0, 0.5)}, r"preprocessing.std must be three floats > 0"),
        ({"sizes": 3}, r'preprocessing.sizes: unknown key. Did you mean "size"'),
    ],
)
def test_wrong_values(changes: dict[str, object], message: str) -> None:
    tree = Preprocessing(64, 0.875, "bilinear", **IMAGENET).to_dict()
    with pytest.raises(ConfigError, match=message):
        Preprocessing.from_dict({**tree, **changes})


def test_missing_keys() -> None:
    with pytest.raises(ConfigError, match=r"mapping with size, .* Got one without crop_pct, interpolation"):
        Preprocessing.from_dict({"size": 64, "mean": [0, 0, 0], "std": [1, 1, 1]})


def test_evaluation_needs_neither_torchvision_nor_timm() -> None:
    code = (
        "import sys, numpy as np\n"
        "from PIL import Image\n"
        "from finetune.data import load, profile, batches\n"
        "from finetune.data.preprocessing import Preprocessing\n"
        "from finetune.data.transforms import evaluate_image\n"
        "prep = Preprocessing(32, 0.9, 'bicubic', (0.5,) * 3, (0.5,) * 3)\n"
        "prep.normalise(evaluate_image(Image.new('RGB', (40, 50)), prep)[None])\n"
        "print(sorted({'torchvision', 'timm', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_folders_does_not_import_torch() -> None:
    code = "import sys; from finetune.data import load, profile, demo; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
