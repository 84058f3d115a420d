"""Images and folders made on the fly."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (24, 20)) -> Image.Image:
    """A smooth random RGB image of (width, height)."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def write_class(folder: Path, count: int, first: int = 0, size: tuple[int, int] = (24, 20)) -> None:
    """``count`` different PNGs below a class folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        picture(hash_seed(folder.name, i), size).save(folder / f"{i:03d}.png")


def hash_seed(name: str, number: int) -> int:
    """The same on every run, unlike hash()."""
    return zlib.crc32(f"{name}/{number}".encode())


def write_tree(root: Path, **counts: int) -> Path:
    """A flat folder-per-class tree."""
    for name, count in counts.items():
        write_class(root / name, count)
    return root


def png_header_only(width: int, height: int) -> bytes:
    """A valid start of a PNG that claims to be huge: a decompression bomb without its charge."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )
