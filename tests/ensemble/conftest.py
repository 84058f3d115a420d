"""A few finished runs on the same pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def trained(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``trained(seed, **train)``: the folder of a run of the last stage; not to be written to."""
    from finetune.api import run

    root, made = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def make(seed: int, split_seed: int = 0, **train: Any) -> Path:
        key = repr((seed, split_seed, sorted(train.items())))
        if key not in made:
            settings = {
                "epochs": 1,
                "refit": False,
                "precision": "fp32",
                "channels_last": False,
                "avoid": [],
                **train,
            }
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("FINETUNE_CACHE", str(root / "cache"))
                made[key] = run(
                    {
                        "strategy": "partial", "seed": seed, "train": settings, "out": str(root / f"{len(made)}"),
                        "data": {"path": str(picture_folder), "image_size": 32, "split_seed": split_seed},
                    },
                    figures=False,
                ).path  # fmt: skip
        return made[key]

    return make
