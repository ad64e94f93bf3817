"""A model in memory as a source: a copy that answers alike, of everything that the zoo holds."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import zoo

from tfhalf.errors import ArtifactError
from tfhalf.export.inputs import draw
from tfhalf.export.interface import interface_of
from tfhalf.export.load.in_memory import source_of
from tfhalf.export.load.model import Source
from tfhalf.precision.policy import policy

REFUSED = {"stateful": "is a stateful LSTM"}
RANDOM = "vae"


def answers(model: keras.Model) -> list[np.ndarray]:
    interface = interface_of(Source(model, "", {}), None)
    inputs, _ = draw.draw(model, interface.inputs)
    tensors = [keras.ops.convert_to_tensor(x[:2]) for x in inputs.values()]
    out = interface.call(lambda *given, **named: model(*given, **named, training=False), tensors)
    return [np.asarray(leaf) for leaf in keras.tree.flatten(out) if leaf is not None]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("entry", [entry for entry in zoo.ENTRIES if entry.fast], ids=lambda entry: entry.name)
def test_a_copy_answers_alike(entry: zoo.Entry) -> None:
    with policy(entry.policy):
        model = entry.build()
        if entry.name in REFUSED:
            with pytest.raises(ArtifactError, match=REFUSED[entry.name]):
                source_of(model)
            return
        source = source_of(model)
        assert keras.config.dtype_policy().name == entry.policy
    assert source.model is not model
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in source.model.variables}
    assert same(model.get_weights(), source.model.get_weights())
    assert [layer.dtype_policy.name for layer in model.layers] == [
        layer.dtype_policy.name for layer in source.model.layers
    ]
    if entry.name != RANDOM:
        assert same(answers(model), answers(source.model))


def test_facts_for_the_manifest() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)], name="a net.1")
    source = source_of(model)
    assert (source.name, source.facts) == (
        "a_net.1",
        {
            "kind": "object",
            "reference": "a model in memory",
            "class": "Sequential",
            "layers": 2,
            "parameters": 9,
            "policies": ["float32"],
        },
    )


def test_what_its_layers_name_can_be_given() -> None:
    def gate(x: Any) -> Any:
        return x * keras.ops.sigmoid(x)

    class Holder(keras.layers.Layer):
        """Names a function in its configuration that it does not hold as an attribute of its own."""

        def call(self, x: Any) -> Any:
            return gate(x)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "inner": keras.saving.serialize_keras_object(gate)}

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Holder:
            keras.saving.deserialize_keras_object(config.pop("inner"))
            return cls(**config)

    model = keras.Sequential([keras.Input((2,)), Holder()])
    with pytest.raises(ArtifactError, match=r"Keras cannot save it and load it again: .*custom_objects"):
        source_of(model)
    assert isinstance(source_of(model, {"gate": gate}).model.layers[0], Holder)
