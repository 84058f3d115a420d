"""Mutated image files: every one is decoded or refused with a DataError. No crash, no hang, no flood of memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from pictures import encoded, picture
from PIL import Image

from finetune.data.decode import check, open_rgb
from finetune.data.preprocessing import Preprocessing
from finetune.data.scaled import open_scaled
from finetune.data.transforms import evaluate_pixels
from finetune.errors import DataError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

MOST = 1_000_000
"""Pixels: a header that claims more is refused."""
PREP = Preprocessing(16, 0.875, "bilinear", (0.5,) * 3, (0.5,) * 3)


def seeds() -> list[bytes]:
    """Small files of every kind that is common, and the odd ones of JPEG."""
    image, exif = picture(1, (48, 40)), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    frames = [picture(i, (48, 40)) for i in range(3)]
    jpegs = [
        encoded(image, "JPEG"), encoded(image, "JPEG", progressive=True, quality=80), encoded(image, "JPEG", exif=exif),
        encoded(image.convert("L"), "JPEG"), encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "JPEG", subsampling=0, optimize=True), encoded(image, "JPEG", restart_marker_blocks=2),
    ]  # fmt: skip
    others = [
        encoded(image), encoded(image.convert("RGBA")), encoded(image.convert("P")), encoded(image.convert("1")),
        encoded(deep), encoded(image, "GIF", save_all=True, append_images=frames), encoded(image, "BMP"),
        encoded(image, "WEBP"), encoded(image, "WEBP", lossless=True), encoded(image, "TIFF"),
        encoded(image, "TIFF", compression="tiff_lzw"), encoded(image, "PPM"), encoded(frames[1], "ICO"),
    ]  # fmt: skip
    return 2 * jpegs + others


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, numbers at their extremes, parts cut, doubled, exchanged."""
    made = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        if len(made) < 8:
            break
        at, length = int(rng.integers(len(made))), int(rng.integers(1, 40))
        kind = int(rng.integers(8))
        if rng.random() < 0.4:  # headers hold the numbers that decoders trust
            at = int(rng.integers(min(len(made), 200)))
        if kind == 0:
            made[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            made[at : at + length] = rng.bytes(min(length, len(made) - at))
        elif kind == 2:
            made[at : at + 2] = (b"\xff\xff", b"\x00\x00", b"\x7f\xff", b"\xff\xd8", b"\xff\xda")[
                int(rng.integers(5))
            ]
        elif kind == 3:
            made[at : at + 4] = (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff")[int(rng.integers(3))]
        elif kind == 4:
            del made[at : at + length]
        elif kind == 5:
            made[at:at] = made[at : at + length]
        elif kind == 6:
            del made[at:]
        else:
            made[at:at] = rng.bytes(length)
    return bytes(made)


def decoded_or_refused(data: bytes) -> int:
    """How many of the ways to decode accept a file; anything but an image or a DataError is raised."""
    accepted = 0
    for work in (
        lambda: check(data, MOST),
        lambda: check(data, MOST, room=MOST, short=5),
        lambda: open_rgb(data, MOST),
        lambda: evaluate_pixels(open_scaled(data, 5, MOST), PREP),
        lambda: open_scaled(data, 1000, MOST, array=True),
    ):
        try:
            work()
        except DataError:
            continue
        accepted += 1
    return accepted


def fuzz(count: int, seed: int) -> tuple[int, int]:
    """(refused by all, accepted by all) of ``count`` mutated files."""
    files, refused, accepted = seeds(), 0, 0
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        ways = decoded_or_refused(mutated(files[number % len(files)], rng))
        refused, accepted = refused + (ways == 0), accepted + (ways == 5)
    return refused, accepted


def most_memory() -> int:
    """The most bytes this process ever had."""
    resource = pytest.importorskip("resource")
    found: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def test_the_seeds_are_images() -> None:
    assert all(decoded_or_refused(data) == 5 for data in seeds())


def test_a_few_hundred_mutated_files() -> None:
    fuzz(30, 1)
    before = most_memory()
    refused, accepted = fuzz(400, 0)
    assert refused > 50
    assert accepted > 20
    assert most_memory() - before < 200 * 2**20


@pytest.mark.slow
def test_ten_thousand_mutated_files() -> None:
    fuzz(100, 1)
    before = most_memory()
    refused, accepted = fuzz(10_000, 2)
    assert refused > 1000
    assert accepted > 500
    assert most_memory() - before < 300 * 2**20
