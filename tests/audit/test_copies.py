"""Copies are found whatever was done to the file; look-alikes are left alone."""

from __future__ import annotations

import doctest
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from finetune.audit import copies, thumbnails
from finetune.audit.copies import same_picture
from tests.audit.conftest import photo


def thumb(image: Image.Image) -> np.ndarray:
    side = thumbnails.SIDE
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX))


def groups(images: list[Image.Image]) -> list[list[int]]:
    thumbs = np.stack([thumb(image) for image in images])
    return same_picture(thumbs, list(range(len(images))), thumbnails.blank(thumbs))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue()))


def test_examples() -> None:
    assert not doctest.testmod(copies).failed
    assert not doctest.testmod(thumbnails).failed


@pytest.mark.parametrize(
    "change",
    [
        lambda im: jpeg(im, 30),
        lambda im: im.resize((40, 40)),
        lambda im: jpeg(im.resize((300, 260)), 70),
        lambda im: ImageEnhance.Brightness(im).enhance(1.03),
    ],
    ids=["strongly compressed", "smaller", "larger, other shape, compressed", "a little brighter"],
)
def test_a_copy_is_found_among_many(change: object) -> None:
    images = [photo(i, i % 3) for i in range(40)]
    images.append(change(images[7]))  # type: ignore[operator]
    assert groups(images) == [[7, 40]]


def test_blank_images_are_no_copies_of_each_other() -> None:
    plain = [Image.new("RGB", (50, 50), (i, 0, 0)) for i in (10, 200)]
    assert groups([photo(i, 0) for i in range(9)] + plain) == []


def test_frames_of_a_film_are_no_copies() -> None:
    film = []
    for step in range(12):  # a window that slides over one large picture
        film.append(photo(99, 1, 240).crop((10 * step, 0, 120 + 10 * step, 120)))
    assert groups([photo(i, 0) for i in range(20)] + film) == []


def test_a_copy_of_a_copy_is_in_the_group() -> None:
    images = [photo(i, 0) for i in range(12)]
    once = jpeg(images[3], 60)
    assert groups([*images, once, once.resize((50, 50))]) == [[3, 12, 13]]


def test_equal_bytes_do_not_hide_another_copy() -> None:
    images = [photo(i, 0) for i in range(10)] + [photo(3, 0)] * 20 + [jpeg(photo(3, 0), 50)]
    thumbs = np.stack([thumb(image) for image in images])
    prints = ["same" if i == 3 or 10 <= i < 30 else i for i in range(len(images))]
    assert same_picture(thumbs, prints, thumbnails.blank(thumbs)) == [[3, *range(10, 31)]]
