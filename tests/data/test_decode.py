"""Every kind of image file becomes upright 8-bit RGB, or a DataError that says what is wrong with it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, picture, png_header_only
from PIL import Image, ImageOps

from finetune.data.decode import check, open_rgb, to_rgb
from finetune.errors import DataError

ROOM = [0, 10**9]

# The filters that finetune.data.decode sets for its users; pytest sets its own for each test.
pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning"),
]


@pytest.fixture(autouse=True)
def pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger max_pixels raises Pillow's limit for the process: not beyond the test."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def pixels(source: bytes | Path | Image.Image) -> np.ndarray:
    image = to_rgb(source) if isinstance(source, Image.Image) else open_rgb(source)
    assert image.mode == "RGB"
    assert type(image) is Image.Image
    return np.asarray(image)


@pytest.mark.parametrize(
    "format", ["PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF", "JPEG", "ICO", "TGA", "PCX", "AVIF"]
)
def test_formats(format: str, tmp_path: Path) -> None:
    image = picture(1, (32, 32))
    path = tmp_path / f"a.{format.lower()}"
    try:
        path.write_bytes(encoded(image, format, **({"lossless": True} if format == "WEBP" else {})))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {format}")
    tolerance = {"JPEG": 60, "GIF": 60, "AVIF": 60}.get(format, 0)
    assert np.abs(pixels(path).astype(int) - np.asarray(image)).max() <= tolerance


def test_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a photo — ünïcode 照片.jpg"
    path.write_bytes(encoded(picture(2), "PNG"))
    assert (pixels(path) == np.asarray(picture(2))).all()


def test_grey_one_bit_and_palette() -> None:
    grey = picture(3).convert("L")
    assert (pixels(encoded(grey)) == np.asarray(grey)[:, :, None]).all()
    bits = grey.convert("1")
    assert set(np.unique(pixels(encoded(bits)))) <= {0, 255}
    assert (pixels(encoded(bits)) == np.asarray(bits.convert("L"))[:, :, None]).all()
    palette = picture(3).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (pixels(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()


def test_transparency_is_laid_on_white() -> None:
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    red.putpixel((1, 0), (0, 0, 0, 0))
    assert pixels(encoded(red)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    grey = Image.new("LA", (2, 1), (10, 255))
    grey.putpixel((1, 0), (10, 0))
    assert pixels(encoded(grey)).tolist() == [[[10, 10, 10], [255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 255, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    for transparency in (1, b"\xff\x00"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = pixels(encoded(palette, "PNG", transparency=transparency))
        assert made.tolist() == [[[0, 0, 255], [255, 255, 255]]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert abs(int(pixels(encoded(half))[0, 0, 0]) - 127) <= 1


def test_opaque_alpha_changes_nothing() -> None:
    assert (pixels(encoded(picture(4).convert("RGBA"))) == np.asarray(picture(4))).all()


def test_cmyk() -> None:
    made = pixels(encoded(Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK"), "JPEG"))
    assert made[8, 8, 0] > 150 > 90 > made[8, 8, 1]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(format: str) -> None:
    ramp = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(ramp), format))[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_integers_and_floats() -> None:
    wide = Image.fromarray(np.array([[-100, 0, 155]], dtype=np.int32))
    assert pixels(encoded(wide, "TIFF"))[0, :, 0].tolist() == [0, 100, 255]
    bytes_ = Image.fromarray(np.array([[0, 7, 255]], dtype=np.int32))
    assert pixels(encoded(bytes_, "TIFF"))[0, :, 0].tolist() == [0, 7, 255]
    unit = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert pixels(encoded(unit, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    wild = Image.fromarray(np.array([[-1.0, 0.0, 1.0]], dtype=np.float32))
    assert pixels(encoded(wild, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue", "green")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]
    for room in ROOM:
        assert check(data, room=room)[0].width == 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(5, (24, 16)), format, exif=exif)
    import io

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (pixels(data) == np.asarray(expected)).all()
    for room in ROOM:
        info, kept = check(data, room=room)
        assert (kept is None) == (room == 0)
        assert (info.width, info.height) == expected.size or format == "TIFF"


def test_broken_exif_is_no_reason_to_lose_an_image() -> None:
    data = encoded(picture(6), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert pixels(data).shape == (20, 24, 3)


def test_the_argument_is_left_alone() -> None:
    image = picture(7).convert("RGBA")
    before = image.tobytes()
    to_rgb(image)
    assert image.mode == "RGBA"
    assert image.tobytes() == before


BAD = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"this is no image, whatever its name says", "is not an image that Pillow can read"),
    "html": (b"<!DOCTYPE html><html>404</html>", "is not an image that Pillow can read"),
    "cut jpeg": (encoded(picture(8, (200, 150)), "JPEG")[:-900], "is cut short or damaged"),
    "cut progressive jpeg": (
        encoded(picture(8, (200, 150)), "JPEG", progressive=True)[:-900],
        "is cut short or damaged",
    ),
    "jpeg header": (encoded(picture(8, (200, 150)), "JPEG")[:400], "is cut short or damaged|not an image"),
    "cut png": (encoded(picture(9, (200, 150)), "PNG")[:-900], "is cut short or damaged"),
    "png without data": (png_header_only(50, 50)[:50], "is cut short or damaged"),
    "cut gif": (encoded(picture(9, (200, 150)), "GIF")[:-900], "is cut short or damaged"),
    "cut webp": (encoded(picture(9, (200, 150)), "WEBP")[:-300], "is cut short or damaged|not an image"),
    "cut bmp": (encoded(picture(9, (200, 150)), "BMP")[:-900], "is cut short or damaged"),
    "cut ppm": (encoded(picture(9, (200, 150)), "PPM")[:-900], "is cut short or damaged"),
    "cut tiff": (encoded(picture(9, (200, 150)), "TIFF")[:-900], "is cut short or damaged"),
    "bomb": (
        png_header_only(10_000, 10_001),
        "has 10000 x 10001 pixels, more than data.max_pixels=100,000,000",
    ),
    "big bomb": (png_header_only(50_000, 50_000), "has more than data.max_pixels=100,000,000 pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(kind: str, tmp_path: Path) -> None:
    data, reason = BAD[kind]
    path = tmp_path / "my photo.jpg"
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=rf"my photo.jpg' must be a whole image file. Got one that .*({reason})"
    ):
        open_rgb(path)
    for room in ROOM:
        with pytest.raises(DataError, match=reason):
            check(data, room=room)


def test_flipped_bits_in_a_png_are_noticed() -> None:
    data = bytearray(encoded(picture(9, (200, 150)), "PNG"))
    data[len(data) // 2] ^= 0xFF
    for room in ROOM:
        with pytest.raises(DataError, match="is cut short or damaged"):
            check(bytes(data), room=room)


def test_random_bytes_after_a_signature_never_crash() -> None:
    rng = np.random.default_rng(0)
    for start in (
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"P6\n",
        b"II*\x00",
        b"RIFF1234WEBPVP8 ",
    ):
        for _ in range(10):
            data = start + rng.bytes(300)
            try:
                open_rgb(data)
            except DataError:
                continue


def test_bombs_are_caught_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"more than data.max_pixels=100,000,000 pixels"):
            open_rgb(png_header_only(10_000, 10_001))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.png' must be an existing file"):
        open_rgb(tmp_path / "no.png")
    with pytest.raises(DataError, match=r"must be a readable file. Got Is a directory"):
        open_rgb(tmp_path)


def test_max_pixels_is_the_users() -> None:
    data = encoded(picture(1, (40, 30)))
    assert open_rgb(data, max_pixels=1200).size == (40, 30)
    with pytest.raises(DataError, match=r"40 x 30 pixels, more than data.max_pixels=1,199"):
        open_rgb(data, max_pixels=1199)


def test_a_hundred_megapixels_may_be_allowed() -> None:
    data = encoded(Image.new("1", (14_000, 14_000)))
    with pytest.raises(DataError, match=r"more than data.max_pixels"):
        open_rgb(data)
    assert check(data, max_pixels=200_000_000)[0].width == 14_000
