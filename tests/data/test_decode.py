"""Bytes as pixels: plain JPEGs by libjpeg-turbo as Pillow has them, and what else a folder may hold by Pillow."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from tfhalf.data.decode import fast
from tfhalf.data.decode.canvas import Canvas, measured
from tfhalf.data.decode.fit import Fit
from tfhalf.data.decode.header import jpeg
from tfhalf.data.decode.pillow import Reader
from tfhalf.data.encoded import Held
from tfhalf.data.sources import images
from tfhalf.errors import DataError

pytest.importorskip("simplejpeg", reason="JPEGs are decoded by Pillow where it is not installed")

DRAW = np.random.default_rng(0)


def picture(height: int, width: int) -> Image.Image:
    """Smooth, with some noise."""
    coarse = DRAW.integers(0, 256, (max(2, height // 8), max(2, width // 8), 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + DRAW.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exact(data: bytes, mode: str = "RGB") -> np.ndarray:
    """What Pillow alone makes of it."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))


def turned(orientation: int, **more: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture(21, 34), exif=exif, **more)


# --- the same pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [(1, 1), (7, 5), (16, 16), (37, 53), (8, 17), (120, 90)])
def test_plain_jpegs_are_as_pillow_has_them(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 2**20)
    image = picture(*sides)
    for subsampling in (0, 1, 2):
        for quality in (5, 75, 100):
            for progressive in (False, True):
                data = saved(image, quality=quality, subsampling=subsampling, progressive=progressive)
                header = jpeg(data)
                assert header is not None
                assert header == (*sides, 3, True, progressive)
                np.testing.assert_array_equal(fast.decode(data, header, 3), exact(data))
    gray = saved(image.convert("L"), quality=80, restart_marker_rows=1)
    header = jpeg(gray)
    assert header is not None
    assert header[:4] == (*sides, 1, True)
    np.testing.assert_array_equal(fast.decode(gray, header, 1)[..., 0], exact(gray, "L"))
    np.testing.assert_array_equal(fast.decode(gray, header, 3), exact(gray))


ODD = {
    "turned": turned(6),
    "mirrored": turned(2),
    "turned back": turned(8),
    "CMYK": saved(picture(20, 30).convert("CMYK")),
    "RGB without a change of colours": saved(picture(20, 30), keep_rgb=True),
    "PNG": saved(picture(20, 30), "PNG"),
    "WebP": saved(picture(20, 30), "WEBP"),
    "GIF": saved(picture(20, 30).quantize(16), "GIF"),
    "PNG with transparency": saved(picture(20, 30).convert("RGBA"), "PNG"),
    "XMP says turned": saved(picture(20, 30), xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_plain_goes_to_pillow(name: str) -> None:
    header = jpeg(ODD[name])
    assert header is None or not header.plain
    np.testing.assert_array_equal(Reader("s").decode(ODD[name], "a", False, None), exact(ODD[name]))


def test_upright_by_its_exif_is_plain() -> None:
    header = jpeg(turned(1))
    assert header is not None
    assert header.plain
    np.testing.assert_array_equal(Reader("s").decode(turned(1), "a", False, Fit((9, 8))).shape, (9, 8, 3))


def test_resizing_is_pillows() -> None:
    data = saved(picture(40, 60))
    own = Image.fromarray(exact(data)).resize((16, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(Reader("s").decode(data, "a", False, Fit((24, 16))), np.asarray(own))


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_half_an_image_is_refused_by_name(cut: float) -> None:
    data = saved(picture(64, 64))
    with pytest.raises(DataError, match=r"^s: a\.jpg is damaged \(.*replace or remove it$"):
        Reader("s").decode(data[: int(len(data) * cut)], "a.jpg", False, None)


def test_damage_that_pillow_overlooks_gives_pillows_pixels() -> None:
    data = bytearray(saved(picture(64, 64), quality=90))
    data[len(data) // 2 : len(data) // 2 + 3] = b"\x00\x13\x37"
    header = jpeg(bytes(data))
    assert header is not None
    assert header.plain
    np.testing.assert_array_equal(Reader("s").decode(bytes(data), "a", False, None), exact(bytes(data)))


def test_headers_that_end_early_or_lie() -> None:
    data = saved(picture(20, 30))
    assert [jpeg(data[:length]) for length in range(100)] == [None] * 100
    assert jpeg(b"") is None
    assert jpeg(b"\xff\xd8\xff" + b"\xff" * 50) is None
    exif = turned(1)
    at = exif.index(b"Exif\0\0") + 10
    for count in (0xFFFF, 0x7FFFFFFF):
        lying = exif[:at] + struct.pack(">I", count) + exif[at + 4 :]
        header = jpeg(lying)
        assert header is None or not header.plain


def test_an_image_of_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(DataError, match=r"s: a has 30 x 20 = 600 pixels; accepted: up to 500; shrink it"):
        Reader("s").decode(saved(picture(20, 30)), "a", False, None)


def test_without_the_library_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(picture(20, 30))
    monkeypatch.setattr(fast, "library", lambda: None)
    np.testing.assert_array_equal(Reader("s").decode(data, "a", False, None), exact(data))


# --- images of any source ---------------------------------------------------------------------------------------------


def held(*data: bytes) -> Held:
    return Held(data, lambda index: f"image {index}")


def test_lazy_takes_the_bytes_of_any_source() -> None:
    some = images.lazy(held(*(saved(picture(20, 30)) for _ in range(5))), "s", Fit((8, 6)))
    assert (some.shape, some.dtype) == ((5, 8, 6, 3), np.uint8)
    own = Image.fromarray(exact(some.items.read(3))).resize((6, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(some[3:4][0], np.asarray(own))
    gray = images.lazy(held(*(saved(picture(20, 30).convert("L")) for _ in range(5))), "s", None)
    assert gray.shape == (5, 20, 30, 1)
    with pytest.raises(DataError, match=r"s: image 0 is 20 x 30 and image 1 21 x 30"):
        images.lazy(held(saved(picture(20, 30)), saved(picture(21, 30))), "s", None)[:]


# --- canvases ---------------------------------------------------------------------------------------------------------


def test_a_canvas_holds_each_image_at_its_own_size() -> None:
    data = [saved(picture(20, 30)), saved(picture(33, 12), "PNG"), ODD["turned"], saved(picture(20, 30).convert("L"))]
    canvas = Canvas(held(*data), "s", (48, 32), 3)
    out, sides = np.full((4, *canvas.item), 7, np.uint8), np.zeros((4, 2), np.int32)
    canvas.fill(np.arange(4), out, sides)
    assert sides.tolist() == [[20, 30], [33, 12], [34, 21], [20, 30]]
    for image, (height, width), one in zip(out, sides, data, strict=True):
        np.testing.assert_array_equal(image[:height, :width], exact(one))
        assert (image[height:] == 7).all()
        assert (image[:, width:] == 7).all()


@pytest.mark.parametrize(("sides", "becomes"), [((100, 60), (50, 30)), ((600, 88), (75, 11)), ((64, 33), (56, 29))])
def test_what_is_larger_is_scaled_down(sides: tuple[int, int], becomes: tuple[int, int]) -> None:
    """By so many eighths as libjpeg has them; of other files by Pillow."""
    image = picture(*sides)
    canvas = Canvas(held(saved(image), saved(image, "PNG")), "s", (80, 32) if sides[0] > 64 else (63, 32), 3)
    of_jpeg, of_png = canvas.image(0), canvas.image(1)
    assert of_jpeg.shape == (*becomes, 3)
    assert of_png.shape[0] <= canvas.sides[0]
    assert of_png.shape[1] <= canvas.sides[1]
    own = np.asarray(image.resize(becomes[::-1], Image.Resampling.BOX), np.float64)
    assert np.abs(of_jpeg - own).mean() < 10


def test_an_image_that_no_eighth_of_fits() -> None:
    assert Canvas(held(saved(picture(400, 24))), "s", (32, 32), 3).image(0).shape == (32, 1, 3)


def test_canvases_refuse_16_bits_and_damage_by_name() -> None:
    deep = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30))
    canvas = Canvas(held(saved(picture(20, 30)), saved(deep, "PNG"), b"nothing"), "s", (32, 32), 3)
    out, sides = np.zeros((3, *canvas.item), np.uint8), np.zeros((3, 2), np.int32)
    with pytest.raises(DataError, match=r"s: image 1 has 16 bits a channel; data\.augment\.resized_crop takes 8"):
        canvas.fill(np.arange(3), out, sides)
    with pytest.raises(DataError, match="s: image 2 holds no PNG, JPEG"):
        canvas.image(2)


def test_a_canvas_is_no_larger_than_needed() -> None:
    some = held(saved(picture(100, 70)), saved(picture(50, 140)), ODD["turned"])
    every = np.arange(3)
    assert measured(some, every, "s", (224, 224), 0.08, (3 / 4, 4 / 3)) == (112, 144)  # the set's largest
    assert measured(some, every, "s", (16, 16), 0.08, (3 / 4, 4 / 3)) == (80, 80)  # 16 px out of 8 % of it
    large = held(*(saved(picture(10, 700)),) * 2)
    assert measured(large, every[:2], "s", (224, 224), 0.08, (3 / 4, 4 / 3)) == (16, 512)
    assert measured(large, every[:2], "s", (300, 300), 0.08, (3 / 4, 4 / 3)) == (16, 608)
