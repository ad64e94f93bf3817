"""folder:PATH: layouts, what the images become, and what is refused by name."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tfhalf.config import Data
from tfhalf.data import Splits, load_splits, memory
from tfhalf.data.decode.fit import Fit
from tfhalf.data.sources import folder
from tfhalf.errors import DataError


def load(path: Path, **rest: Any) -> Splits:
    return load_splits(Data(source=f"folder:{path.name}", **rest), base=path.parent, seed=0)


def write(
    path: Path, colour: Any = (255, 0, 0), size: tuple[int, int] = (6, 4), mode: str = "RGB", **save: Any
) -> None:
    """``size`` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], colour).save(path, **save)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Two classes of five images, no test set."""
    root = tmp_path / "images"
    for name, colour in (("dog", (0, 255, 0)), ("cat", (255, 0, 0))):
        for index in range(5):
            write(root / name / f"{index}.png", colour)
    return root


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for part, count in (("train", 5), ("test", 2)):
        for name, colour in (("dog", (0, 255, 0)), ("cat", (255, 0, 0))):
            for index in range(count):
                write(root / part / name / f"{index}.png", colour)
    return root


def test_flat_layout(flat):
    splits = load(flat, validation=2)
    assert splits.sizes == {"train": 6, "validation": 2, "test": 2}
    assert splits.class_names == ("cat", "dog")
    assert splits.input_shape == (6, 4, 3)
    assert splits.x_train.dtype == np.uint8
    for x, y in ((splits.x_train, splits.y_train), (splits.x_val, splits.y_val), (splits.x_test, splits.y_test)):
        for image, label in zip(x, y, strict=True):
            assert image[0, 0].tolist() == ([255, 0, 0], [0, 255, 0])[label]


def test_parted_layout(parted):
    splits = load(parted, validation=2)
    assert splits.sizes == {"train": 8, "validation": 2, "test": 4}
    assert splits.y_test.tolist() == [0, 0, 1, 1]
    assert (splits.x_test[:, 0, 0, 0] == [255, 255, 0, 0]).all()


def test_train_without_test_has_its_test_split_off(parted):
    (parted / "test").rename(parted.parent / "elsewhere")
    assert load(parted, validation=0).sizes == {"train": 8, "validation": 0, "test": 2}


def test_an_absolute_path_and_a_home_path(flat, monkeypatch):
    data = Data(source=f"folder:{flat}")
    assert load_splits(data, base=Path("/elsewhere"), seed=0).num_classes == 2
    monkeypatch.setenv("HOME", str(flat.parent))
    assert load_splits(Data(source="folder:~/images"), base=Path("/elsewhere"), seed=0).num_classes == 2


def test_gray_images_keep_one_channel_and_one_coloured_makes_three(flat):
    for file in sorted(flat.rglob("*.png")):
        write(file, 7, mode="L")
    write(flat / "cat" / "0.png", (7, 0), mode="LA")
    splits = load(flat)
    assert splits.input_shape == (6, 4, 1)
    assert (splits.x_train == 7).all()
    write(flat / "dog" / "4.png", (7, 7, 7))
    splits = load(flat)
    assert splits.input_shape == (6, 4, 3)
    assert (splits.x_train == 7).all()


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (9, 8, 7, 0)), ("P", 0), ("CMYK", (0, 0, 0, 0)), ("1", 1)])
def test_other_modes_become_rgb(flat, mode, colour):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    write(flat / "cat" / f"more{suffix}", colour, mode=mode)
    assert load(flat).input_shape == (6, 4, 3)


def test_a_palette_with_transparency(flat):
    image = Image.new("P", (4, 6), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(flat / "cat" / "0.png", transparency=b"\x00\x80")
    splits = load(flat, validation=0, test=0.2)
    assert [10, 20, 30] in [*splits.x_train[:, 0, 0].tolist(), *splits.x_test[:, 0, 0].tolist()]


def test_suffixes_in_capitals_and_jpeg(flat):
    write(flat / "cat" / "a.JPG")
    write(flat / "dog" / "b.Jpeg")
    write(flat / "dog" / "c.PNG")
    assert sum(load(flat).sizes.values()) == 13


def test_metadata_and_hidden_files_are_skipped(flat):
    for name in ("README.md", "labels.JSON", "cat/notes.txt", ".DS_Store", "cat/.hidden.bin", "dog/Thumbs.db"):
        (flat / name).write_text("x")
    (flat / ".git").mkdir()
    (flat / "cat" / ".cache").mkdir()
    assert sum(load(flat).sizes.values()) == 10


def test_exif_orientation_is_applied(flat):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    wide = np.zeros((4, 6, 3), np.uint8)
    wide[:, :3] = 255
    Image.fromarray(wide).save(flat / "cat" / "0.jpg", exif=exif, quality=100)
    (flat / "cat" / "0.png").unlink()
    splits = load(flat, validation=0)
    whites = [x for x in (*splits.x_train, *splits.x_test) if x[0].min() > 200]
    assert len(whites) == 1
    assert whites[0].shape == (6, 4, 3)
    assert whites[0][5].max() < 50


def test_differing_sizes_name_two_files_and_image_size(flat):
    write(flat / "dog" / "2.png", size=(5, 9))
    message = r"cat/0\.png is 6 x 4 and dog/2\.png 5 x 9 \(height x width\).*set data\.image_size, for example \[6, 4\]"
    with pytest.raises(DataError, match=message):
        load(flat)
    splits = load(flat, image_size=[8, 10])
    assert splits.input_shape == (8, 10, 3)
    assert folder.read(flat, Fit((8, 10)), "s", lambda message: None).x_train.shape == (10, 8, 10, 3)


def refused(path: Path, message: str, **rest: Any) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(path, **rest)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"folder:{path.name}: ")


def test_no_such_folder(tmp_path):
    refused(tmp_path / "absent", "does not exist; accepted: a folder PATH/CLASS")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "is a file; accepted")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no class folder")


def test_one_class_only(flat):
    (flat / "dog").rename(flat.parent / "dog")
    refused(flat, "holds one class")


def test_an_empty_class(flat):
    (flat / "bird").mkdir()
    (flat / "bird" / "notes.txt").write_text("x")
    refused(flat, "bird holds no image")


@pytest.mark.parametrize("name", ["cat/a.svg", "cat/a.py", "cat/a", "cat/a.png.bak"])
def test_a_file_that_is_no_image(flat, name):
    (flat / name).write_bytes(b"x")
    refused(flat, f"{name} is not an image; accepted: .png .jpg .jpeg .webp")


def test_an_image_outside_a_class(flat):
    write(flat / "a.png")
    refused(flat, r"a\.png is a file where class folders stand")


def test_a_folder_inside_a_class(flat):
    write(flat / "cat" / "more" / "a.png")
    refused(flat, "cat/more is a folder inside a class folder")


def test_a_part_of_another_name(parted):
    write(parted / "valid" / "cat" / "a.png")
    refused(parted, r"valid stands beside 'train'.*with val/ \(or validation/\) and test/ beside train/.*rename it")


@pytest.mark.parametrize("name", ["val", "validation"])
@pytest.mark.parametrize("tested", [True, False])
@pytest.mark.parametrize("decode", ["eager", "lazy"])
def test_a_validation_part(parted, name, tested, decode):
    for kind, colour in (("dog", (0, 200, 0)), ("cat", (200, 0, 0))):
        for index in range(3):
            write(parted / name / kind / f"{index}.png", colour)
    if not tested:
        (parted / "test").rename(parted.parent / "elsewhere")
    told = []
    data = Data(source=f"folder:{parted.name}", decode=decode)
    splits = load_splits(data, base=parted.parent, seed=0, progress=told.append)
    assert splits.sizes == {"train": 10 if tested else 8, "validation": 6, "test": 4 if tested else 2}
    assert splits.y_val.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.x_val[:, 0, 0].max(-1).tolist() == [200] * 6
    assert splits.x_test[:, 0, 0].max(-1).tolist() == [255] * (4 if tested else 2)
    (line,) = [line for line in told if "validation on the 6 items" in line]
    assert ("that is drawn from the training part (data.test)" in line) is not tested


def test_two_validation_parts_and_differing_classes(parted):
    write(parted / "val" / "cat" / "a.png")
    refused(parted, "class 'dog' is in train/ and not in val/")
    write(parted / "validation" / "cat" / "a.png")
    refused(parted, "validation stands beside 'val'; one of the two is accepted")


@pytest.mark.parametrize("suffix", ["webp", "bmp", "gif", "tif", "tiff", "TIFF"])
def test_every_format(flat, suffix):
    red = Image.new("RGB", (4, 6), (255, 0, 0))
    more = {"save_all": True, "append_images": [Image.new("RGB", (4, 6), (0, 0, 255))]} if suffix == "gif" else {}
    red.save(flat / "cat" / f"9.{suffix}", **({"lossless": True} if suffix == "webp" else more))
    splits = load(flat, validation=0)
    assert len(splits.x_train) + len(splits.x_test) == 11
    assert {tuple(image[0, 0]) for image in splits.x_train} <= {(255, 0, 0), (0, 255, 0)}


@pytest.mark.parametrize(("part", "lacks"), [("train", "test"), ("test", "train")])
def test_a_class_in_one_part_only(parted, part, lacks):
    write(parted / part / "bird" / "a.png")
    refused(parted, f"class 'bird' is in {part}/ and not in {lacks}/")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.75])
def test_a_truncated_image(flat, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    file = flat / "dog" / f"broken.{suffix}"
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    refused(flat, rf"dog/broken\.{suffix} (is damaged|holds no PNG, JPEG)")


def test_a_damaged_chunk(flat):
    file = flat / "dog" / "1.png"
    content = bytearray(file.read_bytes())
    at = content.index(b"IDAT")
    content[at + 8] ^= 0xFF
    file.write_bytes(content)
    refused(flat, r"dog/1\.png is damaged")


def test_another_format_under_a_png_name(flat):
    Image.new("RGB", (4, 6)).save(flat / "cat" / "3.png", format="PCX")
    refused(flat, r"cat/3\.png holds no PNG, JPEG, WebP, BMP, GIF or TIFF data")


def test_sixteen_bits(flat):
    write(flat / "cat" / "3.png", 4000, mode="I;16")
    refused(flat, r"cat/3\.png has 16 bits a channel, and cat/0\.png 8 or colours; accepted: 8 bits, or gray of 16 bit")
    write(flat / "cat" / "3.tif", 4000, mode="I")
    refused(flat, r"cat/3\.tif has more than 16 bits a channel")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("decode", ["eager", "lazy"])
def test_gray_images_of_sixteen_bits_alone_are_uint16(tmp_path, suffix, decode):
    ramp = (np.arange(24).reshape(6, 4) * 2500).astype(np.uint16)
    for n in range(6):
        file = tmp_path / "deep" / "ab"[n % 2] / f"{n}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp + np.uint16(n)).save(file)
    splits = load(tmp_path / "deep", validation=0, decode=decode, test=0.3)
    assert (splits.x_train.dtype, splits.x_train.shape[1:]) == (np.uint16, (6, 4, 1))
    assert np.array_equal(splits.x_train[:1][0, ..., 0], ramp)
    small = load(tmp_path / "deep", validation=0, decode=decode, image_size=[3, 2]).x_train[:1]
    assert (small.dtype, small.shape[1:]) == (np.uint16, (3, 2, 1))
    assert abs(int(small.mean()) - int(ramp.mean())) < 100


def test_a_gray_image_of_sixteen_bits_is_brought_to_8_for_a_model():
    from tfhalf.data.resize import fitted

    ramp = (np.arange(24).reshape(6, 4) * 257 * 10).astype(np.uint16)
    image = Image.fromarray(ramp)
    assert np.array_equal(fitted(image, (6, 4, 1))[..., 0], ramp // 257)
    assert fitted(image, (6, 4, 3)).shape == (6, 4, 3)
    assert np.allclose(fitted(image, (6, 4, 1), exact=True)[..., 0] * 257, ramp)
    assert fitted(image, (3, 2, 1)).dtype == np.uint8


@pytest.mark.parametrize("limit", [100, 30])
def test_more_pixels_than_allowed(flat, monkeypatch, limit):
    """Pillow warns above its limit and raises above twice as much; here both are refused."""
    write(flat / "dog" / "3.png", size=(10, 11))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(flat, rf"dog/3\.png has .*pixels; accepted: up to {limit}; shrink it", image_size=[4, 4])


def test_a_small_file_that_claims_a_huge_image(flat):
    file = flat / "dog" / "3.png"
    content = file.read_bytes()
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    at = content.index(b"IHDR")
    file.write_bytes(content[:at] + header + zlib.crc32(header).to_bytes(4, "big") + content[at + 21 :])
    refused(flat, r"dog/3\.png has far too many pixels", image_size=[4, 4])


def test_a_bomb_in_a_text_chunk(flat, monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "x" * 2_000_000, zip=True)
    Image.new("RGB", (4, 6)).save(flat / "dog" / "3.png", pnginfo=info)
    refused(flat, r"dog/3\.png is damaged")


def test_a_link_that_leaves_the_folder(flat, tmp_path):
    write(tmp_path / "outside.png")
    (flat / "cat" / "link.png").symlink_to(tmp_path / "outside.png")
    refused(flat, r"cat/link\.png is a link that leaves")
    (flat / "cat" / "link.png").unlink()
    (tmp_path / "bird").mkdir()
    (flat / "bird").symlink_to(tmp_path / "bird")
    refused(flat, "bird is a link that leaves")


def test_links_inside_the_folder_and_to_the_folder(flat, tmp_path):
    (flat / "cat" / "link.png").symlink_to(flat / "cat" / "0.png")
    (tmp_path / "alias").symlink_to(flat)
    assert sum(load(tmp_path / "alias").sizes.values()) == 11


def test_a_dangling_link(flat):
    (flat / "cat" / "link.png").symlink_to(flat / "cat" / "gone.png")
    refused(flat, r"cat/link\.png is damaged|cat/link\.png cannot be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(flat):
    (flat / "cat" / "0.png").chmod(0)
    refused(flat, r"cat/0\.png cannot be read")


def test_too_large_for_the_memory(flat, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 100)
    refused(flat, r"needs about .* set data\.image_size, for example \[64, 64\]")
