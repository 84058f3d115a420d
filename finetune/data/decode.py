"""One way from the bytes of an image file to an upright 8-bit RGB image, or to a DataError saying why not."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from finetune.data.deep import from_deep, is_deep, value_range
from finetune.data.imageset import ImageInfo
from finetune.errors import DataError

T = TypeVar("T")

MAX_PIXELS = 100_000_000
"""Default limit: a 10,000 x 10,000 photo; a decompression bomb is larger."""

# The formats that show themselves by their first bytes, the common ones first because Pillow loads the
# plugins of the others only when they are asked for. Left out on purpose: EPS (Pillow runs Ghostscript for
# it), the stubs that never decode, and formats without a signature.
_COMMON = ("JPEG", "PNG", "GIF", "BMP", "PPM")
_RARE = ("WEBP", "TIFF", "MPO", "JPEG2000", "AVIF", "QOI", "ICO", "DIB", "PCX", "SGI", "PSD", "DDS", "ICNS")

IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm",
    ".pfm", ".webp", ".tif", ".tiff", ".mpo", ".jp2", ".j2k", ".avif", ".qoi", ".ico", ".pcx", ".sgi", ".rgb",
    ".bw", ".psd", ".dds", ".icns", ".tga", ".heic", ".heif", ".jxl",
})  # fmt: skip
"""Names that claim to be an image; what such a file really holds is found out by opening it."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ORIENTATION = 0x0112

# max_pixels is checked here, with a message; Pillow's own warning would only come as a second one. Its
# warnings about EXIF blocks and the like name no file and say nothing about the pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def open_rgb(
    source: str | Path | bytes, max_pixels: int = MAX_PIXELS, name: str = "", depth: int | None = None
) -> Image.Image:
    """Decode a file or its bytes to an upright RGB image of 8 bits a channel.

    Grey, 1-bit, palette, CMYK and 16-bit images are converted by value, not clipped (``depth``: see
    ``finetune.data.deep``); transparency is laid on white; of an animation the first frame is taken; the EXIF
    orientation is applied.

    Raises:
        DataError: the file is missing, empty, not an image, cut short, damaged or larger than max_pixels.
    """
    return opened(source, lambda data, suffix: decode(data, max_pixels, suffix, depth), name)


def opened(source: str | Path | bytes, decoder: Callable[[bytes, str], T], name: str = "") -> T:
    """What ``decoder`` makes of a file's bytes and suffix; DataErrors say which file, and what to do."""
    shown = name or ("image" if isinstance(source, bytes) else str(source))
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except FileNotFoundError:
        raise DataError(f"Image {shown!r} must be an existing file. Got none there instead.") from None
    except OSError as error:
        raise DataError(f"Image {shown!r} must be a readable file. Got {error.strerror} instead.") from None
    except ValueError as error:  # a name with a NUL
        raise DataError(f"Image {shown!r} must be a readable file. Got {error} instead.") from None
    try:
        return decoder(data, Path(shown).suffix.lower())
    except DataError as problem:
        raise DataError(
            f"Image {shown!r} must be a whole image file. Got one that {problem} instead. "
            "Replace or delete it."
        ) from None


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, suffix: str = "", depth: int | None = None
) -> Image.Image:
    """The upright RGB image; DataError's message is the bare reason."""
    return load_checked(open_checked(data, max_pixels, suffix), depth)


def check(
    data: bytes,
    max_pixels: int = MAX_PIXELS,
    suffix: str = "",
    room: int = 0,
    short: int | None = None,
    depth: int | None = None,
) -> tuple[ImageInfo, Image.Image | None]:
    """See that a file is whole: decode it if it has at most ``room`` pixels, else as cheaply as is sure.

    Cheaply means: a JPEG is decoded at 1/8, which reads every coefficient but computes 1/64 of the pixels;
    of a PNG of 8 bits the checksum of every chunk is tested; everything else is decoded and dropped. With ``short`` a
    JPEG that has more pixels than are needed is decoded at the scale that ``scale_for`` gives, and kept where
    that divides its sides. The sizes are upright and in full. DataError's message is the bare reason.
    """
    image = open_checked(data, max_pixels, suffix)
    if is_deep(image.mode):  # their values have to be known
        rgb = load_checked(image, depth)
        info = ImageInfo(rgb.width, rgb.height, image.mode, deep=value_range(image, depth))
        return info, rgb if rgb.width * rgb.height <= room else None
    mode, (width, height), jpeg = image.mode, image.size, isinstance(image, JpegImageFile)
    scale = scale_for((width, height), short) if jpeg else 1
    if scale > 1 and width % scale == 0 and height % scale == 0 and width * height <= room * scale**2:
        image.draft(mode, (width // scale, height // scale))
        rgb = load_checked(image)
        return ImageInfo(scale * rgb.width, scale * rgb.height, mode, jpeg), rgb
    if scale == 1 and width * height <= room:
        rgb = load_checked(image)
        return ImageInfo(rgb.width, rgb.height, mode, jpeg), rgb
    try:
        if image.format == "PNG" and getattr(image, "n_frames", 1) == 1:
            # Without EXIF before the pixels Pillow would decode them to look behind.
            orientation = orientation_of(image) if "exif" in image.info else 1
            image.verify()
        else:
            image.draft(mode, (max(1, width // 8), max(1, height // 8)))
            image.load()
            orientation = orientation_of(image)
    except Exception as error:
        raise damaged(error) from None
    return ImageInfo(*((height, width) if orientation >= 5 else (width, height)), mode, jpeg), None


def scale_for(size: tuple[int, int], short: int | None) -> int:
    """1, 2, 4 or 8: the largest divisor that leaves ``short`` pixels on the short side.

    >>> scale_for((4000, 3000), 640), scale_for((500, 375), 640), scale_for((4000, 3000), None)
    (4, 1, 1)
    """
    fitting = (k for k in (8, 4, 2) if short is not None and min(size) // k >= max(short, 1))
    return next(fitting, 1)


def is_image(data: bytes, suffix: str = "") -> bool:
    """Whether the first bytes are those of an image, whatever the file is called."""
    try:
        open_checked(data, suffix=suffix)
    except DataError:
        return False
    return True


def open_checked(data: bytes, max_pixels: int = MAX_PIXELS, suffix: str = "") -> ImageFile.ImageFile:
    """Read the header only, check kind and size; DataError's message is the bare reason."""
    if not data:
        raise DataError("is empty (0 bytes)")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # the user's own limit takes the place of Pillow's 89 megapixels
    try:
        image = _identify(data, suffix)
    except UnidentifiedImageError:
        raise DataError("is not an image that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"has more than data.max_pixels={max_pixels:,} pixels") from None
    except Exception as error:
        raise damaged(error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"has {width} x {height} pixels, more than data.max_pixels={max_pixels:,}")
    if width < 1 or height < 1:
        raise DataError(f"has no pixels ({width} x {height})")
    return image


def load_checked(image: ImageFile.ImageFile, depth: int | None = None) -> Image.Image:
    """The upright RGB image of one that ``open_checked`` gave; DataError's message is the bare reason."""
    try:
        image.load()
        return to_rgb(image, depth)
    except DataError:
        raise
    except Exception as error:
        raise damaged(error) from None


def damaged(error: Exception) -> DataError:
    """Decoders meet damaged bytes with OSError, SyntaxError, ValueError, IndexError, struct.error, zlib.error
    and more. Whichever it is, the bytes are what is wrong; the decoder's words are kept."""
    words = str(error).strip().rstrip(".") or type(error).__name__
    return DataError(f"is cut short or damaged ({words})")


def _identify(data: bytes, suffix: str) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(data), formats=_COMMON)
    except UnidentifiedImageError:
        Image.init()
        # TGA has no signature: believed only where the name says so.
        wanted = (*_RARE, "TGA") if suffix == ".tga" else _RARE
        return Image.open(io.BytesIO(data), formats=[f for f in wanted if f in Image.OPEN])


def to_rgb(image: Image.Image, depth: int | None = None) -> Image.Image:
    """Any Pillow image to upright 8-bit RGB; the argument is left as it was. Raises DataError."""
    image.load()  # TIFF turns itself upright here, so the orientation is only asked for afterwards
    orientation = orientation_of(image)
    if is_deep(image.mode):
        result = from_deep(image, depth)
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        result = _on_white(image)
    elif image.mode == "RGB":
        result = image
    else:
        try:
            result = image.convert("RGB")
        except ValueError:
            raise DataError(f"has colour mode {image.mode}, which has no RGB form") from None
    if orientation in _TRANSPOSE:
        return result.transpose(_TRANSPOSE[orientation])
    if result is image or type(result) is not Image.Image:
        return _plain(result)
    return result


def _plain(image: Image.Image) -> Image.Image:
    """The pixels alone: no open file, no encoded bytes, no EXIF kept alive behind them."""
    plain = image.copy()
    plain.info = {}
    return plain


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        # A broken EXIF block says nothing about the pixels, which decoded; the image stays as stored.
        return 1
    return value if isinstance(value, int) else 1


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba.convert("RGB"), mask=alpha)
    return white
