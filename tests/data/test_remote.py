"""Records and folders behind URLs: over a web server and an imitation of S3, and what bad networks and servers do."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import FileServer
from record_files import array_record, encoded, example, pixels, tfrecord

from tfhalf.config import Data
from tfhalf.data import LazyImages, Splits, load_splits
from tfhalf.data.storage import remote
from tfhalf.errors import DataError

pytest.importorskip("aiohttp", reason="http:// needs aiohttp: pip install 'tfhalf[remote]'")

TRAIN, TEST = pixels(24), pixels(6, seed=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins with nothing kept."""
    monkeypatch.setenv("TFHALF_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A bucket with shards, and a folder of images."""
    bucket = tmp_path / "served" / "bucket"
    for shard in range(2):
        rows = range(shard * 12, shard * 12 + 12)
        tfrecord(bucket / f"set/train-{shard:05}-of-00002", [example(encoded(TRAIN[i]), i % 3) for i in rows])
    tfrecord(bucket / "set/test-00000-of-00001", [example(encoded(image), i % 3) for i, image in enumerate(TEST)])
    (bucket / "set/dataset_info.json").write_text("{}")
    for part, images in (("train", TRAIN), ("test", TEST)):
        for index, image in enumerate(images):
            path = bucket / "photos" / part / "abc"[index % 3] / f"{index:02} x.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image))
    monkeypatch.setattr(remote, "_FILESYSTEMS", {})
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    running = FileServer(tmp_path / "served")
    yield running
    running.close()


def load(source: str, **rest: Any) -> Splits:
    settings = {"decode": "lazy", "validation": 0, **rest}
    return load_splits(Data(source=source, **settings), base=Path("/"), seed=0)


def is_whole(splits: Splits) -> bool:
    """Whether they are the images of the shards, in their order."""
    order = np.random.default_rng(0).permutation(24)
    labels = np.arange(24) % 3
    assert isinstance(splits.x_train, LazyImages)
    return (
        np.array_equal(splits.x_train[order], np.stack(TRAIN)[order])
        and np.array_equal(splits.x_test, TEST)
        and np.array_equal(splits.y_train, labels)
        and np.array_equal(splits.y_test, labels[:6])
    )


# --- what is read -----------------------------------------------------------------------------------------------------


def test_shards_over_http(server: FileServer) -> None:
    root = f"records:{server.url}/bucket/set"
    parts = {"train": "train-{00000..00001}-of-00002", "test": "test-00000-of-00001"}
    assert is_whole(load(root, records=parts))
    assert not any(path.endswith("/set") for path, _ in server.requests)  # which no list of files was needed for
    assert is_whole(load(root))  # of index pages
    assert is_whole(load(root, records={"train": "train-*", "test": "test-*"}))
    one = load(f"{root}/train-00001-of-00002", validation=0, test=0.25)
    assert one.sizes == {"train": 9, "validation": 0, "test": 3}


def test_an_image_takes_one_request_for_its_range(server: FileServer) -> None:
    splits = load(f"records:{server.url}/bucket/set")
    server.requests.clear()
    splits.x_train[[3, 17]]
    assert sorted(path[-14:] for path, _ in server.requests) == ["00000-of-00002", "00001-of-00002"]
    assert all(header is not None for _, header in server.requests)


def test_a_set_behind_a_url_is_read_from_end_to_end_once(server: FileServer) -> None:
    load(f"records:{server.url}/bucket/set")
    before = len(server.requests)
    server.requests.clear()
    assert is_whole(load(f"records:{server.url}/bucket/set"))
    assert len(server.requests) < before + 30
    path = server.root / "bucket/set/train-00001-of-00002"
    tfrecord(path, [example(encoded(image), i % 3) for i, image in enumerate(TRAIN[:3])])
    assert load(f"records:{server.url}/bucket/set").sizes["train"] == 15


@pytest.fixture
def s3(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The same server as an endpoint of S3."""
    pytest.importorskip("s3fs", reason="s3:// needs s3fs: pip install 'tfhalf[remote]'")
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return server


def folder_is_whole(splits: Splits) -> bool:
    """Whether they are the images of the folder: class after class."""
    order = np.argsort(np.arange(24) % 3, kind="stable")
    return (
        np.array_equal(splits.x_train[:], np.stack(TRAIN)[order])
        and np.array_equal(splits.x_test, np.stack(TEST)[order[order < 6]])
        and np.array_equal(splits.y_train, np.repeat([0, 1, 2], 8))
        and splits.class_names == ("a", "b", "c")
    )


def test_folders_behind_urls(server: FileServer) -> None:
    source = f"folder:{server.url}/bucket/photos"
    assert folder_is_whole(load(source))
    assert isinstance(load(source, decode="auto").x_train, np.ndarray)
    shutil.rmtree(server.root / "bucket/photos/test")
    splits = load(f"{source}/train/", test={"items": ["03 x"]})
    assert splits.sizes == {"train": 23, "validation": 0, "test": 1}
    server.fault = lambda path: "hang" if path.endswith(".png") else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "TIMEOUT", 0.1)
        patch.setattr(remote, "_FIRST", 1000)
        with pytest.raises(DataError, match=r"a/00 x\.png cannot be read \(no answer within .*tfhalf train PIPELINE"):
            splits.x_train[:1]
    server.fault = lambda path: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_FIRST", 100)
        assert splits.x_train[:3].shape == (3, 12, 10, 3)  # by two requests each
        patch.setattr("tfhalf.data.sources.folder.LARGEST", 150)
        with pytest.raises(
            DataError, match=r"a/00 x\.png cannot be read \(it has more than the 150 bytes that are read"
        ):
            splits.x_train[:1]
    path = server.root / "bucket/photos/train/a"
    for name, words in (("x.exe", "train/a/x.exe is not an image"), ("b/x.png", "train/a/b/x.png is not in a folder")):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"")
        with pytest.raises(DataError, match=words):
            load(source)
        (path / name).unlink()
    shutil.rmtree(path)
    (server.root / "bucket/photos/test/a").mkdir(parents=True)
    shutil.copy(server.root / "bucket/photos/train/b/01 x.png", server.root / "bucket/photos/test/a")
    with pytest.raises(DataError, match=r"class 'a' is in test/ and not in train/"):
        load(source)
    shutil.rmtree(server.root / "bucket/photos/train")
    with pytest.raises(DataError, match=r"'?test'? stands beside 'train'"):
        load(source)


def test_shards_and_folders_in_s3(s3: FileServer) -> None:
    assert is_whole(load("records:s3://bucket/set"))
    assert is_whole(load("records:s3://bucket/set", records={"train": "train-*", "test": "test-*"}))
    assert folder_is_whole(load("folder:s3://bucket/photos"))
    splits = load("records:s3://bucket/set")
    s3.fault = lambda path: 403
    with pytest.raises(DataError, match=r"record \d+ of train-0000\d-of-00002 cannot be read \(its server refuses"):
        splits.x_train[:]


def test_shards_and_folders_in_google_buckets(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    core = pytest.importorskip("gcsfs.core", reason="gs:// needs gcsfs: pip install 'tfhalf[remote]'")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    # What gcsfs asks of Google by gRPC before it reads a bucket is not imitated here.
    monkeypatch.setattr("fsspec.filesystem", lambda scheme, **settings: core.GCSFileSystem(token="anon", **settings))
    assert is_whole(load("records:gs://bucket/set"))
    assert folder_is_whole(load("folder:gs://bucket/photos"))
    splits = load("records:gs://bucket/set")
    (server.root / "bucket/set/train-00001-of-00002").unlink()
    with pytest.raises(DataError, match=r"record 5 of train-00001-of-00002 cannot be read \(it does not exist\)"):
        splits.x_train[17:18]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_network_that_fails_for_a_moment(server: FileServer) -> None:
    splits = load(f"records:{server.url}/bucket/set")
    seen: dict[str, int] = {}

    def twice(path: str) -> int | str | None:
        seen[path] = seen.get(path, 0) + 1
        return (503, "cut", None)[min(seen[path] - 1, 2)]

    server.fault = twice
    np.testing.assert_array_equal(splits.x_train[:], TRAIN)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (503, "HTTP 503, 4 tries"),
        (500, "HTTP 500, 4 tries"),
        (404, "it does not exist"),
        (403, r"its server refuses \(HTTP 403\)"),
        (302, "HTTP 302"),
        ("cut", r".*4 tries"),
        ("hang", r"no answer within \d+ s, 4 tries"),
        ("whole", "its server answers no requests for a range of bytes"),
        ("elsewhere", "its server answers another range of bytes"),
    ],
)
def test_a_network_that_fails_while_training_goes_on(
    server: FileServer, fault: int | str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = load(f"records:{server.url}/bucket/set")
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    server.fault = lambda path: fault
    start = time.monotonic()
    with pytest.raises(DataError, match=rf"cannot be read \({words}") as caught:
        splits.x_train[3:5]
    said = rf"records:{server.url}/bucket/set: record \d+ of train-0000\d-of-00002 cannot be read \(.*\); check the net"
    remedy = (
        "work and the address; a run that was training goes on from its last checkpoint: tfhalf train PIPELINE --resume"
    )
    assert re.fullmatch(said + remedy, str(caught.value))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 8
    server.fault = lambda path: None
    np.testing.assert_array_equal(splits.x_train[3:5], TRAIN[3:5])


def test_no_more_is_taken_than_was_requested(server: FileServer) -> None:
    splits = load(f"records:{server.url}/bucket/set")
    server.fault = lambda path: "endless"
    start = time.monotonic()
    np.testing.assert_array_equal(splits.x_train[3:5], TRAIN[3:5])
    assert time.monotonic() - start < 2


def test_a_server_that_is_gone(server: FileServer) -> None:
    splits = load(f"records:{server.url}/bucket/set")
    server.http.shutdown()
    server.http.server_close()
    server.fault = lambda path: "gone"  # where a connection stayed open
    with pytest.raises(
        DataError, match=r"record 3 of train-00000-of-00002 cannot be read \(.*4 tries\); check the net"
    ):
        splits.x_train[3:4]
    with pytest.raises(DataError, match=r"bucket/set cannot be read \(.*4 tries\); check the network"):
        load(f"records:{server.url}/bucket/set")


def absent(*args: Any, **settings: Any) -> None:
    raise ImportError("Install s3fs to access S3")


def test_what_is_not_there_or_not_read_from_afar(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    array_record(server.root / "bucket/arrays/train.array_record", [example(encoded(image), 0) for image in TRAIN])
    for source, words in (
        (f"records:{server.url}/bucket/none", r"none cannot be read \(it does not exist\)"),
        (f"records:{server.url}/bucket/photos", "does not look like a shard"),
        (f"records:{server.url}/bucket/arrays", "is ArrayRecord, which is read from a disk alone; copy the set"),
        ("records:ftp://host/set", r"has the scheme 'ftp'; accepted: gs://, s3://, http://, https://, or a path"),
        ("records:file:///x", "has the scheme 'file'"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            load(source)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(remote, "_FILESYSTEMS", {})
    monkeypatch.setattr("fsspec.filesystem", absent)
    with pytest.raises(
        DataError, match=r"s3:// needs a library that is not installed \(Install s3fs.*pip install 'tfhalf\[remote\]'"
    ):
        load("records:s3://bucket/set")
