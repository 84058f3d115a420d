"""Data and networks with something wrong: a clear word and an exit code, or a sensible decision; no traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from finetune.cli.app import cli
from finetune.zoo.create import create_backbone


def pictures(folder: Path, count: int, shade: int, seed: int = 0) -> None:
    """Noise about a shade of grey."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng((seed, shade))
    for i in range(count):
        noisy = (shade + rng.normal(0, 30, (32, 32, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:02d}.png")


def tree(root: Path, *counts: int, seed: int = 0) -> Path:
    """A class a count, each of its own shade."""
    for k, count in enumerate(counts):
        pictures(root / f"class {k}", count, 40 + 160 * k // len(counts), seed)
    return root


def network(root: Path, broken: bool = False) -> str:
    """A weight file of random numbers, as any file of the user's own: nothing is known of its source."""
    state = create_backbone("test_resnet", pretrained=False, num_classes=2).model.state_dict()
    if broken:
        state = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in state.items()}
    weights = {k: v.clone() for k, v in state.items() if not k.startswith(("fc.", "head."))}
    save_file(weights, root / "net.safetensors", {"architecture": "test_resnet", "size": "32"})
    return f"backbone={root / 'net.safetensors'}"


def one_class(root: Path) -> list[str]:
    tree(root / "data", 12)
    return []


def one_image_each(root: Path) -> list[str]:
    tree(root / "data", *[1] * 6)
    return []


def some_with_one_image(root: Path) -> list[str]:
    tree(root / "data", 12, 12, 1, 1)
    return []


def fewer_images_than_labels(root: Path) -> list[str]:
    pictures(root / "data", 16, 100)
    has = np.random.default_rng(0).random((16, 20)) < 0.3
    rows = [f"{i:02d}.png,{'|'.join(f'l{k}' for k in np.flatnonzero(has[i]))}" for i in range(16)]
    (root / "data" / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return ["data.task=multi-label", "data.path=data/labels.csv"]


def all_equal(root: Path) -> list[str]:
    tree(root / "data", 20, 20)
    for file in (root / "data").rglob("*.png"):
        Image.new("RGB", (32, 32), (90, 90, 90)).save(file)
    return []


def one_photo_a_class(root: Path) -> list[str]:
    tree(root / "data", 20, 20)
    for folder in (root / "data").iterdir():
        for file in sorted(folder.iterdir())[1:]:
            shutil.copy(folder / "00.png", file)
    return []


def broken_weights(root: Path) -> list[str]:
    tree(root / "data", 12, 12)
    return [network(root, broken=True)]


def no_source_statistics(root: Path) -> list[str]:
    tree(root / "data", 12, 12)
    return [network(root)]


def leaking_validation(root: Path) -> list[str]:
    tree(root / "data" / "train", 20, 20)
    tree(root / "data" / "test", 5, 5, seed=1)
    shutil.copytree(root / "data" / "train", root / "data" / "val")
    return []


def meaningless_labels(root: Path) -> list[str]:
    pictures(root / "all", 80, 128, seed=3)
    for i, file in enumerate(sorted((root / "all").iterdir())):
        target = root / "data" / ("a" if i % 4 in (0, 3) else "b") / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)
    return []


@dataclass(frozen=True)
class Case:
    """What is wrong, how the command ends, what it says of it."""

    make: Callable[[Path], list[str]]
    code: int
    said: str


CASES = [
    Case(one_class, 2, "must hold at least 2 classes. Got only 'class 0' instead"),
    Case(one_image_each, 2, "At least one class must have 3 different images"),
    Case(some_with_one_image, 0, "Classes 'class 2', 'class 3' with one image: it trains, and nothing can test it."),
    Case(fewer_images_than_labels, 0, "any number of 20 labels each"),
    Case(all_equal, 2, "All 40 images are the same file"),
    Case(one_photo_a_class, 2, "Got 'class 0' (20 copies of one image), 'class 1' (20 copies of one image) instead"),
    Case(broken_weights, 2, "features must be finite. Got NaN"),
    Case(no_source_statistics, 0, "no source statistics for this backbone: judged by the labels alone"),
    Case(leaking_validation, 0, "40 of 40 validation images are exact copies of training images: validation accuracy "
         "flatters, and what is decided by it. Validation is 15% of train instead"),
    Case(meaningless_labels, 0, "No stage tells the classes from guessing: the best has"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)
def test_bad_data_gets_a_clear_word(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", "data", "image_size=32", *case.make(tmp_path)]
    for command in (["strategy", "advise"], ["run", "--out", "r", "--strategy", "linear"]):
        told = CliRunner().invoke(cli, [*command, *words], prog_name="finetune")
        text = " ".join(told.output.split())
        assert told.exit_code == case.code, text
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
        assert "Traceback" not in text
        if case.code:
            assert case.said in " ".join(told.stderr.split())
            assert not (tmp_path / "r" / "result.json").exists()
        elif command[0] == "strategy":
            assert case.said in text
            assert "Chosen: " in text
            assert "nan" not in text.lower().split()
