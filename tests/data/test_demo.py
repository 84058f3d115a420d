"""The demo data set is a folder that finetune reads."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.demo import write_demo_data
from finetune.data.load import load_data
from finetune.errors import ConfigError, RunError
from finetune.recipe import DataRecipe


def test_digits(tmp_path: Path) -> None:
    out = write_demo_data(tmp_path / "new folder" / "digits")
    assert len(list(out.rglob("*.png"))) == 1797
    bundle = load_data(DataRecipe(path=str(out)), 0)
    assert bundle.classes == tuple("0123456789")
    assert [len(p) for p in (bundle.train, bundle.val, bundle.test)] == [1258, 269, 270]
    assert not bundle.quarantined
    image = np.asarray(Image.open(out / "0" / "digit_0000.png"))
    assert image.shape == (32, 32)
    assert image.max() > 200
    assert [p.name for p in out.parent.iterdir()] == ["digits"]
    with pytest.raises(
        RunError, match=r"--out must be a new or empty folder. Got '.*digits', which exists, instead"
    ):
        write_demo_data(out)


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    assert len(list(write_demo_data(tmp_path / "digits").iterdir())) == 10


def test_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "digits").write_text("x")
    with pytest.raises(RunError, match="--out must be a new or empty folder"):
        write_demo_data(tmp_path / "digits")


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RunError, match=r"The disk is full: .*digits could not be written"):
        write_demo_data(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_without_scikit_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        ConfigError, match=r'demo data set needs scikit-learn. Run: pip install "finetune\[demo\]"'
    ):
        write_demo_data(tmp_path / "digits")
