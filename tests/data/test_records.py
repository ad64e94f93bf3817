"""records:PATH: shards read by the record, what is kept of where records are, and what can be wrong with either."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_files import IMAGENET, TFDS, array_record, encoded, example, framed, pixels, tfrecord

from tfhalf.config import Data
from tfhalf.data import LazyImages, Splits, load_splits, memory
from tfhalf.data.sources.records import items, shards
from tfhalf.data.sources.records import tfrecord as tfrecord_format
from tfhalf.data.storage.local import Local
from tfhalf.errors import DataError
from tfhalf.system.cache import cache_folder

WRITERS = {"tfrecord": tfrecord, "array_record": array_record}
TRAIN = pixels(36)
TEST = pixels(6, seed=1)


def records(images: list[np.ndarray], keys: tuple[str, str] = IMAGENET, first: int = 0) -> list[bytes]:
    return [example(encoded(image), index % 3 + first, keys) for index, image in enumerate(images)]


def write(root: Path, kind: str = "tfrecord", keys: tuple[str, str] = IMAGENET, first: int = 0) -> Path:
    """Three shards of 12 to train on, one of 6 to test on."""
    train = records(TRAIN, keys, first)
    for shard in range(3):
        WRITERS[kind](root / f"train-{shard:05}-of-00003", train[shard * 12 : shard * 12 + 12])
    WRITERS[kind](root / "test-00000-of-00001", records(TEST, keys, first))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing kept."""
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "set")


def load(source: Path | str, say: Callable[[str], None] | None = None, **rest: Any) -> Splits:
    settings = {"decode": "lazy", "validation": 0, **rest}
    return load_splits(Data(source=f"records:{source}", **settings), base=Path("/"), seed=0, progress=say)


def is_whole(splits: Splits) -> bool:
    labels = np.arange(36) % 3
    parts = [(splits.x_train[:], TRAIN), (splits.x_test, TEST), (splits.y_train, labels), (splits.y_test, labels[:6])]
    return all(np.array_equal(part, expected) for part, expected in parts)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keys", [IMAGENET, TFDS])
def test_images_and_labels(tmp_path: Path, kind: str, keys: tuple[str, str]) -> None:
    splits = load(write(tmp_path / "set", kind, keys))
    assert isinstance(splits.x_train, LazyImages)
    assert is_whole(splits)
    order = np.random.default_rng(0).permutation(36)
    np.testing.assert_array_equal(splits.x_train[order], np.stack(TRAIN)[order])
    assert isinstance(load(tmp_path / "set", decode="eager").x_train, np.ndarray)
    assert is_whole(load(tmp_path / "set", decode="eager"))
    lazy, eager = (load(tmp_path / "set", decode=how, image_size=[5, 7]) for how in ("lazy", "eager"))
    np.testing.assert_array_equal(lazy.x_train[:], eager.x_train)


def test_auto_goes_by_the_memory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load(root, decode="auto").x_train, np.ndarray)
    needed = 2 * 42 * 12 * 10 * 3
    monkeypatch.setattr(memory, "available", lambda: int(needed / memory.SHARE) - 2)
    assert isinstance(load(root, decode="auto").x_train, LazyImages)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(DataError, match=r"needs about .*take fewer images into validation and test"):
        load(root, decode="auto")


def test_parts(tmp_path: Path, root: Path) -> None:
    """By the names of shards or folders, or by globs; a shard, a glob and a count name training items alone."""
    folders = tmp_path / "folders"
    for part, word in (("train", "training"), ("test", "test")):
        (folders / word).mkdir(parents=True)
        for path in root.glob(f"{part}-*"):
            shutil.copy(path, folders / word / f"part{path.name.removeprefix(part)}")
    (folders / "dataset_info.json").write_text("{}")
    assert is_whole(load(folders))
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in root.iterdir():
        shutil.copy(path, plain / f"{path.name.replace('test', 'b').replace('train', 'a')}")
    assert is_whole(load(plain, records={"train": "a-*", "test": "b-*"}))
    for source, count in (("a-0000[02]*", 24), ("a-00001-of-00003", 12), ("a-{00000..00002}-of-00003", 36)):
        splits = load(plain / source, validation=0, test=0.25)
        assert splits.sizes["train"] + splits.sizes["test"] == count
    val = root / "validation-00000-of-00001"
    shutil.copy(root / "test-00000-of-00001", val)
    np.testing.assert_array_equal(load(root).x_val, TEST)
    (root / "test-00000-of-00001").unlink()
    assert load(root, test="validation", validation=0).sizes == {"train": 36, "validation": 0, "test": 6}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train-00000-of-01024", "train"),
        ("imagenet2012-validation.tfrecord-00000-of-00064", "val"),
        ("val/part-00000-of-00064", "val"),
        ("test/latest-train-00000-of-00064", "train"),
        ("dev.array_record", "val"),
        ("trained-00000-of-00001", ""),
        ("testing/a.tfrecord", "test"),
    ],
)
def test_the_part_of_a_shard(name: str, part: str) -> None:
    assert shards._part_of(name) == part


def test_classes(tmp_path: Path, root: Path) -> None:
    assert load(root).class_names == ("0", "1", "2")
    (root / "classes.txt").write_text("cat\ndog\nowl\nspare\n")
    assert load(root).class_names == ("cat", "dog", "owl", "spare")
    (tmp_path / "names").write_text("a\nb\n")
    wrong = (
        r"set: record 2 of train-00000-of-00003 has the label 2, and 2 classes have names; accepted: 0 to 1; correct"
    )
    with pytest.raises(DataError, match=wrong):
        load(root, records={"classes": str(tmp_path / "names")})
    for text, what in ((b"a\na\n", "holds 'a' twice"), (b"a", "names 1 classes"), (b"\xff\n", "is not UTF-8")):
        (tmp_path / "names").write_bytes(text)
        with pytest.raises(DataError, match=what):
            load(root, records={"classes": str(tmp_path / "names")})
    with pytest.raises(DataError, match=r"none cannot be read \(No such file.*correct data\.records\.classes"):
        load(root, records={"classes": str(tmp_path / "none")})


def test_labels_from_one_on(tmp_path: Path) -> None:
    root = write(tmp_path / "set", first=1)
    with pytest.raises(DataError, match=r"record 0 of train-00000-of-00003.*set data\.records\.first_label: 1"):
        load(root)
    assert is_whole(load(root, records={"first_label": 1}))
    with pytest.raises(DataError, match=r"record 0 of train-00000-of-00003 has the label 1; accepted: from 2 on"):
        load(root, records={"first_label": 2})


def test_many_threads_and_few_open_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfhalf.data.storage.local.most_open", lambda: 1)
    before = len(os.listdir("/proc/self/fd"))
    splits = load(root)
    order = np.tile(np.random.default_rng(0).permutation(36), 20)
    with ThreadPoolExecutor(16) as pool:
        blocks = list(pool.map(lambda part: splits.x_train[part], np.split(order, 16)))
    np.testing.assert_array_equal(np.concatenate(blocks), np.stack(TRAIN)[order])
    assert len(os.listdir("/proc/self/fd")) <= before + 2


# --- where records are, kept ------------------------------------------------------------------------------------------


@pytest.fixture
def kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the training part's index is; the set was read once."""
    load(root)
    (file,) = (path for path in cache_folder().iterdir() if len(np.load(path)["labels"]) == 36)
    return file


def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are read from end to end."""
    scanned: list[str] = []
    scan = tfrecord_format.scan

    def counted(storage: Any, entry: Any) -> Any:
        scanned.append(Path(entry.path).name)
        return scan(storage, entry)

    monkeypatch.setattr(tfrecord_format, "scan", counted)
    return scanned


def test_shards_are_read_from_end_to_end_once(root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = scans(monkeypatch)
    assert is_whole(load(root))
    assert set(scanned) <= {"train-00000-of-00003", "test-00000-of-00001"}  # for the keys, the first record alone
    scanned.clear()
    assert is_whole(load(root, records={"image": IMAGENET[0], "label": IMAGENET[1]}))
    assert scanned == []
    with np.load(kept) as arrays:
        assert sum(arrays[name].itemsize for name in ("offsets", "lengths", "labels")) == 16


def test_a_changed_shard_is_read_anew(root: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "train-00001-of-00003"
    os.utime(path, ns=(1, 1))
    scanned = scans(monkeypatch)
    assert is_whole(load(root))
    assert "train-00002-of-00003" in scanned
    tfrecord(path, records(TRAIN)[:3])
    assert len(load(root).x_train) == 27
    assert len(list(cache_folder().iterdir())) == 2  # none is left of a set as it was


def rewritten(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with np.load(path) as archive:
            arrays: dict[str, Any] = dict(archive)
        for name, value in changes.items():
            arrays[name] = value(arrays[name]) if callable(value) else value
        np.savez(path, **{name: value for name, value in arrays.items() if value is not None})

    return change


def beyond(offsets: np.ndarray) -> np.ndarray:
    changed = offsets.copy()
    changed[-1] = 2**63
    return changed


def wrapping(offsets: np.ndarray) -> np.ndarray:
    changed = offsets.copy()
    changed[0] = 2**64 - 20
    return changed


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"nothing"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(pickle.dumps({"labels": []})),
        lambda path: (path.unlink(), os.mkfifo(path)),
        rewritten(key=np.array("another")),
        rewritten(key=np.array([1, 2])),
        rewritten(labels=None),
        rewritten(more=np.zeros(3)),
        rewritten(labels=lambda x: x.astype(np.int64)),
        rewritten(labels=lambda x: -x),
        rewritten(labels=lambda x: x[None]),
        rewritten(counts=lambda x: x * 2),
        rewritten(counts=lambda x: np.array([48, -24, 12], np.int64)),
        rewritten(counts=lambda x: x[:2]),
        rewritten(offsets=beyond),
        rewritten(offsets=wrapping),
        rewritten(offsets=lambda x: x[:5]),
        rewritten(lengths=lambda x: x + np.uint32(2**31)),
        rewritten(lengths=lambda x: np.full_like(x, 60_000)),
        rewritten(labels=np.array([{}], object)),
    ],
)
def test_an_index_that_is_not_one_is_built_anew(root: Path, kept: Path, change: Callable[[Path], Any]) -> None:
    change(kept)
    assert is_whole(load(root))
    with np.load(kept) as arrays:
        assert len(arrays["labels"]) == 36


def test_an_index_that_lies_is_seen_when_records_are_read(root: Path, kept: Path) -> None:
    """Within the shards' bounds it may say anything, since whoever writes there may as well write the shards."""
    rewritten(offsets=lambda x: x + np.uint64(3), lengths=lambda x: x - np.uint32(20))(kept)
    with pytest.raises(DataError, match=r"record 0 of train-00000-of-00003 is damaged \(the checksum of its length"):
        load(root)


def test_a_cache_that_takes_nothing_is_said(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(tmp_path / "file"))
    lines: list[str] = []
    assert is_whole(load(root, lines.append))
    assert any("file does not keep where the items are (File exists): it is read again" in line for line in lines)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


FIRST = len(framed(records(TRAIN)[12]))
SHARD = "train-00001-of-00003"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda data: data[:-7],
            rf"record 11 of {SHARD} needs [\d,]+ bytes, and its file ends after [\d,]+ of them; copy",
        ),
        (
            lambda data: data[: FIRST + 5],
            rf"record 1 of {SHARD} needs 12 bytes for its length, and its file ends after 5",
        ),
        (lambda data: flipped(data, FIRST + 2), rf"record 1 of {SHARD} is damaged \(the checksum of its length"),
        (lambda data: flipped(data, FIRST + 10), rf"record 1 of {SHARD} is damaged \(the checksum of its length"),
        (lambda data: flipped(data, FIRST + 60), rf"record 1 of {SHARD} is damaged \(the checksum of its bytes"),
        (lambda data: data + framed(b"\x0a\xff"), rf"record 12 of {SHARD} is not a tf\.train\.Example; copy"),
        (
            lambda data: data + framed(example(b"", None)),
            rf"record 12 of {SHARD} lacks the key 'image/class/label' \(it has 'file_name', 'image/encoded'\); name",
        ),
        (
            lambda data: data + framed(example(b"", 1, ("jpg", "image/class/label"))),
            rf"record 12 of {SHARD} lacks the key 'image/encoded' \(it has 'file_name', 'image/class/label', 'jpg'\)",
        ),
        (
            lambda data: data + framed(example(b"", b"cat")),
            rf"record 12 of {SHARD} holds text under 'image/class/label'",
        ),
        (lambda data: data + framed(example(b"", -1)), rf"record 12 of {SHARD} has the label -1; .*-1 often stands"),
        (lambda data: data + framed(example(b"", 2**31)), rf"record 12 of {SHARD} has the label 2147483648; accepted"),
    ],
)
def test_a_damaged_shard_is_refused_by_shard_and_record(
    root: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    path = root / SHARD
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=rf"^records:/.*/set: {words}") as caught:
        load(root)
    assert "\n" not in str(caught.value)
    assert not cache_folder().exists()


def test_a_length_that_nothing_holds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord_format, "LARGEST", 100)
    with pytest.raises(DataError, match=r"record 0 of train-\S+ has [\d,]+ bytes, more than the 100 that are read"):
        load(root)


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (packed, "is compressed as a whole, .*gunzip"),
        (lambda path: path.write_bytes(b""), "is empty; accepted: shards"),
        (lambda path: path.write_bytes(b"not a record at all"), r"is not TFRecord or ArrayRecord, or is damaged"),
        (lambda path: array_record(path, []), "its shards hold no record"),
        (lambda path: path.write_bytes(array_record(path, records(TRAIN)).read_bytes()[:-70000]), "is not a whole Arr"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "cannot be read .*it is a pipe"),
    ],
)
def test_what_is_no_shard(root: Path, change: Callable[[Path], Any], words: str) -> None:
    change(root / "test-00000-of-00001")
    with pytest.raises(DataError, match=words) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_damaged_array_record(tmp_path: Path) -> None:
    root = write(tmp_path / "set", "array_record")
    big = [example(encoded(image), index % 3) for index, image in enumerate(pixels(12, height=120, width=120))]
    path = array_record(root / SHARD, big)
    whole = path.read_bytes()
    path.write_bytes(flipped(whole, len(whole) // 2))
    with pytest.raises(DataError, match=rf"record \d+ of {SHARD} is damaged \(.*copy it again, or take it out$"):
        load(root, image_size=[8, 8])


def test_records_packed_together_are_said(tmp_path: Path) -> None:
    lines: list[str] = []
    load(array_record(tmp_path / "a.array_record", records(TRAIN)), lines.append, test=0.2)
    assert not any("packs" in line for line in lines)
    load(array_record(tmp_path / "b.array_record", records(TRAIN), group=100), lines.append, test=0.2)
    assert any("b.array_record packs 100 records together, and each read of one" in line for line in lines)


def test_files_that_are_not_of_the_set(root: Path) -> None:
    shutil.copy(root / SHARD, root / "more.tfrecord")
    with pytest.raises(
        DataError, match=r"more\.tfrecord is of no part, and other shards are; .*rename it, or set data"
    ):
        load(root)
    (root / "more.tfrecord").rename(root / "picture.jpg")
    with pytest.raises(DataError, match=r"picture\.jpg does not look like a shard; accepted: names that end in"):
        load(root)
    (root / "picture.jpg").unlink()
    (root / SHARD).unlink()
    with pytest.raises(DataError, match=rf"{SHARD} is missing, 1 of 3 shards are; copy them"):
        load(root)
    for source, words in (
        (root / "none", "cannot be read .No such file"),
        (root / "x-*", "holds no shard"),
        (f"{root}/train-{{00000..00003}}-of-00003", r"train-00001-of-00003 cannot be read"),
        (f"{root}/train-{{9..1}}-of-00003", r"counts -7 shards"),
    ):
        with pytest.raises(DataError, match=words):
            load(source)
    for globs, words in (
        ({"test": "test-*"}, r"names shards of test and none to train on"),
        ({"train": "x*"}, r"data\.records\.train 'x\*' names no file"),
        ({"train": "*", "test": "test-*"}, r"is of data\.records\.train and test; each"),
    ):
        with pytest.raises(DataError, match=words):
            load(root, records=globs)
    (root / "train-00000-of-00003").unlink()
    (root / "train-00002-of-00003").unlink()
    with pytest.raises(DataError, match=r"holds shards of test alone"):
        load(root)
    with pytest.raises(DataError, match=r"npz:a: data\.records is set; it is for the shards of records:PATH"):
        load_splits(Data(source="npz:a", records={"image": "x"}), base=root, seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: path.unlink(), r"cannot be read \(No such file or directory\); bring it back as it was"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"cannot be read \(it ends at byte [\d,]+, before"),
        (lambda path: path.write_bytes(flipped(path.read_bytes(), -30)), r"is damaged \(the checksum of its bytes"),
        (
            lambda path: path.write_bytes(framed(b"x") * 2000),
            r"is damaged \(the checksum of its length|has 1 bytes, where it had",
        ),
    ],
)
def test_a_shard_that_changes_while_training_goes_on(
    root: Path, change: Callable[[Path], Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfhalf.data.storage.local.most_open", lambda: 1)  # else one that is gone could still be read
    splits = load(root)
    splits.x_train[:1]
    change(root / SHARD)
    with pytest.raises(DataError, match=rf"^records:/.*/set: record \d+ of {SHARD} ({words})") as caught:
        splits.x_train[[5, 23]]
    assert "\n" not in str(caught.value)
    assert splits.x_train[:12].shape == (12, 12, 10, 3)


def test_an_image_that_cannot_be_decoded(tmp_path: Path) -> None:
    good = records(TRAIN)
    whole = encoded(TRAIN[3])
    good[20] = example(whole[: len(whole) // 2], 1)
    good[21] = example(b"nothing", 1)
    tfrecord(tmp_path / "a.tfrecord", good)
    with pytest.raises(DataError, match=r"record 21 of a\.tfrecord holds no PNG.*; convert or remove it$"):
        load(tmp_path / "a.tfrecord", test=0.1)
    good[21] = good[22]
    tfrecord(tmp_path / "a.tfrecord", good)
    with pytest.raises(DataError, match=r"record 20 of a\.tfrecord is damaged \(.*; replace or remove it$"):
        load(tmp_path / "a.tfrecord", test=0.1, decode="eager")


def test_names_in_messages_are_fit_for_a_terminal(tmp_path: Path) -> None:
    write(tmp_path / "set")
    (tmp_path / "set" / SHARD).rename(tmp_path / "set" / "train-\x1b[31m-00001-of-00003")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "set")
    assert "\x1b" not in str(caught.value)


def test_items_of_several_parts_are_named_as_in_each() -> None:
    """`Joined` numbers them through."""

    class Part:
        def __init__(self, names: str) -> None:
            self.names = names

        def __len__(self) -> int:
            return len(self.names)

        def read(self, index: int) -> bytes:
            return self.names[index].encode()

        name = read

    joined = items.Joined([Part("ab"), Part("c"), Part("def")])  # type: ignore[list-item]
    assert len(joined) == 6
    assert b"".join(joined.read(index) for index in range(6)) == b"abcdef"
    assert joined.name(3) == b"d"


def test_local_files_are_read_to_their_end_and_no_further(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    storage = Local()
    assert storage.read(str(tmp_path / "a"), 3, 4) == b"3456"
    with pytest.raises(OSError, match="it ends at byte 10, before 12"):
        storage.read(str(tmp_path / "a"), 8, 4)
    with pytest.raises(OSError, match="more than the 9 that are read"):
        storage.read_whole(str(tmp_path / "a"), 9)
    assert storage.read_whole(str(tmp_path / "a"), 10) == b"0123456789"
