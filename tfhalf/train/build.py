"""A pipeline's model, built under a dtype policy by the function that the pipeline names."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from tfhalf import config
from tfhalf.config.refs import resolve, sibling, user_code
from tfhalf.errors import ConfigError, RefError
from tfhalf.precision.layer_names import numbered_anew
from tfhalf.precision.policy import keep_float32 as keep_layers_float32
from tfhalf.precision.policy import policy
from tfhalf.train import hub
from tfhalf.train.heads import as_logits, closing_activation
from tfhalf.train.remarks import of_model

ADAPT_IMAGES = 2000  # of the training set, that `adapt` is shown


class Builder:
    """Builds the same net as often as needed: mixed to train, float32 to judge."""

    def __init__(self, section: config.Model, base: Path, *, input_shape: tuple[int, ...], num_classes: int) -> None:
        self.section, self.input_shape, self.num_classes = section, input_shape, num_classes
        self.ref, self.base = section.build, base
        named = hub.builder if self.ref.startswith(hub.PREFIX) else resolve
        self.function: Callable[..., Any] = named(self.ref, base)
        self.arguments = self._arguments()
        self.remarks: list[str] = []  # what is to be told of the model that was made last
        self.integers = False  # whether its models take int32, which `tfhalf.train.integers` finds out

    def __call__(self, policy_name: str, *, keep_float32: Sequence[str] = (), size: int | None = None) -> keras.Model:
        """The model under ``policy_name``, giving logits.

        Args:
            keep_float32: patterns of the layers that compute in float32, ``precision.keep_float32``.
            size: height and width of its images, where they are not those of the data.

        Raises:
            RefError: the builder fails, or returns no Keras model.
            ConfigError: its output is not [N, num_classes], or a pattern matches no layer.
        """
        input_shape = self.input_shape if size is None else (size, size, *self.input_shape[2:])
        with user_code(f"model.build: {self.ref} fails"), policy(policy_name), numbered_anew():
            model = self.function(**{**self.arguments, "input_shape": input_shape})
            left = keras.config.dtype_policy().name
        if not isinstance(model, keras.Model):
            raise RefError(f"model.build: {self.ref} returned a {type(model).__name__}, accepted: a keras.Model")
        if left != policy_name:
            raise RefError(f"model.build: {self.ref} changed the global dtype policy; the pipeline sets it")
        self.remarks = of_model(model)
        with policy(policy_name):
            model, had_softmax = as_logits(self._with_graph(model, input_shape))
        if had_softmax:
            self.remarks.append("the closing softmax is taken off: loss and artifacts compute it in float32")
        if activation := closing_activation(model):
            self.remarks.append(
                f"the last layer ends in {activation}, which bounds its answers; logits take any value: leave it out"
            )
        classes = model.outputs[0].shape[-1]
        if classes != self.num_classes:
            raise ConfigError(
                f"model.build: {self.ref} gives {classes} outputs, the data has {self.num_classes} classes; give one "
                "for each class, without activation: Dense(num_classes)"
            )
        if keep_float32 and policy_name != "float32":
            keep_layers_float32(model, keep_float32)
        return model

    def _with_graph(self, model: keras.Model, input_shape: tuple[int, ...]) -> keras.Model:
        """``model`` itself, built; a subclass of keras.Model becomes the one layer of a functional model."""
        image = keras.Input(input_shape, name="image", dtype="int32" if self.integers else None)
        if isinstance(model, keras.Sequential) or hasattr(model, "operations"):
            if not model.built and self.integers:
                model = keras.Sequential([image, *model.layers], name=model.name)
            elif not model.built:
                model.build((None, *input_shape))
            if self.integers and not keras.backend.is_int_dtype(model.inputs[0].dtype):
                # Given floats, a mixed model would round them to half precision before anything looks them up.
                return keras.Model(image, model(image), name=f"{model.name}_graph")
            return model
        fails = (
            f"model.build: {self.ref} returned a {type(model).__name__} that cannot be called on images of shape "
            f"{input_shape}"
        )
        with user_code(fails), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Keras warns of a failing call() before it raises
            return keras.Model(image, model(image), name=f"{model.name}_graph")

    def adapt(self, model: keras.Model, images: Callable[[], Any]) -> bool:
        """Call the model file's ``adapt(model, x)``, if it has one, with what ``images`` returns: normalised training
        images. True if it has."""
        function = sibling(self.function, "adapt") if ".py:" in self.ref else None
        if function is None:
            return False
        with user_code(f"model.build: adapt() beside {self.ref} fails"):
            function(model, images())
        return True

    def _arguments(self) -> dict[str, Any]:
        args = dict(self.section.args)
        if self.ref.startswith("keras.applications:"):
            # Random weights, unless the pipeline asks for others; logits instead of a float16 softmax.
            own = {"input_shape": self.input_shape, "classes": self.num_classes, "classifier_activation": None}
            return {"weights": None, **own, **args}
        try:
            accepted = inspect.signature(self.function).parameters
        except (TypeError, ValueError):
            return {"input_shape": self.input_shape, "num_classes": self.num_classes, **args}
        if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            for name in args:
                if name not in accepted:
                    raise ConfigError(f"model.args: {self.ref} takes no {name!r} (accepted: {', '.join(accepted)})")
            for name in ("input_shape", "num_classes"):
                if name not in accepted:
                    raise RefError(
                        f"model.build: {self.ref} takes no {name!r}; a builder is "
                        "build(*, input_shape, num_classes, **args) -> keras.Model"
                    )
        return {"input_shape": self.input_shape, "num_classes": self.num_classes, **args}
