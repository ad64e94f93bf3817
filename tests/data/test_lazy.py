"""Images that are decoded when they are asked for: the same pixels as decoded at once, and the same refusals."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import etils.epath
import numpy as np
import pytest
from PIL import Image

from tfhalf import config
from tfhalf.config import Data
from tfhalf.data import LazyImages, Preprocess, Splits, lazy, load_splits, memory
from tfhalf.data.check import Arrays
from tfhalf.data.decode.fit import Fit
from tfhalf.data.sources import encoded, folder, tfds
from tfhalf.errors import DataError
from tfhalf.progress import Progress
from tfhalf.train import job

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

DRAW = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return DRAW.integers(0, 256, (height, width, channels)).astype(np.uint8).squeeze()


def write(path: Path, pixels: np.ndarray, **save: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 12 images of 20 x 14, PNG and JPEG in turn; one is turned by its EXIF, one has a palette."""
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        for index in range(12):
            write(root / name / f"{index:02}.{'png' if index % 2 else 'jpg'}", noise(20, 14))
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root / "cat" / "02.jpg", noise(14, 20), exif=exif)
    Image.fromarray(noise(20, 14)).quantize(16).save(root / "dog" / "01.png", transparency=b"\x00\x80")
    return root


def load(path: Path, seed: int = 0, **rest: Any) -> Splits:
    return load_splits(Data(source=f"folder:{path.name}", **rest), base=path.parent, seed=seed)


def alike(one: Splits, other: Splits) -> None:
    """Part by part, ``one`` encoded and ``other`` decoded."""
    assert isinstance(one.x_train, LazyImages)
    assert isinstance(other.x_train, np.ndarray)
    assert (one.x_train.shape, one.x_train.dtype) == (other.x_train.shape, other.x_train.dtype)
    assert (one.input_shape, one.sizes, one.class_names) == (other.input_shape, other.sizes, other.class_names)
    np.testing.assert_array_equal(one.x_train[:], other.x_train)
    for part in ("y_train", "x_val", "y_val", "x_test", "y_test"):
        mine, theirs = getattr(one, part), getattr(other, part)
        assert isinstance(mine, np.ndarray)
        np.testing.assert_array_equal(mine, theirs)


# --- the class --------------------------------------------------------------------------------------------------------


def images(x: np.ndarray) -> LazyImages:
    def decode(places: np.ndarray, out: np.ndarray) -> None:
        out[:] = x[places]

    return LazyImages(decode, np.arange(len(x)), x.shape[1:], x.dtype, "made here")


def test_it_is_indexed_as_an_array_is() -> None:
    x = DRAW.integers(0, 60_000, (20, 3, 2, 1)).astype(np.uint16)
    some = images(x)
    assert (len(some), some.shape, some.ndim, some.dtype, some.nbytes) == (20, x.shape, 4, x.dtype, x.nbytes)
    index = np.array([7, 3, 3, 19])
    for key in (
        slice(4, 9),
        slice(None, None, 3),
        slice(-2, None),
        index,
        x[:, 0, 0, 0] > 30_000,
        5,
        index.reshape(2, 2),
    ):
        np.testing.assert_array_equal(some[key], x[key])
    part = some.subset(np.array([9, 4, 2]))
    assert part.shape == (3, 3, 2, 1)
    np.testing.assert_array_equal(part[1:], x[[4, 2]])
    np.testing.assert_array_equal(part.subset(np.array([2]))[0], x[2])
    out = np.empty((2, 3, 2, 1), np.uint16)
    part.fill(np.array([2, 0], np.int32), out)
    np.testing.assert_array_equal(out, x[[2, 9]])
    with pytest.raises(IndexError):
        some[20]


def test_more_than_the_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    some = images(np.zeros((20, 10, 10, 1), np.uint8))
    monkeypatch.setattr(memory, "available", lambda: 1000)
    assert len(some[:8]) == 8
    with pytest.raises(DataError, match=r"made here: needs about .*data\.image_size.*fewer images into validation"):
        some[:9]


def test_statistics_of_few_images_are_those_of_all() -> None:
    x = DRAW.integers(0, 256, (70, 5, 4, 3)).astype(np.uint8)
    for normalize in ("standardize", "unit", "none"):
        assert Preprocess.fit(normalize, images(x)) == Preprocess.fit(normalize, x)


def test_statistics_of_many_images_are_those_of_a_fixed_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = DRAW.integers(0, 256, (3000, 5, 4, 3)).astype(np.uint8)
    monkeypatch.setattr(lazy, "SAMPLE", 500)
    some = images(x)
    sample = some.sample()
    assert len(sample) == some.sampled == 500
    assert len(np.unique(sample.reshape(500, -1), axis=0)) == 500
    np.testing.assert_array_equal(sample, images(x).sample())
    assert not np.array_equal(sample, x[:500])
    fitted = Preprocess.fit("standardize", some)
    assert fitted == Preprocess.fit("standardize", sample)
    np.testing.assert_allclose(fitted.mean, Preprocess.fit("standardize", x).mean, rtol=0.05)
    monkeypatch.setattr(lazy, "_SAMPLE_BYTES", 60 * 20)
    assert len(some.sample()) == 20
    assert Preprocess.fit(config.Normalize(mean=(1.0,), std=(2.0,)), some) == Preprocess((1.0,), (2.0,))


# --- folder: ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        *({}, {"image_size": [9, 16]}, {"image_size": [40, 28]}, {"validation": 0, "test": 0.4}),
        {"image_size": [20, 14], "center_crop": 0.6},
    ],
)
def test_a_folder_gives_the_pixels_it_gives_decoded(photos: Path, more: dict[str, Any]) -> None:
    alike(load(photos, decode="lazy", **more), load(photos, decode="eager", **more))


def test_parts_of_a_folder(photos: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(photos, photos.parent / "parted" / part)
    (photos.parent / "parted/test/cat/00.jpg").unlink()
    parted = photos.parent / "parted"
    alike(load(parted, decode="lazy"), load(parted, decode="eager"))


def test_gray_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for index in range(6):
            write(tmp_path / "gray" / name / f"{index}.png", noise(5, 4, 1))
    alike(load(tmp_path / "gray", decode="lazy"), load(tmp_path / "gray", decode="eager"))
    assert load(tmp_path / "gray", decode="lazy").input_shape == (5, 4, 1)
    write(tmp_path / "gray" / "b" / "5.jpg", noise(5, 4))
    alike(load(tmp_path / "gray", decode="lazy"), load(tmp_path / "gray", decode="eager"))


def test_many_images_in_any_order(tmp_path: Path) -> None:
    pixels = [noise(4, 4) for _ in range(50)]
    for index, image in enumerate(pixels):
        write(tmp_path / "many" / "ab"[index // 25] / f"{index:02}.png", image)
    found = folder.read(tmp_path / "many", None, "s", lambda message: None, "lazy").x_train
    order = DRAW.permutation(50)
    np.testing.assert_array_equal(found[order], np.stack(pixels)[order])


def test_auto_goes_by_the_memory(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = load(photos)
    assert isinstance(decoded.x_train, np.ndarray)
    needed = 2 * 24 * 20 * 14 * 3
    monkeypatch.setattr(memory, "available", lambda: int(needed / memory.SHARE) + 2)
    assert isinstance(load(photos).x_train, np.ndarray)
    monkeypatch.setattr(memory, "available", lambda: int(needed / memory.SHARE) - 2)
    alike(load(photos), decoded)
    with pytest.raises(DataError, match=r"needs about .* set data\.image_size"):
        load(photos, decode="eager")
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(DataError, match="fewer images into validation and test"):
        load(photos)


def test_what_a_header_tells_is_refused_at_once(photos: Path) -> None:
    write(photos / "dog" / "03.png", noise(9, 9))
    with pytest.raises(DataError, match=r"cat/00\.jpg is 20 x 14 and dog/03\.png 9 x 9 .*set data\.image_size"):
        folder.read(photos, None, "s", lambda message: None, "lazy")
    assert load(photos, decode="lazy", image_size=[8, 8]).input_shape == (8, 8, 3)
    (photos / "dog" / "03.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"dog/03\.png holds no PNG, JPEG, WebP"):
        load(photos, decode="lazy", image_size=[8, 8])


@pytest.mark.parametrize("name", ["04.jpg", "05.png"])
def test_what_only_decoding_tells_is_told_then(photos: Path, name: str) -> None:
    whole = (photos / "dog" / name).read_bytes()
    (photos / "dog" / name).write_bytes(whole[: len(whole) * 3 // 4])
    (photos / "dog" / "06.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/06\.jpg"):
        load(photos, decode="lazy", validation=0)
    (photos / "dog" / "06.jpg").unlink()
    found = folder.read(photos, None, "folder:photos", lambda message: None, "lazy").x_train
    assert isinstance(found, LazyImages)
    with pytest.raises(
        DataError, match=rf"^folder:photos: dog/{name} is damaged \(.*; replace or remove it$"
    ) as caught:
        found[:]
    assert "\n" not in str(caught.value)
    assert found[:12].shape == (12, 20, 14, 3)


def test_an_image_that_lies_across_is_told_when_it_is_decoded(photos: Path) -> None:
    """Its header has the sides of the others, and EXIF might have turned it."""
    write(photos / "dog" / "03.png", noise(14, 20))
    found = folder.read(photos, None, "s", lambda message: None, "lazy").x_train
    with pytest.raises(DataError, match=r"cat/00\.jpg is 20 x 14 and dog/03\.png 14 x 20"):
        found[:]


def test_a_file_that_is_gone(photos: Path) -> None:
    found = folder.read(photos, None, "s", lambda message: None, "lazy").x_train
    (photos / "dog" / "03.png").unlink()
    with pytest.raises(DataError, match=r"^s: dog/03\.png is damaged \(.*No such file"):
        found[:]


# --- other sources ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["npz:a.npz", "sklearn:digits", "a.py:load"])
def test_only_encoded_images_can_stay_encoded(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"data\.decode is lazy; only folder:, records: and tfds:") as caught:
        load_splits(Data(source=source, decode="lazy"), base=tmp_path, seed=0)
    assert "\n" not in str(caught.value)


# --- tfds: ------------------------------------------------------------------------------------------------------------

# Where TFDS looks for a set's checksums and description: the sets made here have none.
FOLDER = etils.epath.Path(__file__).parent / "no_such_folder"


class EncodedShapes(tensorflow_datasets.core.GeneratorBasedBuilder):
    """JPEG or PNG images, in as many files as a test wants."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    shape: tuple[int | None, ...] = (20, 14, 3)
    encoding = "png"
    crop = 0
    height, width, train = 20, 14, 30

    def _info(self) -> Any:
        features = tensorflow_datasets.features
        kinds = {
            "image": features.Image(shape=self.shape, encoding_format=self.encoding),
            "label": features.ClassLabel(names=["a", "b", "c"]),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=features.FeaturesDict(kinds), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(self.train), "test": self._generate_examples(6)}

    def _generate_examples(self, count: int) -> Any:
        draw = np.random.default_rng(count)
        for index in range(count):
            crop = self.crop * (index % 2) * (count == self.train)
            image = draw.integers(0, 256, (self.height - crop, self.width, 3)).astype(np.uint8)
            yield f"{index:03}", {"image": image, "label": index % 3}


def builder(data_dir: Path, file_format: str = "tfrecord", **changes: Any) -> Any:
    kind = type("EncodedShapes", (EncodedShapes,), {"pkg_dir_path": FOLDER, **changes}, skip_registration=True)
    built = kind(data_dir=str(data_dir), file_format=file_format)
    tensorflow_datasets.disable_progress_bar()
    built.download_and_prepare(
        download_config=tensorflow_datasets.download.DownloadConfig(num_shards=3, try_download_gcs=False)
    )
    tensorflow_datasets.enable_progress_bar()
    return built


def read(built: Any, fit: Fit | None = None, decode: str = "lazy") -> Arrays:
    return tfds.read_builder(built, fit, "tfds:made", lambda message: None, decode)


def both(built: Any, fit: Fit | None = None) -> None:
    some, decoded = read(built, fit), read(built, fit, "eager")
    assert isinstance(some.x_train, LazyImages)
    assert (some.x_train.shape, some.x_train.dtype) == (decoded.x_train.shape, decoded.x_train.dtype)
    np.testing.assert_array_equal(some.x_train[:], decoded.x_train)
    order = DRAW.permutation(len(some.x_train))
    np.testing.assert_array_equal(some.x_train[order], decoded.x_train[order])
    for name in ("y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(some, name), getattr(decoded, name))


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["png", "jpeg"])
@pytest.mark.parametrize("shape", [(20, 14, 3), (None, None, 3)])
def test_a_tfds_set_gives_the_pixels_it_gives_decoded(
    tmp_path: Path, encoding: str, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded, "_BATCH", 7)
    built = builder(tmp_path, encoding=encoding, shape=shape)
    for fit in (None, Fit((9, 16)), Fit((40, 28)), Fit((20, 14)), Fit((20, 14), 0.6)):
        both(built, fit)


def test_tfds_images_of_varying_size(tmp_path: Path) -> None:
    built = builder(tmp_path, shape=(None, None, 3), crop=3)
    both(built, Fit((12, 12)))
    found = read(built).x_train
    with pytest.raises(
        DataError, match=r"^tfds:made: image \d+ of 'train' in .* of another shape .*set data\.image_size"
    ):
        found[:]


def test_tfds_auto_goes_by_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((20, 14, 3), (None, None, 3)):
        built = builder(tmp_path / str(shape[0]), shape=shape)
        assert isinstance(read(built, None, "auto").x_train, np.ndarray)
        needed = 2 * 36 * 20 * 14 * 3
        monkeypatch.setattr(memory, "available", lambda needed=needed: int(needed / memory.SHARE) - 2)
        assert isinstance(read(built, None, "auto").x_train, LazyImages)
        with pytest.raises(DataError, match=r"needs about .* available.*data\.image_size"):
            read(built, None, "eager")
        monkeypatch.setattr(memory, "available", lambda: 13_000)  # enough for the test part alone
        assert isinstance(read(built, None, "auto").x_train, LazyImages)  # which stay on the disk
        monkeypatch.undo()


def test_a_tfds_image_that_cannot_be_decoded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = read(builder(tmp_path, shape=(None, None, 3))).x_train
    assert isinstance(some, LazyImages)
    items = some.decode.items  # type: ignore[attr-defined]
    stored = [items.read(index) for index in range(30)]
    stored[17] = stored[17][:60]
    monkeypatch.setattr(items, "read", stored.__getitem__)
    with pytest.raises(
        DataError, match=r"^tfds:made: image 17 of 'train' in .* is damaged or of another shape"
    ) as caught:
        some[10:20]
    assert "\n" not in str(caught.value)
    assert some[:17].shape == (17, 20, 14, 3)
    stored[17] = stored[16]
    assert (some[17] == some[16]).all()


@pytest.mark.parametrize("shape", [(20, 14, 3), (None, None, 3)])
def test_a_set_of_array_records(tmp_path: Path, shape: Any) -> None:
    """What TensorFlow cannot read, and the same set in TFRecord."""
    built, other = builder(tmp_path / "a", "array_record", shape=shape), builder(tmp_path / "b", shape=shape)
    for fit in (None, Fit((9, 16)), Fit((9, 16), 0.6)):
        both(built, fit)
    some, same = read(built), read(other, None, "eager")
    for array in ("x", "y"):
        ours, theirs = (getattr(arrays, f"{array}_train")[:].astype(np.int64) for arrays in (some, same))
        assert sorted(item.tobytes() for item in ours) == sorted(item.tobytes() for item in theirs)
    (path,) = (path for path in Path(built.data_path).glob("*train*") if path.name.endswith("00001-of-00003"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"^tfds:made: encoded_shapes-train\.array_record-00001-of-00003 is not a whole"
    ):
        read(built)
    path.unlink()
    with pytest.raises(DataError, match=r"00001-of-00003 cannot be read \(No such file"):
        read(built)


def test_a_prepared_set_is_read_by_its_folder_too(tmp_path: Path) -> None:
    built = builder(tmp_path, shape=(20, 14, 3))
    same, source = read(built), f"records:{built.data_path}"
    splits = load_splits(Data(source=source, decode="lazy", validation=0), base=tmp_path, seed=0)
    np.testing.assert_array_equal(splits.x_train[:], same.x_train[:])  # shards of less than sixteen come one by one
    np.testing.assert_array_equal(splits.y_test, same.y_test)
    assert splits.class_names == ("a", "b", "c")


def test_shards_come_in_the_order_in_which_tensorflow_takes_turns() -> None:
    import tensorflow as tf

    draw = np.random.default_rng(0)
    for _ in range(20):
        counts = draw.integers(0, 13, draw.integers(1, 9))
        cycle, block = draw.integers(1, 5, 2).tolist()
        starts = np.cumsum(counts) - counts
        turns = tf.data.Dataset.from_tensor_slices((starts, counts)).interleave(
            lambda start, count: tf.data.Dataset.range(start, start + count),
            cycle_length=cycle,
            block_length=block,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        expected = [int(item) for item in turns.as_numpy_iterator()]
        assert encoded.interleaved(counts.tolist(), cycle, block).tolist() == expected


def test_a_part_of_many_records_in_several_shards(tmp_path: Path) -> None:
    """More than TFDS reads of one before it turns to the next."""
    built = builder(tmp_path, shape=(8, 4, 3), height=8, width=4, train=70)
    both(built)


# --- the whole job ----------------------------------------------------------------------------------------------------


def test_a_job_says_what_was_sampled(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (photos.parent / "net.py").write_text("def build(*, input_shape, num_classes): ...\n")
    values = {"name": "p", "model": {"build": "net.py:build"}, "data": {"source": "folder:photos", "decode": "lazy"}}
    places = job.Places(photos.parent / "p.yaml", photos.parent / "runs", photos.parent / "exports")
    made = job.prepare(config.Pipeline.model_validate(values), places, Progress())
    assert capsys.readouterr().out == "loading    folder:photos\n"
    monkeypatch.setattr(lazy, "SAMPLE", 10)
    made = job.prepare(config.Pipeline.model_validate(values), places, Progress())
    assert isinstance(made.splits.x_train, LazyImages)
    _, said = capsys.readouterr().out.splitlines()
    assert said == "normalise  by mean and std of a fixed sample: 10 of 17 training images"
    smoke = job.prepare(config.Pipeline.model_validate(values), places, Progress(), smoke=True)
    assert isinstance(smoke.splits.x_train, np.ndarray)
