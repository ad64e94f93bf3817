"""The next value of a series from those before it: a GRU (K. Cho et al., arXiv:1406.1078, 2014), and a series for
it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers


def load(window: int = 22, test: int = 60) -> dict[str, Any]:
    """Yearly sunspot numbers 1700 to 2008, of the package statsmodels: windows float32 [N, window, 1] and the year
    behind each, float32 [N, 1]. The last ``test`` years are the test part, so that nothing of the future is trained
    on."""
    from statsmodels.datasets import sunspots

    series = sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, window + 1)
    x, y = windows[:, :-1, None].copy(), windows[:, -1:].copy()
    return {"x_train": x[:-test], "y_train": y[:-test], "x_test": x[-test:], "y_test": y[-test:]}


def build(*, input_shape: tuple[int, int], num_outputs: int, width: int = 32) -> keras.Model:
    """Input [N, T, C], output [N, num_outputs]."""
    series = keras.Input(input_shape, name="series")
    x = layers.GRU(width, name="gru")(series)
    return keras.Model(series, layers.Dense(num_outputs, name="next")(x), name="forecast")
