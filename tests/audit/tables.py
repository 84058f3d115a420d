"""Tables of made photographs: tinted in any of three colours, or more or less green."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ("blue", "green", "red")
"""Labels in their order; the channel of ``COLOURS[k]`` is 2 - k."""


def photo(seed: int, tint: Sequence[float], side: int = 64) -> Image.Image:
    """Soft random shapes plus a tint of the channels."""
    rng = np.random.default_rng(seed)
    grain = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(grain.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((pixels * 0.5 + np.array(tint, dtype=np.float32)).clip(0, 255).astype(np.uint8))


def write(folder: Path, pictures: dict[str, Image.Image], rows: Sequence[Sequence[str]]) -> Path:
    """table.csv, its first row the header, and the pictures beside it."""
    for name, picture in pictures.items():
        picture.save(folder / name, quality=92)
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


def tinted(folder: Path) -> Path:
    """120 photographs with the labels of their tints, a quarter of them in the validation set, and what is wrong."""
    rng = np.random.default_rng(0)
    pictures, labels = {}, {}
    for i in range(120):
        has = rng.random(3) < 0.5
        pictures[f"{i:03d}.jpg"] = photo(i, 110.0 * has[::-1])
        labels[f"{i:03d}.jpg"] = [colour for colour, yes in zip(COLOURS, has, strict=True) if yes]
    for name in ("003.jpg", "017.jpg"):  # one label too many or too few
        labels[name] = [colour for colour in COLOURS if (colour in labels[name]) != (colour == "green")]
    first, second = pictures["030.jpg"], pictures["031.jpg"]
    pictures |= {"same.png": first.resize((50, 50)), "other.png": second.resize((50, 50))}
    labels |= {"same.png": labels["030.jpg"][::-1], "other.png": [*labels["031.jpg"][1:], "red"][:1]}
    assert set(labels["other.png"]) != set(labels["031.jpg"])
    pictures["blank.png"] = Image.new("RGB", (64, 64), (9, 9, 9))
    labels["blank.png"] = []
    rows = [[name, "|".join(labels[name]), "val" if name[2] in "05" else "train"] for name in pictures]
    return write(folder, pictures, [["file", "colours", "split"], *rows])


def greener(folder: Path) -> Path:
    """120 photographs with the strength of their green, and what is wrong."""
    rng = np.random.default_rng(1)
    strength = rng.uniform(0, 120, 120).round(1)
    pictures = {f"{i:03d}.jpg": photo(i, (0, s, 0)) for i, s in enumerate(strength)}
    numbers = {name: float(s) for name, s in zip(pictures, strength, strict=True)}
    numbers["005.jpg"] = 1234.5  # a decimal point gone
    numbers["042.jpg"] = 119.5 if strength[42] < 60 else 0.5
    pictures |= {
        "same.png": pictures["030.jpg"].resize((50, 50)),
        "other.png": pictures["031.jpg"].resize((50, 50)),
    }
    numbers |= {"same.png": round(numbers["030.jpg"]), "other.png": numbers["031.jpg"] + 40}
    return write(folder, pictures, [["file", "green"], *[[name, str(numbers[name])] for name in pictures]])
