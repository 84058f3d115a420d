"""The training images as one uint8 array, decoded once, and batches cropped from it on the device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from finetune.data.decode import open_rgb
from finetune.errors import DataError, must
from finetune.files import atomic_path

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class StoredImages:
    """One split: images (N, S, S, 3) uint8, memory-mapped, and labels (N,) int64."""

    images: np.ndarray
    labels: torch.Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        """The chosen images as (B, 3, S, S) uint8."""
        return torch.from_numpy(self.images[index.numpy()]).permute(0, 3, 1, 2)


def store(folder: Path, cache: Path, size: int, classes: tuple[str, ...] | None = None) -> StoredImages:
    """Decode ``folder/<class>/*`` to squares of ``size`` pixels, once; later calls map the file.

    Raises DataError where the folder has no classes, or has other classes than ``classes``.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} does not exist. Expected train/<class>/* and val/<class>/* below the data folder."
        )
    found = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(found) < 2:
        raise DataError(f"{folder} must hold at least two class folders. Got {len(found)} instead.")
    if classes is not None and found != classes:
        raise DataError(f"{folder} must hold the classes of train/. {len(set(found) ^ set(classes))} differ.")
    files = [
        (path, label)
        for label, name in enumerate(found)
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in _EXTENSIONS
    ]
    if not files:
        raise DataError(must(f"The class folders of {folder}", "ones with images in them", "none"))
    listing = "\n".join(f"{p}:{p.stat().st_size}" for p, _ in files)
    key = hashlib.sha256(f"{size}\n{listing}".encode()).hexdigest()[:16]
    target = cache / f"{folder.name}-{size}-{key}.npy"
    if not target.exists():
        with atomic_path(target) as temporary:
            array = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.uint8, shape=(len(files), size, size, 3)
            )
            with ThreadPoolExecutor() as pool:
                for i, pixels in enumerate(pool.map(lambda item: _square(item[0], size), files)):
                    array[i] = pixels
            array.flush()
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return StoredImages(np.load(target, mmap_mode="r"), labels, found)


def _square(path: Path, size: int) -> np.ndarray:
    image = open_rgb(path)
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.asarray(image)


def order(n: int, epoch: int, seed: int) -> torch.Tensor:
    """The permutation of an epoch, a function of seed and epoch alone."""
    return torch.randperm(n, generator=generator_for(seed, epoch))


def crop_and_flip(
    images: torch.Tensor, size: int, min_scale: float, generator: torch.Generator
) -> torch.Tensor:
    """Random square crops of at least ``min_scale`` of the area, mirrored half of the time, in one resampling.

    Takes (B, 3, S, S) float, gives (B, 3, size, size) float, channels last.
    """
    n = len(images)
    scale = torch.sqrt(torch.rand(n, generator=generator) * (1 - min_scale) + min_scale)
    mirror = (torch.rand(n, generator=generator) < 0.5).float() * -2 + 1
    shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    grid = F.affine_grid(theta.to(images.device), [n, 3, size, size], align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)


def evaluation_batches(
    data: StoredImages, size: int, batch_size: int = 250
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All images resized to ``size``: (B, 3, size, size) float in [0, 255] and labels (B,)."""
    for start in range(0, len(data), batch_size):
        index = torch.arange(start, min(start + batch_size, len(data)))
        images = data.gather(index).float()
        if images.shape[-1] != size:
            images = F.interpolate(
                images, size=(size, size), mode="bicubic", align_corners=False, antialias=True
            )
        yield images.clamp_(0, 255), data.labels[index]


def generator_for(seed: int, *parts: int) -> torch.Generator:
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
