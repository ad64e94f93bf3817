"""Files that are damaged or mean harm: each ends in one clear line, and nothing of them is run."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import zoo_layers
from keras import layers

from tfhalf.errors import ArtifactError, TfhalfError
from tfhalf.export.load import allowed
from tfhalf.export.load.model import open_source
from tfhalf.export.request import Request

CASES = 200
MARK = "TFHALF_TEST_WAS_RUN"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(x))
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    path = tmp_path_factory.mktemp("hostile") / "good.keras"
    model.save(path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def changed(good: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The good file with another configuration."""
    parts = members(good)
    config = json.loads(parts["config.json"])
    change(config)
    parts["config.json"] = json.dumps(config).encode()
    return written(folder / "changed.keras", parts)


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_source(Request(str(path), **options))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


# --- what a configuration may name ------------------------------------------------------------------------------------


def _layer(config: dict[str, Any], place: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = config["config"]["layers"][place]
    return found


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("keras.utils", "get_file"),
        ("keras.config", "enable_unsafe_deserialization"),
        ("keras.saving", "load_model"),
        ("keras.src.saving.saving_lib", "load_model"),
        ("keras.src.utils.file_utils", "File"),
        ("tfhalf.config.refs", "resolve"),
    ],
)
@pytest.mark.parametrize("kind", ["class", "function"])
def test_names_that_are_no_parts_of_models(good: Path, tmp_path: Path, module: str, name: str, kind: str) -> None:
    def change(config: dict[str, Any]) -> None:
        if kind == "class":
            _layer(config)["module"], _layer(config)["class_name"] = module, name
        else:
            told = {"module": module, "class_name": "function", "config": name, "registered_name": name}
            _layer(config)["config"]["activation"] = told

    text = refused(changed(good, tmp_path, change))
    assert "stands, which it is not; not loaded" in text or "needs the code of" in text


def test_stored_code_is_not_run(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    code = f"__import__('os').environ.setdefault({MARK!r}, '1') and x"
    model = keras.Model(x, layers.Lambda(eval(f"lambda x: {code}"), output_shape=(4,), name="evil")(x))
    os.environ.pop(MARK, None)
    model.save(tmp_path / "evil.keras")
    text = refused(tmp_path / "evil.keras")
    assert "'evil' is a Lambda and holds Python bytecode" in text
    assert MARK not in os.environ


def test_a_vocabulary_is_not_read_from_a_path(tmp_path: Path) -> None:
    text = keras.Input((1,), dtype="string", name="text")
    model = keras.Model(text, layers.StringLookup(vocabulary=["a", "b"])(text))
    model.save(tmp_path / "plain.keras")
    open_source(Request(str(tmp_path / "plain.keras")))

    def change(config: dict[str, Any]) -> None:
        _layer(config)["config"]["vocabulary"] = "/etc/passwd"

    assert "reads its vocabulary from a path" in refused(changed(tmp_path / "plain.keras", tmp_path, change))


def test_custom_layers_need_their_code(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    keras.Model(x, zoo_layers.NaiveLayerNorm(name="norm")(x)).save(tmp_path / "own.keras")
    text = refused(tmp_path / "own.keras")
    assert "needs the code of zoo_layers.NaiveLayerNorm" in text
    assert "--custom FILE.py" in text
    custom = Path(zoo_layers.__file__)
    assert open_source(Request(str(tmp_path / "own.keras"), custom=custom)).model.layers[1].name == "norm"


def test_losses_need_no_code(tmp_path: Path) -> None:
    def own_loss(y: Any, p: Any) -> Any:
        return keras.ops.mean(p - y)

    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2)(x))
    model.compile("sgd", own_loss)
    model.save(tmp_path / "compiled.keras")
    assert open_source(Request(str(tmp_path / "compiled.keras"))).facts["layers"] == 2


def test_nested_without_end(good: Path, tmp_path: Path) -> None:
    parts = members(good)
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    parts["config.json"] = b'{"class_name": "Functional", "config": ' + deep.encode() + b"}"
    refused(written(tmp_path / "deep.keras", parts))

    def change(config: dict[str, Any]) -> None:
        node = _layer(config)["config"]
        for _ in range(allowed.MAX_DEPTH + 5):
            node["more"] = {}
            node = node["more"]

    assert "nested deeper" in refused(changed(good, tmp_path, change))


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "metadata.json", "assets/words.txt"])
def test_zip_bombs(good: Path, tmp_path: Path, member: str) -> None:
    parts = {**members(good), member: bytes(64 << 20)}
    path = written(tmp_path / "bomb.keras", parts, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    assert "claims 67,108,864 bytes" in refused(path)


@pytest.mark.parametrize("member", ["../out.txt", "/etc/out.txt", "assets/../../out.txt", "a\\b"])
def test_members_outside(good: Path, tmp_path: Path, member: str) -> None:
    assert "it has a member named" in refused(written(tmp_path / "out.keras", {**members(good), member: b"x"}))


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(100), b"\x89HDF\r\n\x1a\nxx", b"\x80\x04pickle"])
def test_no_keras_file_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.keras"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_members_missing(good: Path, tmp_path: Path, missing: str) -> None:
    parts = {name: data for name, data in members(good).items() if name != missing}
    assert f"lacks {missing}" in refused(written(tmp_path / "less.keras", parts))


def test_weights_of_another_model(good: Path, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        _layer(config)["config"]["filters"] = 5

    assert "Keras cannot load it" in refused(changed(good, tmp_path, change))


# --- two hundred damaged files ----------------------------------------------------------------------------------------


def damage(rng: np.random.Generator, data: bytes) -> bytes:
    """Bits turned, a part cut off, a part overwritten, or bytes put in."""
    kind = int(rng.integers(4))
    raw = bytearray(data)
    if kind == 0:
        for place in rng.integers(0, len(raw), int(rng.integers(1, 20))):
            raw[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del raw[int(rng.integers(0, len(raw))) :]
    elif kind == 2:
        place = int(rng.integers(0, len(raw)))
        raw[place : place + 64] = rng.bytes(min(64, len(raw) - place))
    else:
        place = int(rng.integers(0, len(raw)))
        raw[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(raw)


def damaged_archive(rng: np.random.Generator, good: Path, case: int) -> bytes:
    """Every other one is damaged within, with checksums that fit, as someone who means harm would."""
    if case % 2:
        return damage(rng, good.read_bytes())
    parts = members(good)
    name = str(rng.choice(list(parts)))
    parts[name] = damage(rng, parts[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in parts.items():
            archive.writestr(member, data)
    return buffer.getvalue()


_RUN = """
import json, sys
from pathlib import Path
from tfhalf.system.tensorflow import import_tensorflow
import_tensorflow()
from tfhalf.export.request import Request
from tfhalf.export.load.model import open_source
from tfhalf.errors import TfhalfError
from tfhalf.runtimes.open import open_predictor
import numpy as np
for line in sys.stdin:
    kind, path = json.loads(line)
    print("begin", path, flush=True)
    try:
        if kind == "keras":
            open_source(Request(path))
        else:
            open_predictor(Path(path), kind)(np.zeros((1, 8, 8, 3), np.float32))
    except TfhalfError as error:
        print("told", json.dumps(str(error)), flush=True)
    except Exception as error:
        print("raised", json.dumps(repr(error)[:300]), flush=True)
    else:
        print("opened", flush=True)
"""


def run_cases(cases: list[tuple[str, str]]) -> list[str]:
    """Each case's outcome; a process that dies fails the test with the case it died of."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input="\n".join(json.dumps(case) for case in cases),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-500:]}"
    return [line for line in lines if not line.startswith("begin")]


@pytest.mark.slow
def test_two_hundred_damaged_keras_files(good: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(20)
    cases = []
    for case in range(CASES):
        path = tmp_path / f"{case}.keras"
        path.write_bytes(damaged_archive(rng, good, case))
        cases.append(("keras", str(path)))
    outcomes = run_cases(cases)
    assert len(outcomes) == CASES
    assert [line for line in outcomes if line.startswith("raised")] == []
    told = [json.loads(line[5:]) for line in outcomes if line.startswith("told")]
    assert all("\n" not in text for text in told)
    # Bits of weights may turn without anyone noticing where the checksum fits; of plainly damaged archives most tell.
    assert len(told) > CASES / 2


def test_the_good_file_opens(good: Path) -> None:
    source = open_source(Request(str(good)))
    assert source.name == "good"
    assert source.facts["policies"] == ["float32"]
    assert issubclass(ArtifactError, TfhalfError)
