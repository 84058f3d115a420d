"""Targets made from one data set: the content stays, the distance from the source turns.

Written once, as a folder of PNG files beside the feature cache, so that they are data sets like any other. With
the same classes, counts and photographs, what changes between a data set and its dial targets is similarity alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from benchmarks.regret.cases import DIAL
from finetune.data.decode import open_rgb
from finetune.data.layout import find_layout
from finetune.data.place import Found, called
from finetune.errors import ConfigError, DataError, did_you_mean, must
from finetune.runtime import cache_dir

VERSION = 1
"""Raise it when a dial makes other pixels; older folders are then ignored."""

PATCHES = 4
"""Shuffled patches lie on a grid of this many by this many."""

PER_CLASS = 200
"""Images of a class that a target takes from each split at most: enough for every size below `all`."""

Dial = Callable[[Image.Image, np.random.Generator], Image.Image]


def inverted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The negative. Twice is the identity."""
    return ImageOps.invert(image)


def edges(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Strength of the brightness gradient (central differences), white on black, no colour."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    padded = np.pad(grey, 1, mode="edge")
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = padded[2:, 1:-1] - padded[:-2, 1:-1]
    strength = np.hypot(across, down)
    top = float(np.percentile(strength, 99))
    scaled = np.clip(strength / top if top > 0 else strength, 0, 1) * 255
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A Gaussian of 1/24 of the short side: shapes stay, texture goes."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / 24))


def shuffled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A grid of patches in another order for each image: texture stays, shape goes.

    The right and lower edges lose up to three pixels where the side is no multiple of the grid's.
    """
    width, height = image.width // PATCHES, image.height // PATCHES
    if not width or not height:
        return image
    pixels = np.asarray(image)[: height * PATCHES, : width * PATCHES]
    patches = pixels.reshape(PATCHES, height, PATCHES, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    mixed = patches[rng.permutation(len(patches))]
    back = mixed.reshape(PATCHES, PATCHES, height, width, 3).swapaxes(1, 2)
    return Image.fromarray(back.reshape(height * PATCHES, width * PATCHES, 3))


def hue(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Hue turned by 120 degrees, which is red -> green -> blue -> red, exactly. Three times is the identity."""
    return Image.fromarray(np.asarray(image)[:, :, [2, 0, 1]])


DIALS: dict[str, Dial] = {
    "inverted": inverted,
    "edges": edges,
    "blurred": blurred,
    "shuffled": shuffled,
    "hue": hue,
}


def make_dial(source: Path, dial: str, per_class: int = PER_CLASS, cache: Path | None = None) -> Path:
    """The folder of a target, ``NAME~DIAL``; made if it is not there. Unreadable images are left out.

    Killed half way it leaves nothing that would be taken for a whole one. Raises ConfigError for an unknown
    dial, DataError where the source is no data set.
    """
    if dial not in DIALS:
        raise ConfigError(
            must("a dial", f"one of {', '.join(DIALS)}", repr(dial)) + did_you_mean(dial, DIALS)
        )
    layout = find_layout(source)
    facts = f"{VERSION} {per_class} {source.resolve()} {sum(len(c) for c in layout.splits.values())}"
    home = (cache or cache_dir() / "dials") / hashlib.sha256(facts.encode()).hexdigest()[:12]
    target = home / f"{source.name}{DIAL}{dial}"
    if target.is_dir():
        return target
    home.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=home, prefix=f".{dial}-"))
    root = layout.root if isinstance(layout.root, Path) else None
    try:
        for split, classes in layout.splits.items():
            base = unfinished if split == "all" else unfinished / layout.folders[split]
            for name, files in classes.items():
                folder = base / name
                folder.mkdir(parents=True, exist_ok=True)
                for number, found in enumerate(_sample(files, per_class)):
                    _write(found, called(found, root), dial, folder / f"{number:05d}.png")
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _sample(files: list[Found], most: int) -> list[Found]:
    """The same ``most`` files every time, in their own order."""
    if len(files) <= most:
        return files
    chosen = np.random.default_rng(len(files)).permutation(len(files))[:most]
    return [files[i] for i in sorted(chosen.tolist())]


def _write(file: Found, name: str, dial: str, target: Path) -> None:
    try:
        image = open_rgb(file if isinstance(file, str) else file.read_bytes())
    except DataError:
        return  # the original's quarantine names it
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    DIALS[dial](image, np.random.default_rng(seed)).save(target)
