"""Calls of a net's layers, looked at as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfhalf.precision.policy import flat_layers

Tell = Callable[[keras.Layer, Any, Any], None]


@contextmanager
def watched(net: keras.Model, tell: Tell) -> Iterator[None]:
    """Within the block ``tell(layer, arguments, out)`` is called after each call of a layer of ``net``, in the order
    in which the calls end. ``arguments`` are a nest. A layer whose call is another's already is left out."""

    def watch(layer: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        def seen(*arguments: Any, **named: Any) -> Any:
            out = call(*arguments, **named)
            tell(layer, (arguments, named), out)
            return out

        return seen

    layers = [layer for layer in flat_layers(net) if "call" not in vars(layer)]
    for layer in layers:
        layer.call = watch(layer, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call
