"""Extraction: right numbers, one forward pass an image, a cache that survives damage and company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.imageset import ImageSet, Joined
from finetune.data.transforms import evaluate_image
from finetune.errors import DataError, RunError
from finetune.features import cache as cache_module
from finetune.features.cache import FeatureCache, forget, network_key
from finetune.features.extract import Features, extract
from finetune.zoo.backbone import Backbone
from finetune.zoo.create import create_backbone


class Noise(ImageSet):
    """Random pictures that count how often each is decoded."""

    def __init__(self, n: int, seed: int = 0, size: int = 40) -> None:
        rng = np.random.default_rng(seed)
        self.pixels = rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)
        self.labels = np.arange(n, dtype=np.int64) % 2
        self.classes = ("a", "b")
        self.loads = [0] * n

    def load(self, index: int) -> Image.Image:
        self.loads[index] += 1
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        return f"image {index}"

    def fingerprint(self, index: int) -> bytes:
        return self.pixels[index].tobytes()[:64]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return create_backbone("test_resnet", pretrained=False, num_classes=2, image_size=32, seed=1)


@pytest.fixture(autouse=True)
def empty_memory() -> None:
    forget()


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "features").rglob("*.safetensors"))


def test_same_numbers_as_the_plain_network(backbone: Backbone) -> None:
    images = Noise(7)
    found = extract(backbone, images, batch_size=3)
    prep = backbone.preprocessing
    x = prep.normalise(torch.stack([evaluate_image(images.load(i), prep) for i in range(7)]))
    with torch.no_grad():
        expected = backbone.eval().taps(x)
    assert [tap.shape for tap in found.taps] == [(7, width) for width in backbone.widths]
    for ours, theirs in zip(found.taps, expected, strict=True):
        assert ours == pytest.approx(theirs.numpy(), abs=1e-4)
    assert found.labels.tolist() == images.labels.tolist()
    last = extract(backbone, images, taps="last")
    assert len(last.taps) == 1
    assert (last.last == found.last).all()


def test_each_image_is_computed_once(backbone: Backbone, private_cache: Path) -> None:
    images = Noise(10)
    whole = extract(backbone, images, batch_size=4)
    assert images.loads == [1] * 10
    part = extract(backbone, images.subset([7, 2, 2]), batch_size=4)
    assert (part.last == whole.last[[7, 2, 2]]).all()
    forget()  # another process
    again = extract(backbone, Joined(images.subset(range(5, 10)), images.subset(range(5))))
    assert (again.taps[0] == np.roll(whole.taps[0], 5, axis=0)).all()
    assert images.loads == [1] * 10
    assert len(shards(private_cache)) == 1


def test_equal_images_pass_once(backbone: Backbone) -> None:
    images = Noise(4)
    images.pixels[3] = images.pixels[0]
    found = extract(backbone, images, cache=False)
    assert sum(images.loads) == 3
    assert (found.last[3] == found.last[0]).all()


def test_without_cache_the_disk_is_left_alone(backbone: Backbone, private_cache: Path) -> None:
    extract(backbone, Noise(3), cache=False)
    assert shards(private_cache) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_shards_are_computed_again(backbone: Backbone, private_cache: Path, damage: str) -> None:
    images = Noise(6)
    whole = extract(backbone, images)
    (shard,) = shards(private_cache)
    data = bytearray(shard.read_bytes())
    if damage == "flipped":
        data[-9] ^= 0x40
    replacement = {
        "truncated": data[: len(data) // 2],
        "flipped": data,
        "empty": b"",
        "text": b"not a tensor",
    }
    shard.write_bytes(bytes(replacement[damage]))
    forget()
    lines: list[str] = []
    again = extract(backbone, images, message=lines.append)
    assert (again.last == whole.last).all()
    assert len(lines) == 1
    assert "computing them again" in lines[0]
    forget()
    extract(backbone, images, message=lines.append)
    assert len(lines) == 1
    assert images.loads == [2] * 6


def test_shards_of_two_processes_live_together(backbone: Backbone, private_cache: Path) -> None:
    images = Noise(8)
    extract(backbone, images.subset(range(5)))
    forget()
    (first,) = shards(private_cache)
    hidden = first.rename(first.with_suffix(".hidden"))
    extract(backbone, images.subset(range(3, 8)))  # overlaps, does not see the first
    hidden.rename(first)
    forget()
    loads = list(images.loads)
    extract(backbone, images)
    assert images.loads == loads
    assert len(shards(private_cache)) == 2


def test_key_depends_on_weights_and_preprocessing_not_on_the_head(backbone: Backbone) -> None:
    key = network_key(backbone)
    backbone.reset_head(5, seed=3)
    assert network_key(backbone) == key
    size = backbone.preprocessing.size
    backbone.with_size(48)
    assert network_key(backbone) != key
    backbone.with_size(size)
    with torch.no_grad():
        next(iter(backbone.model.parameters())).add_(1e-3)
    assert network_key(backbone) != key


def test_key_depends_on_the_libraries_and_the_architecture(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = network_key(backbone)
    card = backbone.card
    monkeypatch.setattr(backbone, "card", card.model_copy(update={"args": {"global_pool": "max"}}))
    assert network_key(backbone) != key
    monkeypatch.setattr(backbone, "card", card)
    monkeypatch.setattr(cache_module, "_libraries", lambda: {"timm": "0.0"})
    assert network_key(backbone) != key


def test_what_never_comes_back_is_not_remembered(backbone: Backbone, private_cache: Path) -> None:
    images = Noise(4)
    images.pixels[3] = images.pixels[0]
    extract(backbone, images, cache=False, remember=False)
    assert sum(images.loads) == 3
    assert not cache_module._memory
    assert shards(private_cache) == []


def test_unreadable_shards_are_kept(
    backbone: Backbone, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's file in a shared cache: computed again, but not deleted."""
    images = Noise(3)
    whole = extract(backbone, images)

    def refused(shard: Path, wanted: set[bytes]) -> None:
        raise PermissionError(13, "Permission denied")

    forget()
    before = shards(private_cache)
    lines: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "_open", refused)
        again = extract(backbone, images, message=lines.append)
    assert (again.last == whole.last).all()
    assert len(lines) == 1
    assert "cannot be read ([Errno 13] Permission denied); computing them again" in lines[0]
    assert set(before) < set(shards(private_cache))


def test_cache_folder_that_cannot_be_written(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    lines: list[str] = []
    assert len(extract(backbone, Noise(3), message=lines.append)) == 3
    extract(backbone, Noise(4), message=lines.append)
    assert lines == [
        f"Features are not cached: {tmp_path}/file/features cannot be written (Not a directory). "
        "Set FINETUNE_CACHE to a folder of yours."
    ]


def test_full_disk_costs_a_line_not_the_run(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise RunError("The disk is full: somewhere.")

    monkeypatch.setattr("finetune.cache_files.atomic_write_bytes", full)
    lines: list[str] = []
    found = extract(backbone, Noise(3), message=lines.append)
    assert len(found) == 3
    assert lines == ["Features are not cached: The disk is full: somewhere."]


def test_memory_is_bounded(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_MEMORY_LIMIT", 100)
    first = FeatureCache("one", False, print)
    first.add([b"x" * 16, b"y" * 20], np.ones((2, 50), dtype=np.float32))
    assert b"y" * 20 in first
    assert b"x" * 16 not in FeatureCache("two", False, print)
    assert b"x" * 16 not in FeatureCache("one", False, print)


def test_errors_reach_the_caller(backbone: Backbone) -> None:
    with pytest.raises(DataError, match="images must be at least one"):
        extract(backbone, Noise(3).subset([]))

    class Broken(Noise):
        def load(self, index: int) -> Image.Image:
            raise DataError(f"image {index} cannot be decoded")

    with pytest.raises(DataError, match="cannot be decoded"):
        extract(backbone, Broken(5), cache=False)


def test_progress_and_views(backbone: Backbone) -> None:
    calls: list[tuple[int, int]] = []
    found = extract(
        backbone, Noise(5), batch_size=2, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(2, 5), (4, 5), (5, 5)]
    both = found.subset([0, 1]).join(found.subset([4]))
    assert isinstance(both, Features)
    assert both.labels.tolist() == [0, 1, 0]
    assert (both.last == found.last[[0, 1, 4]]).all()
