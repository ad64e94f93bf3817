"""A pipeline's model, built under a dtype policy by the function that the pipeline names."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tfhalf import config
from tfhalf.config.refs import resolve, sibling, user_code
from tfhalf.errors import ConfigError, RefError
from tfhalf.precision.layer_names import numbered_anew
from tfhalf.precision.policy import keep_float32 as keep_layers_float32
from tfhalf.precision.policy import policy, widen_statistics
from tfhalf.tasks import Several, Task
from tfhalf.train import hub
from tfhalf.train.heads import Closing, as_logits, closing_activation
from tfhalf.train.remarks import of_model

ADAPT_IMAGES = 2000  # of the training set, that `adapt` is shown


class Builder:
    """Builds the same net as often as needed: mixed to train, float32 to judge."""

    def __init__(
        self,
        section: config.Model,
        base: Path,
        *,
        input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]],
        task: Task,
        dtypes: Mapping[str, str] | None = None,
        categories: Mapping[str, int] | None = None,
    ) -> None:
        """Resolve the builder.

        Args:
            section: what it is, and its arguments.
            base: the folder that its file is relative to.
            input_shape: of an item; of several inputs by name.
            task: what its models are to answer.
            dtypes: of several inputs those that are not floats.
            categories: of inputs of categories or words how many there are, for builders that take ``categories``.
        """
        self.section, self.input_shape, self.task = section, input_shape, task
        self.dtypes, self.categories = dict(dtypes or {}), dict(categories or {})
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
            ConfigError: its output is not what the task takes, or a pattern matches no layer.
        """
        input_shape = self.input_shape
        if size is not None and isinstance(input_shape, tuple):
            input_shape = (size, size, *input_shape[2:])
        with user_code(f"model.build: {self.ref} fails"), policy(policy_name), numbered_anew():
            model = self.function(**{**self.arguments, "input_shape": input_shape})
            left = keras.config.dtype_policy().name
        if not isinstance(model, keras.Model):
            raise RefError(f"model.build: {self.ref} returned a {type(model).__name__}, accepted: a keras.Model")
        if left != policy_name:
            raise RefError(f"model.build: {self.ref} changed the global dtype policy; the pipeline sets it")
        self.remarks = of_model(model)
        with policy(policy_name):
            model = self._bare(self._with_graph(model, input_shape))
        if policy_name == "float16":
            widen_statistics(model)
        if keep_float32 and policy_name != "float32":
            keep_layers_float32(model, keep_float32)
        return model

    def _bare(self, model: keras.Model) -> keras.Model:
        """``model`` giving the task's answers: of classes logits, without a closing softmax."""
        if isinstance(self.task, Several):
            return self._several(model, self.task)
        if len(model.outputs) != 1:
            raise ConfigError(
                f"model.build: the model has {len(model.outputs)} outputs and the pipeline one task; name a task for "
                "each under outputs"
            )
        shape = model.outputs[0].shape
        if self.task.class_names and len(shape) >= 2:
            closing: Closing = "softmax" if self.task.exclusive and shape[-1] > 1 else "sigmoid"
            model, had = as_logits(model, closing)
            if had:
                self.remarks.append(f"the closing {closing} is taken off: loss and artifacts compute it in float32")
        if activation := closing_activation(model):
            answers = "logits" if self.task.class_names else "scaled targets"
            self.remarks.append(
                f"the last layer ends in {activation}, which bounds its answers; {answers} take any value: leave it out"
            )
        self.task.check_answers(model.outputs[0].shape, self.ref)
        return model

    def _several(self, model: keras.Model, task: Several) -> keras.Model:
        """``model`` giving the answers of several tasks by the outputs' names."""
        struct = model._outputs_struct
        if not isinstance(struct, dict):
            names = list(task.tasks)
            own = [str(name) for name in model.output_names]
            named = own if set(own) == set(names) else names
            if len(model.outputs) != len(names):
                task.check_answers(dict.fromkeys(own), self.ref)
            struct = dict(zip(named, model.outputs, strict=True))
        shapes = {name: tuple(tensor.shape) for name, tensor in struct.items()}
        task.check_answers(shapes, self.ref)
        for name, tensor in struct.items():
            part = keras.Model(model.inputs, tensor)
            if task.tasks[name].class_names and (activation := closing_activation(part)):
                raise ConfigError(
                    f"model.build: the output {name!r} of {self.ref} ends in {activation}; give logits, without "
                    "activation: what belongs behind them is computed in float32"
                )
        if struct is model._outputs_struct:
            return model
        return keras.Model(model._inputs_struct, {name: struct[name] for name in task.tasks}, name=model.name)

    def _with_graph(
        self, model: keras.Model, input_shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    ) -> keras.Model:
        """``model`` itself, built; a subclass of keras.Model becomes the one layer of a functional model."""
        if isinstance(input_shape, Mapping):
            return self._of_several(model, input_shape)
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

    def _of_several(self, model: keras.Model, shapes: Mapping[str, tuple[int, ...]]) -> keras.Model:
        """``model`` of several inputs, which has those of the data by name."""
        if hasattr(model, "operations"):
            own = [tensor.name for tensor in model.inputs]
            if set(own) != set(shapes):
                raise ConfigError(
                    f"model.build: {self.ref} takes the inputs {', '.join(own)}, the data has {', '.join(shapes)}; "
                    "name them alike: keras.Input(shape, name='NAME')"
                )
            return model
        inputs = {name: keras.Input(shape, name=name, dtype=self.dtypes.get(name)) for name, shape in shapes.items()}
        with user_code(f"model.build: {self.ref} cannot be called on the inputs {', '.join(shapes)}"):
            return keras.Model(inputs, model(inputs), name=f"{model.name}_graph")

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
            head = {"input_shape": self.input_shape, "classes": self.task.width, "classifier_activation": None}
            return {"weights": None, **head, **args}
        try:
            accepted = inspect.signature(self.function).parameters
        except (TypeError, ValueError):
            return {"input_shape": self.input_shape, "num_classes": self.task.width, **args}
        width = "num_outputs" if "num_outputs" in accepted else "num_classes"
        outputs = self.task
        size = (
            {name: one.width for name, one in outputs.tasks.items()} if isinstance(outputs, Several) else outputs.width
        )
        own: dict[str, Any] = {"input_shape": self.input_shape, width: size}
        if "categories" in accepted:
            own["categories"] = self.categories
        if not any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            for name in args:
                if name not in accepted:
                    raise ConfigError(f"model.args: {self.ref} takes no {name!r} (accepted: {', '.join(accepted)})")
            if "input_shape" not in accepted or (width not in accepted and self.task.class_names):
                missing = "input_shape" if "input_shape" not in accepted else width
                raise RefError(
                    f"model.build: {self.ref} takes no {missing!r}; a builder is "
                    f"build(*, input_shape, {width}, **args) -> keras.Model"
                )
            own = {name: value for name, value in own.items() if name in accepted}
        return {**own, **args}
