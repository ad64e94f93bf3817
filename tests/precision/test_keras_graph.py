"""What a Keras graph says of itself."""

from __future__ import annotations

import keras
from keras import layers

from tfhalf.precision.keras_graph import shape_error


def test_shapes_that_a_graph_does_not_take() -> None:
    """Whatever a CPU's kernels make of an empty output."""

    class Unruly(layers.Layer):
        built_once = False

        def compute_output_shape(self, shape: object) -> object:
            if self.built_once:
                raise NotImplementedError
            return shape

        def call(self, x: object) -> object:
            return x

    x = keras.Input((None, 1))
    model = keras.Model(x, layers.Conv1D(2, 3)(x))
    assert "zero or negative" in str(shape_error(model, [(4, 2, 1)]))
    assert shape_error(model, [(4, 3, 1)]) is None
    layer = Unruly()
    unruly = keras.Model(x, layer(x))
    layer.built_once = True
    assert shape_error(unruly, [(4, 3, 1)]) is None
    assert shape_error(keras.Sequential([layers.Dense(2)]), [(4, 3, 1)]) is None
