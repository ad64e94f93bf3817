"""A sample's answer must not depend on the samples beside it, nor an ONNX file on what Python's hashes are."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from tfhalf.artifacts.ports import Port
from tfhalf.errors import ExportError
from tfhalf.export.inputs.draw import sample_inputs
from tfhalf.export.interface import interface_of
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
from tfhalf.export.onnx import to_onnx
from tfhalf.export.onnx.names import _free
from tfhalf.export.onnx.ordered import OrderedSet, ordered_sets
from tfhalf.export.program import named_program
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.export.reproducible import check_independent


def check(model: keras.Model) -> None:
    interface = interface_of(Source(model, "m", {}), None)
    samples = sample_inputs(model, interface, None)
    check_independent(simulator_of(model, interface, samples.arrays), model, samples.arrays, samples.kinds)


def spectrum(top_db: float, batch: int | None = None) -> keras.Model:
    x = keras.Input((600,), batch_size=batch, name="sound")
    mel = layers.MelSpectrogram(fft_length=128, sequence_stride=64, num_mel_bins=16, top_db=top_db, name="mel")(x)
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(mel)))


def test_a_spectrogram_that_counts_from_the_loudest_sample() -> None:
    with pytest.raises(
        ExportError, match=r"'mel' \(MelSpectrogram\) computes with the whole batch.* top_db, 80,.*top_db=200"
    ):
        check(spectrum(80))
    check(spectrum(200))
    check(spectrum(80, batch=1))


class Centred(layers.Layer):
    def call(self, x: Any) -> Any:
        return x - ops.mean(x, axis=0, keepdims=True)


def test_a_layer_of_ones_own() -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2)(Centred(name="centred")(layers.Dense(8)(x))))
    with pytest.raises(ExportError, match=r"'centred' \(Centred\) computes with the whole batch") as told:
        check(model)
    assert "batch_size=1" in str(told.value)
    assert "\n" not in str(told.value)


def test_what_is_rounded_otherwise_in_another_batch_is_no_dependence() -> None:
    x = keras.Input((257,), name="x")
    y = layers.Dense(513, activation="gelu")(layers.LayerNormalization()(x))
    check(keras.Model(x, ops.one_hot(ops.argmax(layers.Dense(9)(y), -1), 9)))


# --- the same file again ---------------------------------------------------------------------------------------------


def recurrent() -> keras.Model:
    """Loops, equal states and constants that several nodes share, of which one of each stays."""
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.LSTM(6)(layers.Embedding(9, 5, mask_zero=True)(words))
    return keras.Model(words, layers.Dense(2, activation="softmax")(x))


def attention() -> keras.Model:
    words = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(9, 8, mask_zero=True)(words)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x))
    return keras.Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def digest_of(model: keras.Model) -> str:
    half, port = rebuild(model).model, Port("words", "int32", (None, *model.inputs[0].shape[1:]))
    made = named_program(lambda tensors: {"y": half(tensors[0], training=False)}, (port,), half.weights, (), "")
    return hashlib.sha256(to_onnx.convert(made, 18).SerializeToString()).hexdigest()


def digests(order: int = 1) -> list[str]:
    """Of each net's ONNX file, converted one after the other, or the other way round."""
    nets = []
    for build in (recurrent, attention):
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        nets.append(build())
    return [digest_of(net) for net in nets[::order]][::order]


@pytest.mark.slow
def test_the_same_onnx_file_whatever_was_converted_before() -> None:
    assert digests() == digests(-1)


@pytest.mark.slow
def test_the_same_onnx_file_in_other_processes() -> None:
    said = {str(digests())}
    for seed in ("2", "3"):
        code = "import test_reproducible as tests; print(tests.digests(-1))"
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, capture_output=True, text=True, check=True
        )
        said.add(done.stdout.splitlines()[-1])
    assert len(said) == 1


def test_counters_of_functions_are_taken_out_of_names() -> None:
    taken: set[str] = set()
    names = ["net_while_cond_frozen_26207_net/while/Less", "net_while_body_frozen_9", "net_while_cond_31/x", "conv_12"]
    assert [_free(name, taken) for name in names] == [
        "net_while_cond_net/while/Less", "net_while_body", "net_while_cond/x", "conv_12"
    ]  # fmt: skip


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_ordered_sets_are_sets(first: list[int], second: list[int]) -> None:
    one, two, other = OrderedSet(first), set(first), set(second)
    assert list(one) == list(dict.fromkeys(first))
    assert one == two
    for ordered, plain in (
        (one | other, two | other), (one & other, two & other), (one - other, two - other),
        (other - one, other - two), (one.union(second), two | other), (one.intersection(second), two & other),
        (one.difference(second), two - other),
    ):  # fmt: skip
        assert set(ordered) == plain
        assert len(ordered) == len(plain)
    assert one.issubset(second) == two.issubset(second)
    one |= other
    one.update(second, [11])
    one.discard(12)
    one.remove(11)
    assert set(one) == two | other


def test_a_package_gets_its_sets_back() -> None:
    module = ModuleType("some_package.inner")
    sys.modules["some_package.inner"] = module
    try:
        with ordered_sets("some_package"):
            assert module.set is OrderedSet
        assert not hasattr(module, "set")
    finally:
        del sys.modules["some_package.inner"]
