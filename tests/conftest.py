"""One compute thread, a private cache folder, no network: what every test may rely on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Objects whose text holds an address or all their pixels are called after their argument, so that
    parallel workers agree on the names of the tests."""
    text = str(val)
    return argname if " at 0x" in text or ("\n" in text and not isinstance(val, (str, bytes))) else None


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has an empty cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FINETUNE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run beside other work; several threads on busy cores are slower than one."""
    import torch

    torch.set_num_threads(1)


def write_pictures(root: Path, per_class: int = 12, side: int = 32) -> Path:
    """Three classes that any network can tell apart: stripes down, stripes across, a disc; noise on top."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    kinds = {"across": np.sin(y * 0.8), "disc": ((x - side / 2) ** 2 + (y - side / 2) ** 2 < side**2 / 9) * 2.0 - 1,
             "down": np.sin(x * 0.8)}  # fmt: skip
    for name, pattern in kinds.items():
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            noisy = 128 + 70 * pattern[:, :, None] + rng.normal(0, 25, (side, side, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / name / f"{i:02d}.png")
    return root


def write_tables(root: Path, n: int = 72, side: int = 32) -> Path:
    """Pictures with stripes, a disc, both or nothing, on a ground of some brightness; labels.csv and numbers.csv."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    disc = (x - side / 2) ** 2 + (y - side / 2) ** 2 < side**2 / 9
    labels, numbers = [], []
    for i in range(n):
        names, light = (
            [name for k, name in enumerate(("disc", "stripes")) if (i >> k) & 1],
            rng.uniform(40, 160),
        )
        plane = light + 60 * np.sin(y * 0.9) * ("stripes" in names) + 70 * disc * ("disc" in names)
        noisy = plane[:, :, None] + rng.normal(0, 8, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / f"{i:02d}.png")
        labels.append("|".join(names))
        numbers.append(f"{1000 + 10 * light:.2f}")
    for name, header, column in (("labels", "label", labels), ("numbers", "light", numbers)):
        rows = [f"{i:02d}.png,{text}" for i, text in enumerate(column)]
        (root / f"{name}.csv").write_text("\n".join([f"path,{header}", *rows]))
    return root


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 small pictures, their labels in labels.csv, a number each in numbers.csv. Not to be written to."""
    return write_tables(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 small pictures in three class folders. Not to be written to."""
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def finished_run(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished linear run on ``picture_folder``. Not to be written to."""
    from finetune.api import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache-of-run")))
        out = tmp_path_factory.mktemp("finished") / "run"
        return run(
            {"strategy": "linear", "data": {"path": str(picture_folder), "image_size": 32}, "out": str(out)}
        ).path
