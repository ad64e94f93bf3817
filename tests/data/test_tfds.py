"""tfds:NAME: prepared data, a download over loopback, no network, and what is refused."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import etils.epath
import numpy as np
import pytest
from file_server import Loopback

from tfhalf.config import Data
from tfhalf.data import Preprocess, Splits, load_splits, memory
from tfhalf.data.check import Arrays, check
from tfhalf.data.decode.fit import Fit
from tfhalf.data.sources import fetch, tfds
from tfhalf.errors import DataError

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

# Where TFDS looks for a set's checksums and description: the sets made here have none.
FOLDER = etils.epath.Path(__file__).parent / "no_such_folder"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "tensorflow_datasets"
PREPARED = Path(os.environ.get("TFDS_DATA_DIR", SHARED)).expanduser()
cifar10 = pytest.mark.skipif(
    not (PREPARED / "cifar10").is_dir(), reason=f"CIFAR-10 is not prepared in {PREPARED}; set TFDS_DATA_DIR"
)


def load(name: str, data_dir: Path, **rest: Any) -> Splits:
    return load_splits(Data(source=f"tfds:{name}", **rest), base=Path("/"), seed=0, data_dir=str(data_dir))


# --- a set of our own, downloaded over loopback ----------------------------------------------------------------------


class Server(Loopback):
    """Serves one zip file with an npz of images in it, and counts the requests."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.x = generator.integers(0, 256, (24, 6, 5, 3), dtype=np.uint8)
        self.y = np.arange(24) % 3
        packed, content = io.BytesIO(), io.BytesIO()
        np.savez(packed, x=self.x, y=self.y)
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("images.npz", packed.getvalue())
        self.status, self.requests = 200, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                body = content.getvalue() if server.status == 200 else b"no"
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(Handler)
        self.url += "/images.zip"


@pytest.fixture
def server() -> Iterator[Server]:
    tensorflow_datasets.disable_progress_bar()
    running = Server()
    yield running
    running.close()
    tensorflow_datasets.enable_progress_bar()


class LoopbackShapes(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Images whose shape, labels and parts the tests decide."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    url = ""
    shape: tuple[int | None, ...] = (6, 5, 3)
    parts = ("train", "test")
    crop = 0
    unlabelled = False
    supervised: tuple[str, str] | None = ("image", "label")

    def _info(self) -> Any:
        features = tensorflow_datasets.features
        kinds = {
            "image": features.Image(shape=self.shape),
            "label": features.ClassLabel(names=["a", "b", "c", "spare"]),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            features=features.FeaturesDict({**kinds, "id": features.Text()}),
            supervised_keys=self.supervised,
            homepage=self.url or None,
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        with np.load(dl_manager.download_and_extract(self.url) / "images.npz") as archive:
            x, y = archive["x"], archive["y"]
        bounds = {"train": slice(0, 18), "test": slice(18, 24), "validation": slice(18, 24)}
        return {part: self._generate_examples(x[bounds[part]], y[bounds[part]], part) for part in self.parts}

    def _generate_examples(self, x: Any, y: Any, part: str) -> Any:
        for index, (image, label) in enumerate(zip(x, y, strict=True)):
            kept = image[: 6 - self.crop * (index % 2)]
            known = -1 if self.unlabelled and part == "test" else int(label)
            yield f"{index:03}", {"image": kept, "label": known, "id": str(index)}


def builder(server: Server | None, data_dir: Path, **changes: Any) -> Any:
    url = server.url if server else "http://127.0.0.1:9/images.zip"
    kind = type(
        "LoopbackShapes", (LoopbackShapes,), {"url": url, "pkg_dir_path": FOLDER, **changes}, skip_registration=True
    )
    return kind(data_dir=str(data_dir))


def read(built: Any, size: tuple[int, int] | None = None) -> Arrays:
    return tfds.read_builder(built, Fit(size) if size else None, "tfds:loopback", lambda message: None)


def in_order(x: np.ndarray, y: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))


def test_a_set_is_downloaded_once_prepared_and_read(server, tmp_path):
    said: list[str] = []
    built = builder(server, tmp_path)
    arrays = tfds.read_builder(built, None, "tfds:loopback", said.append)
    assert arrays.x_train.dtype == np.uint8
    assert in_order(arrays.x_train, arrays.y_train) == in_order(server.x[:18], server.y[:18])
    assert in_order(arrays.x_test, arrays.y_test) == in_order(server.x[18:], server.y[18:])
    assert arrays.class_names == ("a", "b", "c", "spare")
    assert check(arrays, "s").class_names == arrays.class_names
    assert server.requests == 1
    assert [message.split(" into ")[0].split(" in ")[0].split(" from ")[0] for message in said] == [
        "tfds:loopback: downloading and preparing",
        "tfds:loopback: prepared",
        "tfds:loopback: reading train and test",
    ]
    again = read(builder(server, tmp_path))
    assert server.requests == 1
    assert np.array_equal(again.x_train, arrays.x_train)
    # Prepared files suffice: the code that made them is not needed, nor is the network.
    by_name = load("loopback_shapes", tmp_path, validation=3)
    assert by_name.sizes == {"train": 15, "validation": 3, "test": 6}
    assert load("loopback_shapes:1.0.0", tmp_path, validation=3).num_classes == 4


def test_a_part_of_one_file_is_read_by_the_batch_to_what_tfds_gives(server, tmp_path, monkeypatch):
    built = builder(server, tmp_path)
    fetch.prepare(built, "tfds:loopback", lambda message: None)
    assert tfds._in_one_file(built, "train")
    fast = read(built)
    monkeypatch.setattr(tfds, "_in_one_file", lambda built, part: False)
    slow = read(built)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(fast, part), getattr(slow, part))
        assert getattr(fast, part).dtype == getattr(slow, part).dtype


def test_images_of_varying_size_need_image_size(server, tmp_path):
    built = builder(server, tmp_path, shape=(None, None, 3), crop=2)
    with pytest.raises(
        DataError, match=r"image 0 of 'train' has shape \(\d, 5, 3\) and image \d+ \(\d, 5, 3\).*image_size"
    ):
        read(built)
    arrays = read(built, (4, 8))
    assert arrays.x_train.shape == (18, 4, 8, 3)
    assert arrays.x_train.dtype == np.uint8


def test_images_of_unknown_but_equal_size_are_read(server, tmp_path):
    assert read(builder(server, tmp_path, shape=(None, None, 3))).x_train.shape == (18, 6, 5, 3)


def test_tensorflow_resizes_as_pillow_does(server, tmp_path):
    from tfhalf.data.resize import resize

    built = builder(server, tmp_path)
    plain = read(built)
    for size in ((3, 2), (12, 11), (6, 5)):
        ours = resize(plain, Fit(size), "s").x_train.astype(int)
        assert np.abs(read(built, size).x_train.astype(int) - ours).max() <= 1


def test_validation_stands_in_for_a_missing_test_part(server, tmp_path):
    arrays = read(builder(server, tmp_path, parts=("train", "validation")))
    assert arrays.x_test.shape == (6, 6, 5, 3)


def test_a_set_without_test_and_one_without_train(server, tmp_path):
    assert read(builder(server, tmp_path / "a", parts=("train",))).x_test is None
    with pytest.raises(DataError, match="has the parts test; a part 'train' is needed"):
        read(builder(server, tmp_path / "b", parts=("test",)))


def test_an_unlabelled_test_part(server, tmp_path):
    with pytest.raises(DataError, match=r"the part 'test' has no labels"):
        read(builder(server, tmp_path, unlabelled=True))


def test_no_image_classification_set(tmp_path):
    for supervised in (None, ("image", "id"), ("id", "label")):
        with pytest.raises(DataError, match="is not an image-classification set"):
            read(builder(None, tmp_path, supervised=supervised))
    with pytest.raises(DataError, match="is not an image-classification set"):
        load("imdb_reviews", tmp_path)


def test_a_server_that_refuses(server, tmp_path):
    server.status = 404
    with pytest.raises(
        DataError, match=r"cannot download or prepare it \(DownloadError: .*404.*\); it is not prepared in"
    ):
        read(builder(server, tmp_path))


def test_a_set_whose_own_code_fails(server, tmp_path):
    def broken(self: Any, dl_manager: Any) -> Any:
        raise KeyError("column")

    with pytest.raises(DataError, match="cannot download or prepare it"):
        read(builder(server, tmp_path, _split_generators=broken))


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_prepared_data(server, tmp_path, damage):
    built = builder(server, tmp_path)
    read(built)
    file = next(Path(built.data_path).glob("*train*tfrecord*"))
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content[:-7] if damage == "cut" else content)
    with pytest.raises(
        DataError, match=r"the part 'train' in .* cannot be read .*delete that folder and prepare it again"
    ) as caught:
        read(builder(server, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(6, 5, 3), (None, None, 3)])
def test_a_set_too_large_for_the_memory(server, tmp_path, monkeypatch, shape):
    built = builder(server, tmp_path, shape=shape)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(DataError, match=r"needs about .* where .* available.*data\.image_size"):
        read(built)


# --- no network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **more: Any) -> Any:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("name", ["mnist", "mnist:3.0.1", "emnist/letters", "domainnet"])
def test_without_network_and_data_one_error_names_the_ways_out(nowhere, tmp_path, name):
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load(name, tmp_path)
    assert time.monotonic() - start < 30  # a connection that is tried takes as long as its time-outs
    message = str(caught.value)
    assert "\n" not in message
    for way in (
        "TFDS_DATA_DIR or --data-dir",
        "on a machine with network and copy the folder",
        "folder:PATH or sklearn:digits",
    ):
        assert way in message
    assert str(tmp_path) in message


def test_without_a_network_it_is_told_before_tensorflow_is_imported(tmp_path):
    """In the words of the reading, and without TFDS where the set is there."""
    code = (
        "import sys; from tfhalf.config import Data; from tfhalf.data import check_at_hand, load_splits\n"
        "from tfhalf.data.sources import fetch; from tfhalf.errors import DataError; from pathlib import Path\n"
        f"fetch.reachable, folder = lambda urls: False, {str(tmp_path)!r}\n"
        "def told(check):\n"
        "    try: check(Data(source='tfds:mnist'))\n"
        "    except DataError as error: return str(error)\n"
        "first = told(lambda data: check_at_hand(data, folder))\n"
        "assert 'cannot be downloaded, no connection to' in first and 'is not prepared in' in first\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert first == told(lambda data: load_splits(data, base=Path(), seed=0, data_dir=folder))\n"
        "for name in [name for name in sys.modules if name.startswith('tensorflow_datasets')]: del sys.modules[name]\n"
        "Path(folder, 'mnist/3.0.1').mkdir(parents=True); Path(folder, 'mnist/3.0.1/dataset_info.json').touch()\n"
        "check_at_hand(Data(source='tfds:mnist'), folder)\n"
        "check_at_hand(Data(source='sklearn:digits'), folder)\n"
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["train", "check"])
def test_the_commands_tell_it_before_tensorflow_is_imported(command, tmp_path):
    (tmp_path / "net.py").write_text("def build(**arguments): ...\n")
    (tmp_path / "job.yaml").write_text("name: job\nmodel: {build: 'net.py:build'}\ndata: {source: 'tfds:mnist'}\n")
    code = (
        "import sys; from click.testing import CliRunner; from tfhalf.cli import main\n"
        "from tfhalf.data.sources import fetch; fetch.reachable = lambda urls: False\n"
        f"result = CliRunner().invoke(main, [{command!r}, 'job.yaml', '--data-dir', 'nowhere'])\n"
        "assert result.exit_code == 2, result.output\n"
        "assert 'error: tfds:mnist: cannot be downloaded, no connection to' in result.stderr, result.stderr\n"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_address_that_never_answers_ends_in_time(monkeypatch):
    def too_late(*args: Any, **more: Any) -> Any:
        release.wait(60)
        raise OSError("timed out")

    release = threading.Event()
    monkeypatch.setattr(fetch, "_TIMEOUT", 0.2)
    monkeypatch.setattr(socket, "create_connection", too_late)
    start = time.monotonic()
    assert not fetch.reachable(["https://a.example/x", "https://b.example/x"])
    assert time.monotonic() - start < 30
    release.set()


def test_one_reachable_host_is_enough(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert fetch.reachable(["http://127.0.0.1:9/a", server.url])
    assert not fetch.reachable(["http://127.0.0.1:9/a", "http://" + "x" * 80 + "/"])
    assert not fetch.reachable([])


def test_the_proxy_is_what_must_be_reachable(server, monkeypatch):
    monkeypatch.setenv("no_proxy", "local.example")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.http.server_port}")
    assert fetch.reachable(["https://data.example/a.zip"])
    monkeypatch.setenv("https_proxy", "127.0.0.1:9")
    assert not fetch.reachable(["https://data.example/a.zip"])
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:port")
    assert not fetch.reachable(["https://data.example/a.zip"])
    assert fetch._address("https://local.example/a.zip") == ("local.example", 443)
    assert fetch._address("ftp://other.example/a.zip") == ("other.example", 21)


def test_what_is_downloaded_already_needs_no_network(nowhere, tmp_path):
    from tensorflow_datasets.core.download import resource

    url, info = "https://data.example/a.zip", SimpleNamespace(checksum="ab" * 32)
    known = SimpleNamespace(
        MANUAL_DOWNLOAD_INSTRUCTIONS=None, url_infos={url: info}, data_dir_root=str(tmp_path), name="some_set"
    )
    assert list(fetch._missing(known)) == [url]
    cached = tmp_path / "downloads" / "some_set" / resource.get_dl_fname(url, info.checksum)
    cached.parent.mkdir(parents=True)
    cached.write_text("x")
    assert list(fetch._missing(known)) == []


def test_a_set_that_is_fetched_by_hand_says_so(tmp_path):
    with pytest.raises(DataError, match=r"Manual directory .* does not exist or is empty"):
        load("imagenet2012", tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifr10", "TFDS knows no set 'cifr10'; did you mean 'cifar10'"),
        ("qqqqqqq", "TFDS knows no set 'qqqqqqq'; accepted: the names of"),
        ("CIFAR10", "'CIFAR10' is not the name of a set; accepted: tfds:NAME"),
        ("huggingface:mnist", "is not the name of a set"),
        ("../etc", "is not the name of a set"),
        ("cifar10:9.9.9", "TFDS cannot open it: .* 9.9.9.*correct the config or version"),
        ("emnist/zzz", "TFDS cannot open it: .*zzz"),
    ],
)
def test_names_that_are_refused(tmp_path, name, message):
    with pytest.raises(DataError, match=message) as caught:
        load(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_that_name_with_nothing_prepared(tmp_path):
    (tmp_path / "my_set").mkdir()
    with pytest.raises(DataError, match="tfds:my_set: TFDS cannot open it"):
        load("my_set", tmp_path)


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@cifar10
def test_cifar10_is_whole_and_quick(nowhere, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(PREPARED))
    start = time.monotonic()
    splits = load_splits(Data(source="tfds:cifar10", validation=5000), base=Path("/"), seed=0)
    seconds = time.monotonic() - start
    assert splits.sizes == {"train": 45_000, "validation": 5_000, "test": 10_000}
    assert splits.class_names[:3] == ("airplane", "automobile", "bird")
    assert splits.x_train.shape == (45_000, 32, 32, 3)
    assert (splits.x_train.dtype, splits.y_train.dtype) == (np.uint8, np.int32)
    assert np.bincount(splits.y_val).tolist() == [500] * 10
    assert np.bincount(splits.y_test).tolist() == [1000] * 10
    known = Preprocess.fit("standardize", np.concatenate([splits.x_train, splits.x_val]))
    np.testing.assert_allclose(np.array(known.mean) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)
    np.testing.assert_allclose(np.array(known.std) / 255, [0.2470, 0.2435, 0.2616], atol=1e-4)
    assert seconds < 60


@cifar10
@pytest.mark.parametrize("root", ["s3://bucket/sets", "https://host/sets"])
def test_sets_behind_urls_are_read_by_their_folder(root):
    with pytest.raises(
        DataError, match=r"accepted: a path or gs://\.\.\.; read such a set by its folder: data\.source: rec"
    ):
        load("cifar10", root)


def test_a_prepared_set_may_be_copied(tmp_path):
    copied = tmp_path / "cifar10"
    shutil.copytree(PREPARED / "cifar10", copied)
    for file in copied.rglob("*train*"):
        file.unlink()
    with pytest.raises(DataError, match=r"the part 'train' in .* cannot be read"):
        load("cifar10", tmp_path)
