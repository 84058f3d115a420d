"""Outliers, odd kinds of files, and what names give away."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.audit import names
from finetune.audit.formats import formats
from finetune.audit.names import name_groups, similar_classes
from finetune.audit.outliers import outliers


def test_strangers_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (400, 12)).astype(np.float32)
    x[:3] += 14
    x[3] -= 14
    assert {i for i, _ in outliers([x])} == {0, 1, 2, 3}
    assert outliers([x[4:]]) == []
    assert {i for i, _ in outliers([x], skip=np.arange(400) == 3)} == {0, 1, 2}


def test_too_few_or_all_equal() -> None:
    assert outliers([np.eye(20, dtype=np.float32)]) == []
    assert outliers([np.ones((60, 4), dtype=np.float32)]) == []


def test_what_files_are(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    paths: list[Path | None] = []
    for i in range(120):
        paths.append(tmp_path / f"{i}.jpg")
        image.save(tmp_path / f"{i}.jpg")
    image.save(tmp_path / "a.gif")
    image.save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.jpg")
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpeg", exif=exif)
    paths += [tmp_path / "a.gif", tmp_path / "b.jpg", tmp_path / "turned.jpeg", None, tmp_path / "gone.jpg"]
    found = formats(paths)
    assert found.kinds == {"JPEG": 121, "GIF": 1, "PNG": 1}
    assert found.misnamed == ((121, "PNG"),)
    assert found.odd == ((120, "GIF"), (121, "PNG"))
    assert found.rotated == (122,)


def test_with_many_kinds_none_is_odd(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    for i in range(10):
        image.save(tmp_path / f"{i}.{'png' if i % 2 else 'bmp'}")
    image.save(tmp_path / "x.gif")
    assert formats(sorted(tmp_path.iterdir())).odd == ()


def test_examples() -> None:
    assert not doctest.testmod(names).failed


@pytest.mark.parametrize(
    ("classes", "pairs"),
    [
        (["Hund", "hund"], [("Hund", "hund")]),
        (["bus", "buses", "car"], [("bus", "buses")]),
        (["class_1", "class_2", "class_11"], []),
        (["cat", "bat", "rat"], []),
        (["яблоко", "яблока"], []),
        (["dandelion", "dandelyon"], [("dandelion", "dandelyon")]),
    ],
)
def test_class_names_that_look_like_one(classes: list[str], pairs: list[tuple[str, str]]) -> None:
    assert similar_classes(classes) == pairs


def tracks(named: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Two classes of 30 tracks with 4 frames each; frames of a track lie together."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (60, 8))
    paths, labels, x = [], [], []
    for track in range(60):
        for frame in range(4):
            number = rng.integers(0, 10**6) if named == "by chance" else track
            paths.append(f"{'ab'[track % 2]}/{number:05d}_{frame:03d}.png")
            labels.append(track % 2)
            x.append(centres[track] + rng.normal(0, 0.1, 8))
    if named == "shuffled":
        rng.shuffle(paths)
        labels = ["ab".index(p[0]) for p in paths]
    return paths, np.array(labels), np.array(x, dtype=np.float32)


def test_tracks_are_found_by_their_names() -> None:
    found = name_groups(*tracks("right"))
    assert found is not None
    assert found.groups == 60
    assert found.images == 240
    assert found.share > 0.9
    assert found.chance == pytest.approx(3 / 119, abs=0.001)
    assert found.members[:5] == ("a/00000",) * 4 + ("b/00001",)


@pytest.mark.parametrize("named", ["by chance", "shuffled"])
def test_names_that_say_nothing(named: str) -> None:
    assert name_groups(*tracks(named)) is None


def test_numbered_images_of_a_class_are_no_groups() -> None:
    rng = np.random.default_rng(0)
    paths = [f"{k}/{k}_{i:03d}.jpg" for k in "ab" for i in range(50)]
    assert name_groups(paths, np.repeat([0, 1], 50), rng.normal(size=(100, 8)).astype(np.float32)) is None
