"""JPEG photos decoded at 1/2, 1/4 or 1/8 of their size, where the network sees far fewer pixels than they have.

libjpeg computes only the low frequencies of each block then, which is most of the work saved and, well above the
size that is wanted, hardly another picture: with 2.5 times the pixels a side that evaluation scales to, resized
pixels differ from those of the full decoding by 0.3 to 0.6 of 255 on average, 3 at the 99th percentile (20 real
photos of a megapixel). All other images are decoded in full.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from finetune.data.decode import (
    MAX_PIXELS,
    damaged,
    load_checked,
    open_checked,
    opened,
    orientation_of,
    scale_for,
)
from finetune.data.turbo import decode_jpeg

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scaled:
    """An upright RGB image, in full or reduced."""

    pixels: Image.Image | np.ndarray
    """As decoded: a Pillow image, or (h, w, 3) uint8."""
    size: tuple[int, int]
    """(width, height) in full."""
    box: Box | None = None
    """Left, top, right, bottom of what shows the image; None: all of it. A reduced image whose sides were no
    multiples of 8 ends within its last pixels."""

    @property
    def picture(self) -> Image.Image:
        """As a Pillow image."""
        return as_picture(self.pixels)

    def resized(self, size: tuple[int, int], filter: Image.Resampling) -> Image.Image:
        """To (width, height) with antialiasing, as an image in full would be."""
        picture = self.picture
        return (
            picture
            if picture.size == size and self.box is None
            else picture.resize(size, filter, box=self.box)
        )


def as_picture(pixels: Image.Image | np.ndarray) -> Image.Image:
    """A Pillow image of either."""
    return Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels


def decode_scaled(
    data: bytes,
    short: int | None,
    max_pixels: int = MAX_PIXELS,
    suffix: str = "",
    array: bool = False,
    depth: int | None = None,
) -> Scaled:
    """The upright RGB image, with at least ``short`` pixels on its short side where it has them; None: in full.

    ``array``: an array rather than a Pillow image. DataError's message is the bare reason.
    """
    image = open_checked(data, max_pixels, suffix)
    size = image.size
    scale = scale_for(size, short) if isinstance(image, JpegImageFile) else 1
    if array and image.mode == "RGB" and "transparency" not in image.info:
        pixels = _array(image, data, scale)
        if pixels is not None:
            return Scaled(pixels, size)
    if scale > 1:
        found = load_scaled(image, scale)
        # What ends within a pixel is for Pillow, which alone resizes from such a box.
        return replace(found, pixels=np.array(found.pixels)) if array and found.box is None else found
    rgb = load_checked(image, depth)
    return Scaled(np.array(rgb) if array else rgb, rgb.size)


def _array(image: ImageFile, data: bytes, scale: int) -> np.ndarray | None:
    """What ``load_scaled`` gives as an array, without a copy in between; None where it has to be turned, or ends
    within a pixel."""
    width, height = image.size
    if width % scale or height % scale:
        return None
    jpeg = isinstance(image, JpegImageFile)
    if jpeg and orientation_of(image) == 1:
        pixels = decode_jpeg(data, (width // scale, height // scale), scale)
        if pixels is not None:
            return pixels
    if scale > 1:
        return None
    try:
        image.load()
    except Exception as error:
        raise damaged(error) from None
    return np.array(image) if orientation_of(image) == 1 and image.mode == "RGB" else None


def open_scaled(
    source: str | Path | bytes,
    short: int | None,
    max_pixels: int = MAX_PIXELS,
    name: str = "",
    array: bool = False,
    depth: int | None = None,
) -> Scaled:
    """The same from a file. Raises DataError as ``open_rgb`` does."""

    def decoder(data: bytes, suffix: str) -> Scaled:
        return decode_scaled(data, short, max_pixels, suffix, array, depth)

    return opened(source, decoder, name)


def load_scaled(image: ImageFile, scale: int) -> Scaled:
    """A JPEG of which only the header was read, at 1/scale. DataError's message is the bare reason."""
    width, height = image.size
    image.draft(image.mode, (width // scale, height // scale))
    small = image.size
    rgb = load_checked(image)
    across, down = width / scale, height / scale
    exact = (across, down) == small
    orientation = orientation_of(image)
    full = (height, width) if orientation >= 5 else (width, height)
    return Scaled(rgb, full, None if exact else upright_box((0.0, 0.0, across, down), small, orientation))


# EXIF orientation -> whether rows and columns change places; whether the result is mirrored in x, and in y.
_TURNS = {2: (0, 1, 0), 3: (0, 1, 1), 4: (0, 0, 1), 5: (1, 0, 0), 6: (1, 1, 0), 7: (1, 1, 1), 8: (1, 0, 1)}


def upright_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where a box of an image of (width, height) as stored lies once the image stands upright.

    >>> upright_box((0, 0, 9.5, 4), (10, 4), 3)
    (0.5, 0, 10, 4)
    """
    left, top, right, bottom = box
    width, height = size
    swap, mirror_x, mirror_y = _TURNS.get(orientation, (0, 0, 0))
    if swap:
        left, top, right, bottom, width, height = top, left, bottom, right, height, width
    if mirror_x:
        left, right = width - right, width - left
    if mirror_y:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom
