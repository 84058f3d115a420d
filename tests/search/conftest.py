"""Pictures that are hard enough for trials to differ, and the smallest sweep on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def noisy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 24 faint stripes each. Not to be written to."""
    root = tmp_path_factory.mktemp("data") / "noisy"
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:32, :32]
    for name, axis in (("across", y), ("down", x)):
        (root / name).mkdir(parents=True)
        for i in range(24):
            pixels = 128 + 22 * np.sin(axis * 0.8)[:, :, None] + rng.normal(0, 60, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{i:02d}.png")
    return root


@pytest.fixture
def small(noisy_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe that trains in a second or two."""
    return {
        "data": {"path": str(noisy_folder), "image_size": 32, "val_fraction": 0.3, "workers": 1},
        "strategy": "partial",
        "threads": 1,
        "device": "cpu",
        "train": {"epochs": 4, "batch_size": 16, "precision": "fp32", "channels_last": False},
    }
