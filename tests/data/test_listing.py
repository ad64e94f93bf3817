"""Folders of many files: no header is read but a few, the listing is kept, and what is wrong is said by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from record_files import encoded, pixels

from tfhalf.config import Data
from tfhalf.data import LazyImages, Splits, load_splits, memory
from tfhalf.data.sources import folder, images, listing
from tfhalf.errors import DataError
from tfhalf.system.cache import cache_folder

TRAIN, TEST = pixels(30), pixels(6, seed=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing kept."""
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty images to train on and six to test on, which count as many, in folders that did not change just now."""
    monkeypatch.setattr(folder, "_WALKED", 8)
    monkeypatch.setattr(listing, "_KEPT", 8)
    monkeypatch.setattr(images, "_PROBED", 4)
    root = tmp_path / "photos"
    for part, of_part in (("train", TRAIN), ("test", TEST)):
        for index, image in enumerate(of_part):
            path = root / part / ("cat", "dog", "ö wl")[index * 3 // len(of_part)] / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image))
    (root / "train" / "cat" / ".hidden").write_text("")
    (root / "train" / "cat" / "notes.txt").write_text("")
    settle(root)
    return root


def settle(root: Path) -> None:
    for path in root.rglob("*"):
        if path.is_dir():
            os.utime(path, (1_000_000, 1_000_000))


def load(root: Path, **rest: Any) -> Splits:
    settings = {"decode": "lazy", "validation": 0, **rest}
    return load_splits(Data(source=f"folder:{root}", **settings), base=Path("/"), seed=0)


def is_whole(splits: Splits) -> bool:
    order = np.random.default_rng(0).permutation(30)
    assert isinstance(splits.x_train, LazyImages)
    labels = np.repeat(np.arange(3), 10)
    return (
        np.array_equal(splits.x_train[order], np.stack(TRAIN)[order])
        and np.array_equal(splits.x_test, TEST)
        and np.array_equal(splits.y_train, labels)
        and np.array_equal(splits.y_test, labels[::5])
        and splits.class_names == ("cat", "dog", "ö wl")
    )


def test_many_files_give_the_pixels_that_few_give(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = load(root)
    assert is_whole(many)
    assert isinstance(many.x_train.items, folder.Files)
    monkeypatch.setattr(folder, "_WALKED", 100)
    assert is_whole(load(root))
    monkeypatch.setattr(folder, "_WALKED", 8)
    for settings in ({"image_size": [5, 7]}, {}):
        lazy, eager = (load(root, decode=how, **settings) for how in ("lazy", "eager"))
        np.testing.assert_array_equal(lazy.x_train[:], eager.x_train)
    assert isinstance(load(root, decode="auto").x_train, np.ndarray)
    monkeypatch.setattr(memory, "available", lambda: 2 * 36 * 360)
    assert isinstance(load(root, decode="auto").x_train, LazyImages)


def test_items_of_many_files_are_held_out_by_name(root: Path) -> None:
    shutil.rmtree(root / "test")
    splits = load(root, test={"items": ["03-5", 12, 29]})
    np.testing.assert_array_equal(splits.x_test, np.stack(TRAIN)[[3, 4, 5, 12, 29]])


def test_what_is_wrong_with_one_of_many_is_said_when_it_is_decoded(root: Path) -> None:
    splits = load(root)
    cases: list[tuple[Callable[[Path], Any], str]] = [
        (lambda path: path.write_bytes(b"nothing"), r"holds no PNG, JPEG"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), r"is damaged \(.*replace or remove it"),
        (lambda path: path.unlink(), r"cannot be read \(No such file or directory\); bring it back"),
        (
            lambda path: path.write_bytes(encoded(pixels(1, height=9)[0])),
            r"09\.png 9 x 10 \(height x width\); all must",
        ),
        (lambda path: Image.fromarray(np.zeros((12, 10), np.uint16)).save(path), r"has 16 bits a channel, and "),
        (lambda path: Image.fromarray(np.zeros((12, 10), np.int32), "I").save(path, "TIFF"), r"more than 16 bits"),
    ]
    path = root / "train" / "cat" / "09.png"
    whole = path.read_bytes()
    for change, words in cases:
        change(path)
        with pytest.raises(DataError, match=rf"^folder:.*cat/0[09]\.png .*{words}") as caught:
            splits.x_train[[20, 9]]
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    np.testing.assert_array_equal(splits.x_train[[9]], TRAIN[9:10])


def test_a_file_that_is_too_large_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load(root)
    monkeypatch.setattr(folder, "LARGEST", 100)
    with pytest.raises(DataError, match=r"train/cat/00\.png cannot be read \(it has [\d,]+ bytes, more than the 100"):
        splits.x_train[:1]


def test_many_gray_files(root: Path) -> None:
    """All headers are read where the few are gray: one may have colours."""
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert load(root).input_shape == (12, 10, 1)
    (root / "train/dog/13.png").write_bytes(encoded(TRAIN[13]))
    assert load(root).input_shape == (12, 10, 3)
    for path in root.rglob("*.png"):
        Image.fromarray(np.full((12, 10), 50_000, np.uint16)).save(path)
    splits = load(root)
    assert splits.x_train[:2].dtype == np.uint16
    assert (splits.x_train[:2] == 50_000).all()
    Image.fromarray(np.zeros((12, 10), np.uint8)).save(root / "train/dog/13.png")
    with pytest.raises(DataError, match=r"has 16 bits a channel where others have not"):
        load(root)


# --- the listing, kept ------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(root: Path) -> Path:
    """The file in which the listing is."""
    load(root)
    (file,) = cache_folder().iterdir()
    return file


def test_folders_that_did_not_change_are_not_listed_again(
    root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    files = listing._Tree._files

    def counted(tree: Any, where: Path, top: Path) -> list[str]:
        listed.append(where.name)
        return files(tree, where, top)

    monkeypatch.setattr(listing._Tree, "_files", counted)
    assert is_whole(load(root))
    assert listed == []
    shutil.copy(root / "train/cat/00.png", root / "train/cat/000.png")
    assert len(load(root).x_train) == 31
    assert len(listed) == 6
    (root / "train/cat/000.png").unlink()  # its folder changed just now, so that no listing was kept
    assert is_whole(load(root))


def test_a_folder_that_changed_just_now_is_not_kept(root: Path) -> None:
    (root / "train/cat/more").write_text("")
    (root / "train/cat/more").unlink()
    assert is_whole(load(root))
    assert not cache_folder().exists()


def named(names: np.ndarray, old: bytes, new: bytes) -> np.ndarray:
    return np.frombuffer(names.tobytes().replace(old, new, 1), np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"names": lambda x: named(x, b"00.png", b"../../")},
        {"names": lambda x: named(x, b"00.png", b"//0.pn")},
        {"names": lambda x: named(x, b"01.png", b"..xpng")},
        {"names": lambda x: named(x, b"01.png", b"\0.xpng")},
        {"names": lambda x: x[:-1]},
        {"names": lambda x: x.astype(np.int64)},
        {"lengths": lambda x: x[:-1]},
        {"lengths": lambda x: x + np.array([1, -1, 0, 0, 0, 0])},
        {"lengths": lambda x: x * 2},
        {"lengths": lambda x: x[None]},
        {"lengths": lambda x: x + np.array([-x[0], x[0], 0, 0, 0, 0])},
        {"key": lambda x: np.array("x")},
        {"more": lambda x: np.array(1)},
    ],
)
def test_a_listing_that_is_not_one_is_made_anew(
    root: Path, kept: Path, change: dict[str, Callable[[Any], np.ndarray]]
) -> None:
    with np.load(kept) as archive:
        arrays = dict(archive)
    before = arrays["names"].tobytes()
    arrays |= {name: convert(arrays.get(name)) for name, convert in change.items()}
    np.savez(kept, **arrays)
    assert is_whole(load(root))
    with np.load(kept) as archive:
        assert archive["names"].tobytes() == before


def test_names_that_are_not_utf8(root: Path) -> None:
    os.rename(os.fsencode(root / "train/cat/09.png"), os.fsencode(root / "train/cat") + b"/09\xff.png")
    assert is_whole(load(root))
