"""Pixels on disk: never other pixels than without, whatever happens to the files, the disk and beside."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import picture, write_tree
from PIL import Image

from finetune.augment.device import DeviceBatches
from finetune.data import AUGMENTATIONS, pixel_cache
from finetune.data.batches import TrainBatches, eval_tensor
from finetune.data.folder import Decoded
from finetune.data.imageset import ImageSet
from finetune.data.load import read_folder
from finetune.data.pixel_cache import PixelCache, size_limit
from finetune.data.preprocessing import Preprocessing
from finetune.errors import ConfigError, RunError
from finetune.recipe import DataRecipe

PREP = Preprocessing(16, 0.875, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KEYS = [bytes([i]) * 16 for i in range(9)]


def block(seed: int, side: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side + seed % 3, 3), dtype=np.uint8)


def filled(count: int = 4, say: list[str] | None = None) -> PixelCache:
    cache = PixelCache({"a": 1}, (say if say is not None else []).append)
    for i in range(count):
        cache.add(KEYS[i], block(i))
    cache.flush()
    return cache


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "pixels").rglob("*.safetensors"))


def tree(root: Path) -> Path:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for i in range(5):
            picture(i + 100 * (name == "bee"), (170 + i, 130)).save(root / name / f"{i}.jpg", quality=92)
    return write_tree(root, ant=3, bee=3)  # and small PNGs


def images(root: Path, decode: str, cache: str) -> ImageSet:
    recipe = DataRecipe(path=str(root), decode=decode, cache=cache)  # type: ignore[arg-type]
    return read_folder(recipe, Decoded(0)).given["all"]


def test_what_was_added_comes_back(private_cache: Path) -> None:
    first = filled()
    assert len(shards(private_cache)) == 1
    for cache in (first, PixelCache({"a": 1})):
        for i in range(4):
            found = cache.get(KEYS[i])
            assert found is not None
            assert (found == block(i)).all()
            torch.from_numpy(found)  # takes no read-only array without a warning
        assert cache.get(KEYS[5]) is None
        assert KEYS[5] not in cache
    assert PixelCache({"a": 2}).get(KEYS[0]) is None


def test_another_version_is_another_cache(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled()
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert PixelCache({"a": 1}).get(KEYS[0]) is None
    monkeypatch.undo()
    monkeypatch.setattr(pixel_cache, "CACHE_VERSION", 99)
    assert PixelCache({"a": 1}).get(KEYS[0]) is None


def test_waiting_images_are_served_and_a_full_shard_is_written(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_cache, "SHARD_BYTES", 2 * block(0).nbytes)
    cache = PixelCache({"a": 1})
    cache.add(KEYS[0], block(0))
    assert (cache.get(KEYS[0]) == block(0)).all()
    assert shards(private_cache) == []
    cache.add(KEYS[0], block(7))  # what is there stays
    cache.add(KEYS[1], block(1))
    assert len(shards(private_cache)) == 1
    assert (cache.get(KEYS[0]) == block(0)).all()


@pytest.mark.parametrize("damage", ["truncated", "half", "pixel", "index", "header", "empty", "text"])
def test_damaged_shards_are_made_again(private_cache: Path, damage: str) -> None:
    filled()
    (shard,) = shards(private_cache)
    data = bytearray(shard.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    if damage == "pixel":
        data[-5] ^= 1
    elif damage == "index":
        data[data.index(KEYS[1])] ^= 1
    elif damage == "header":
        data[start // 2] ^= 0xFF
    cut = {"truncated": data[:-1], "half": data[: len(data) // 2], "empty": b"", "text": b"no"}
    shard.write_bytes(cut.get(damage, data))
    lines: list[str] = []
    cache = PixelCache({"a": 1}, lines.append)
    for i in range(4):
        found = cache.get(KEYS[i])
        assert found is None or (found == block(i)).all()
    assert len(lines) == 1
    assert "Cached pixels" in lines[0]
    assert "are damaged" in lines[0]
    assert shards(private_cache) == []
    again = filled(4, lines)
    assert all((again.get(KEYS[i]) == block(i)).all() for i in range(4))
    assert len(lines) == 1


def test_processes_live_together(private_cache: Path) -> None:
    one, other = PixelCache({"a": 1}), PixelCache({"a": 1})
    for cache, ids in ((one, (0, 1, 2)), (other, (2, 3))):
        for i in ids:
            cache.add(KEYS[i], block(i))
        cache.flush()
    assert len(shards(private_cache)) == 2
    third = PixelCache({"a": 1})
    assert all((third.get(KEYS[i]) == block(i)).all() for i in range(4))
    for shard in shards(private_cache):
        shard.unlink()  # another process needs the room: what is mapped stays
    assert all((third.get(KEYS[i]) == block(i)).all() for i in range(4))
    assert PixelCache({"a": 1}).get(KEYS[0]) is None


def test_what_was_not_of_use_for_longest_goes_first(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        cache = PixelCache({"set": i})
        cache.add(KEYS[i], block(i, 60))
        cache.flush()
        os.utime(next(cache.folder.glob("*.safetensors")), (1000 + i, 1000 + i))
    assert PixelCache({"set": 0}).get(KEYS[0]) is not None  # of use again
    size = max(path.stat().st_size for path in shards(private_cache))
    monkeypatch.setenv("FINETUNE_PIXEL_CACHE", str(3 * size + 2000))
    new = PixelCache({"set": 3})
    new.add(KEYS[3], block(3, 60))
    new.flush()
    left = [PixelCache({"set": i}).get(KEYS[i]) is not None for i in range(4)]
    assert left == [True, False, True, True]


def test_a_set_that_is_too_large_does_not_chase_itself(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_PIXEL_CACHE", "7K")
    lines: list[str] = []
    cache = PixelCache({"a": 1}, lines.append)
    for i in range(9):
        cache.add(KEYS[i], block(i, 30))
        cache.flush()
        assert cache.get(KEYS[i]) is None or (cache.get(KEYS[i]) == block(i, 30)).all()
    assert len(lines) == 1
    assert lines[0].startswith(
        "Images are not cached any more: FINETUNE_PIXEL_CACHE=7K or half of the free disk"
    )
    assert sum(path.stat().st_size for path in shards(private_cache)) <= 7 * 1024


def test_limits_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, size in (
        ("20G", 20 * 2**30),
        ("1.5M", 3 * 2**19),
        ("512", 512),
        ("2 GiB", 2 * 2**30),
        ("0", 0),
    ):
        monkeypatch.setenv("FINETUNE_PIXEL_CACHE", text)
        assert size_limit() == size
    monkeypatch.setenv("FINETUNE_PIXEL_CACHE", "much")
    with pytest.raises(ConfigError, match="FINETUNE_PIXEL_CACHE must be a size such as 20G or 500M"):
        PixelCache({})


def test_zero_turns_it_off(private_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled()
    monkeypatch.setenv("FINETUNE_PIXEL_CACHE", "0")
    cache = filled()
    assert cache.get(KEYS[0]) is None
    assert len(shards(private_cache)) == 1


def test_full_and_unwritable_disks_cost_a_line(
    private_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise RunError("The disk is full: somewhere.")

    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("finetune.cache_files.atomic_write_bytes", full)
        cache = filled(3, lines)
        cache.add(KEYS[4], block(4))
        cache.flush()
    assert lines == ["Images are not cached any more: The disk is full: somewhere."]
    assert cache.get(KEYS[0]) is None
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    lines.clear()
    assert filled(2, lines).get(KEYS[0]) is None
    assert filled(2, lines).get(KEYS[0]) is None  # of validation, say
    assert lines == [
        f"Images are not cached any more: {tmp_path}/file/pixels cannot be written (Not a directory). "
        "Set FINETUNE_CACHE to a folder of yours."
    ]


@pytest.mark.parametrize("policy", AUGMENTATIONS.names())
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_the_cache_changes_no_pixel(tmp_path: Path, policy: str, decode: str) -> None:
    root = tree(tmp_path)

    def epochs(cache: str, memory: int) -> list[torch.Tensor]:
        batches = TrainBatches(images(root, decode, cache), PREP, policy, 4, seed=3, threads=2, memory=memory)
        return [x for number in (0, 1) for x, _ in batches.epoch(number)]

    reference = epochs("memory", 10**9)
    for cache, memory in (
        ("memory", 0),
        ("auto", 0),
        ("auto", 60_000),
        ("disk", 10**9),
        ("disk", 0),
        ("auto", 10**9),
    ):
        for ours, theirs in zip(epochs(cache, memory), reference, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("policy", ["none", "light", "standard", "strong"])
def test_exact_is_what_it_always_was(tmp_path: Path, policy: str) -> None:
    """Pillow alone, from the image in full."""
    found = images(tree(tmp_path), "exact", "disk")
    kind = AUGMENTATIONS.get(policy)(PREP, True)
    for epoch in (0, 1):
        batches = TrainBatches(found, PREP, policy, len(found), seed=5, flip=True)
        pixels, _ = next(batches.epoch(epoch))
        for row, sample in enumerate(batches.order(epoch)):
            rng = np.random.default_rng((5, 2, epoch, int(sample)))
            expected = kind(found.load(int(sample)), rng)
            assert torch.equal(pixels[row], expected)


def test_fast_crops_stay_close_to_exact_ones(tmp_path: Path) -> None:
    root = tree(tmp_path)
    fast, exact = (
        torch.cat([x for x, _ in TrainBatches(images(root, d, "memory"), PREP, "light", 8, seed=1).epoch(0)])
        for d in ("fast", "exact")
    )
    apart = (fast.short() - exact.short()).abs().float()
    assert 0 < apart.mean() < 1


def test_a_second_run_decodes_nothing(
    tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path)

    def run() -> tuple[list[torch.Tensor], torch.Tensor]:
        found = images(root, "fast", "disk")
        batches = TrainBatches(found, PREP, "standard", 4, seed=3)
        return [x for x, _ in batches.epoch(0)], eval_tensor(found, PREP)

    first = run()
    monkeypatch.setattr("finetune.data.folder.open_scaled", None)
    monkeypatch.setattr("finetune.data.folder.open_rgb", None)
    second = run()
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert torch.equal(first[1], second[1])
    found = images(root, "fast", "disk")
    assert TrainBatches(found, PREP, "standard", 4, seed=3).resident() == 1.0
    assert TrainBatches(found, PREP, "strong", 4, seed=3).resident() == 0.0


def test_auto_keeps_large_photos_and_what_memory_has_no_room_for(tmp_path: Path, private_cache: Path) -> None:
    root = tree(tmp_path)  # of 16 images the 10 photos have far more pixels than are kept
    list(TrainBatches(images(root, "fast", "auto"), PREP, "light", 4, seed=3).epoch(0))
    settings = {"short side": 20, "interpolation": "bilinear", "by": "torch"}
    cache = PixelCache(settings)
    assert len(cache._places) == 10
    list(TrainBatches(images(root, "fast", "auto"), PREP, "light", 4, seed=3, memory=0).epoch(0))
    assert len(PixelCache(settings)._places) == 16
    list(TrainBatches(images(root, "fast", "memory"), PREP, "strong", 4, seed=3, memory=0).epoch(0))
    assert len(list((private_cache / "pixels").iterdir())) == 1


def test_a_file_that_changed_is_another_image(tmp_path: Path) -> None:
    root = tree(tmp_path)
    before = eval_tensor(images(root, "fast", "disk"), PREP)
    Image.new("RGB", (170, 130), (9, 200, 9)).save(root / "ant" / "0.jpg")
    after = eval_tensor(images(root, "fast", "disk"), PREP)
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) == 1


def test_damage_between_epochs_of_other_runs_changes_no_pixel(
    tmp_path: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tree(tmp_path)
    whole = eval_tensor(images(root, "fast", "disk"), PREP)
    (shard,) = shards(private_cache)
    data = bytearray(shard.read_bytes())
    data[-100] ^= 4
    shard.write_bytes(data)
    assert torch.equal(eval_tensor(images(root, "fast", "disk"), PREP), whole)
    assert capsys.readouterr().err.count("\n") == 1
    assert torch.equal(eval_tensor(images(root, "fast", "disk"), PREP), whole)
    assert capsys.readouterr().err == ""


def test_originals_of_whole_batches_are_cached_too(tmp_path: Path) -> None:
    root = tree(tmp_path)

    def epoch(decode: str, cache: str) -> torch.Tensor:
        batches = DeviceBatches(
            images(root, decode, cache), PREP, "standard", 4, seed=3, memory=0, device=torch.device("cpu")
        )
        return torch.cat([x for x, _ in batches.epoch(0)])

    exact = epoch("exact", "memory")
    for _ in range(2):
        assert torch.equal(epoch("exact", "disk"), exact)
    fast = epoch("fast", "memory")
    for _ in range(2):
        assert torch.equal(epoch("fast", "auto"), fast)
    assert 0 < (fast.short() - exact.short()).abs().float().mean() < 2
