"""What is unusual about a training, told before it starts: what is ignored, what is small, what stands still."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from tfhalf import config
from tfhalf.config.section import Section
from tfhalf.data import LazyImages, Splits
from tfhalf.data.columns import Columns
from tfhalf.errors import ConfigError
from tfhalf.train import augmentation
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.rounded import EPSILON

FEW = 20  # training items a class
SMALL_TEST = 100  # items
SMALL_BATCH = 4  # for statistics of a batch
SITTING_OUT = 0.1  # share of the training items
_STEP_METHODS = ("train_step", "test_step", "compute_loss", "compute_metrics", "fit")


def parameters(model: keras.Model, optimizer: config.Optimizer) -> str:
    """How many parameters ``model`` has, and how many of them are trained.

    Raises:
        ConfigError: none is.
    """
    total = model.count_params()
    trained = sum(math.prod(variable.shape) for variable in trained_variables(model, optimizer))
    if not trained:
        raise ConfigError(
            f"model.build: none of the {total:,} parameters is trained; leave a layer trainable, or export the "
            "model as it is: tfhalf export"
        )
    return f"{total:,} parameters" + ("" if trained == total else f", {trained:,} of them trained")


def of_model(model: keras.Model) -> list[str]:
    """What a builder's own model says of training, which tfhalf does not do."""
    said = []
    if model.compiled:
        settings = model.get_compile_config() or {}
        listed = ", ".join(
            f"{key} {_name(settings[key])}" for key in ("optimizer", "loss", "metrics") if settings.get(key)
        )
        said.append(
            f"compile() in the builder is ignored ({listed}): train.optimizer says how weights move, task.loss and "
            "task.metrics what is learnt and measured"
        )
    own = [name for name in _STEP_METHODS if getattr(type(model), name) is not _keras_own(model, name)]
    if own:
        said.append(f"{type(model).__name__} overrides {', '.join(own)}, which training never calls")
    return said


def _keras_own(model: keras.Model, name: str) -> object:
    """The method that ``model`` has of Keras."""
    return next(vars(base)[name] for base in type(model).__mro__ if _is_keras(base) and name in vars(base))


def _is_keras(base: type) -> bool:
    return base.__module__.split(".")[0] == "keras"


def _name(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(_name, value))
    if isinstance(value, dict):  # Keras' form of an object in a configuration
        return str(value.get("class_name", value))
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def remarks(pipeline: config.Pipeline, splits: Splits, model: keras.Model) -> list[str]:
    """What is unusual about training ``model`` on ``splits``, a line each."""
    return [
        *_of_float16(pipeline),
        *_of_sizes(pipeline.train, splits, model),
        *_of_values(splits),
        *_without_effect(pipeline, splits),
    ]


def _of_float16(pipeline: config.Pipeline) -> Iterator[str]:
    """What gradients without a loss scale risk, and weights without a float32 copy."""
    if pipeline.precision.float16_gradients and not pipeline.precision.scaled:
        yield (
            "precision.loss_scale.mode none: gradients below 2^-25 are 0, and a step whose loss is not finite ends the "
            "run; dynamic keeps the first and skips the second"
        )
    if pipeline.train.accumulate > 1 and pipeline.train.accumulate_dtype == "float16":
        yield "train.accumulate_dtype float16: gradients below 3e-8 are added up as 0; float32 keeps them"
    if pipeline.precision.policy != "float16":
        return
    if pipeline.precision.rounding == "nearest":
        yield (
            "precision.policy float16 loses each change of a weight below half of its last digit (1/4096 to 1/2048 of "
            "the weight): training may stand still as the learning rate falls; precision.rounding stochastic keeps "
            "their sum, mixed_float16 loses none"
        )
    optimizer = pipeline.train.optimizer
    if optimizer.name in ("adam", "adamw") and optimizer.epsilon < EPSILON:
        yield (
            f"train.optimizer.epsilon: {optimizer.epsilon:g} counts as {EPSILON:.3g}: float16 keeps smaller second "
            "moments as 0, which a step would be divided by"
        )
    if optimizer.ema_momentum is not None or optimizer.lookahead is not None:
        key = "ema_momentum" if optimizer.ema_momentum is not None else "lookahead"
        yield f"train.optimizer.{key}: what it keeps beside the weights is float16, and loses small changes likewise"


def _of_sizes(train: config.Train, splits: Splits, model: keras.Model) -> Iterator[str]:
    items, tests = len(splits.x_train), len(splits.x_test)
    # Where each item has one; a mask has classes by the thousand.
    classes = splits.num_classes if not isinstance(splits.y_test, Columns) and splits.y_test.ndim == 1 else 0
    batch = min(train.batch_size, items)
    steps = items // batch
    if batch < train.batch_size:
        yield f"train.batch_size is {train.batch_size:,} and there are {items:,} training items: a batch holds them all"
    if steps == 1:
        smaller = max(1, items // 10)
        yield f"an epoch is one step; --set train.batch_size={smaller} makes it {items // smaller}"
    out = items - steps * batch
    if out >= SITTING_OUT * items:
        yield f"{out:,} of {items:,} training items sit each epoch out, others each time: they fill no batch"
    if items < FEW * classes:
        yield f"{items:,} training items for {classes} classes are few: what is learned may be the items themselves"
    if tests < SMALL_TEST:
        if classes:
            yield f"one of {tests:,} test items is {100 / tests:.1f} points of accuracy"
        else:
            yield f"{tests:,} test {splits.noun} are few: metrics on them go by chance too"
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if batch < SMALL_BATCH and any(norm.trainable for norm in norms):
        counted = "a single item" if batch == 1 else f"{batch} items"
        yield f"BatchNormalization has batches of {counted} for its statistics: take larger ones, or GroupNormalization"


def _of_values(splits: Splits) -> Iterator[str]:
    """Values that float32, which nets and artifacts take, does not tell apart: times in seconds, long numbers."""
    x = splits.x_train
    if isinstance(x, LazyImages | Columns) or x.dtype in (np.uint8, np.int8, np.float16, np.float32) or x.ndim != 2:
        return
    rounded = x.astype(np.float32).astype(np.float64)
    spread = np.asarray(x, np.float64).std(0)
    lost = np.abs(rounded - x).max(0) > 0.01 * spread
    for column in np.flatnonzero(lost & (spread > 0))[:3]:
        yield (
            f"column {column} holds values about {abs(float(x[0, column])):.6g} that differ by {spread[column]:.2g}: "
            "float32 rounds their differences away; subtract an offset in your data, and from what you send"
        )


def _without_effect(pipeline: config.Pipeline, splits: Splits) -> Iterator[str]:
    """Settings that nothing reads, because another one says otherwise."""
    for key in splits.unread:
        yield f"{key} has no effect: {splits.source} has such a part of its own"
    train, optimizer, schedule = pipeline.train, pipeline.train.optimizer, pipeline.train.schedule
    scale, policy = pipeline.precision.loss_scale, pipeline.precision.policy
    if optimizer.name != "sgd":
        yield from _unread("train.optimizer", optimizer, ("momentum", "nesterov"), "sgd alone has them")
    else:
        yield from _unread("train.optimizer", optimizer, ("beta_1", "beta_2"), "sgd has none")
    if optimizer.name in ("sgd", "lion"):
        yield from _unread("train.optimizer", optimizer, ("epsilon",), f"{optimizer.name} has none")
    if not optimizer.weight_decay:
        yield from _unread("train.optimizer", optimizer, ("coupled_decay", "no_decay"), "weight_decay is 0")
    if train.accumulate == 1:
        yield from _unread("train", train, ("accumulate_dtype",), "accumulate is 1")
    if policy != "float16":
        yield from _unread("precision", pipeline.precision, ("rounding",), f"the policy is {policy}")
    owners = {"milestones": "step", "factor": "step or plateau", "start": "triangular", "peak": "triangular",
              "end": "cosine or triangular", "patience": "plateau", "least": "plateau"}  # fmt: skip
    for key, owner in owners.items():
        if schedule.name not in owner:
            yield from _unread("train.schedule", schedule, (key,), f"it belongs to schedule {owner}")
    late = [milestone for milestone in schedule.milestones if milestone >= train.epochs]
    if schedule.name == "step" and late:
        yield f"train.schedule.milestones {late} lie behind the last of {train.epochs} epochs"
    never = [pattern for pattern, epochs in train.freeze_after.items() if epochs >= train.epochs]
    if never:
        yield f"train.freeze_after: {', '.join(never)} would stand still after the last of {train.epochs} epochs"
    if schedule.warmup_epochs >= train.epochs:
        yield f"train.schedule.warmup_epochs is {schedule.warmup_epochs:g} of {train.epochs} epochs: all is warm-up"
    if not pipeline.precision.float16_gradients:
        yield from _unread("precision.loss_scale", scale, tuple(config.LossScale.model_fields), f"{policy} has none")
    elif scale.mode == "none":
        others = tuple(key for key in config.LossScale.model_fields if key != "mode")
        yield from _unread("precision.loss_scale", scale, others, "its mode is none")
    elif scale.mode == "static":
        moving = ("growth_interval", "growth_factor", "backoff_factor", "floor", "cap", "hysteresis")
        yield from _unread("precision.loss_scale", scale, moving, "its mode is static")
    if not splits.has_images:
        yield from _unread(
            "data.augment", pipeline.data.augment, tuple(config.Augment.model_fields), "for images alone"
        )
        yield from _unread("train", train, ("test_views",), "for images alone")
    else:
        yield from augmentation.remarks(pipeline.data.augment, splits)
    if "onnx" not in pipeline.export.formats:
        yield from _unread("export", pipeline.export, ("opset",), "onnx is not among export.formats")
        yield from _unread("verify", pipeline.verify, ("true_float16_samples",), "onnx is not among export.formats")
    if train.blowup.action == "stop":
        yield from _unread("train.blowup", train.blowup, ("retries",), "train.blowup.action is stop")


def _unread(where: str, section: Section, keys: Iterable[str], why: str) -> Iterator[str]:
    """Those of ``keys`` that are not at their defaults, in one line."""
    fields = type(section).model_fields
    changed = [key for key in keys if getattr(section, key) != fields[key].get_default(call_default_factory=True)]
    if changed:
        yield f"{where}: {', '.join(changed)} {'has' if len(changed) == 1 else 'have'} no effect: {why}"
