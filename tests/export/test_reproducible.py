"""A sample's answer must not depend on the samples beside it."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from keras import layers, ops

from tfhalf.errors import ExportError
from tfhalf.export.inputs.draw import sample_inputs
from tfhalf.export.interface import interface_of
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.load.model import Source
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
