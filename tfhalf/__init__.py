"""Train Keras models in half precision, ship truly float16 artifacts, prove that they answer like float32."""

from __future__ import annotations

from tfhalf._version import __version__ as __version__
