"""All that training changes of a pipeline: `TrainState`. A checkpoint holds its values in its order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.random.seed_generator import global_seed_generator

from tfhalf import config
from tfhalf.precision.loss_scale import GuardedLossScaleOptimizer
from tfhalf.system.group import ALONE, Group
from tfhalf.train.batches import Batches
from tfhalf.train.build import ADAPT_IMAGES
from tfhalf.train.initial.drawn import draw_weights
from tfhalf.train.job import Job
from tfhalf.train.optim import optimizers
from tfhalf.train.optim.patterns import trained_variables
from tfhalf.train.optim.schedules import EpochSchedule, learning_rate
from tfhalf.train.record import checkpoint

_SEED = "seed_generator_state"
_APART = 1_000_003  # between the seeds of two processes
HELD_SHARE = 0.01  # of the device's memory, that the state at the start may take until there is a checkpoint


class TrainState:
    """Model, optimizer with its loss scale, the learning rate's factor and the random seeds, as the pipeline's seed
    makes them.

    ``model`` has float32 variables, ``trained`` are those that gradients move. Under the policy ``float16`` these and
    the optimizer's slots are float16, and nothing holds a float32 copy of them. Float32 all the same: the loss scale,
    the statistics of BatchNormalization (`widen_statistics`), gradients summed by ``train.accumulate`` unless
    ``train.accumulate_dtype`` says otherwise.

    In every process of ``group`` it is the same, but for the seeds of layers that draw numbers (Dropout): else all
    parts of a batch would draw alike. `values` and `restore` speak of the seeds as the first process has them.
    """

    def __init__(self, job: Job, group: Group = ALONE) -> None:
        self._apart = group.rank * _APART
        settings, precision = job.pipeline.train, job.pipeline.precision
        self._seed = job.pipeline.seed
        self.model = seeded_model(job)
        self._set_apart(self.model.variables)
        self.trained = trained_variables(self.model, settings.optimizer)
        optimizer, self.rate = optimizer_of(job.pipeline, len(job.splits.x_train))
        if precision.scaled:
            optimizer = optimizers.wrap(optimizer, precision.loss_scale)
        optimizer.build(self.trained)
        self.optimizer = optimizer
        if job.initial is not None:
            scale = precision.loss_scale
            job.initial.fill_slots(optimizer, (scale.floor, scale.cap) if scale.mode == "dynamic" else None)
        # Of layers that draw numbers and name no seed. Made here at the latest, which takes a number from Python's own.
        self.seeds = global_seed_generator()
        self.reset_seeds()

    def reset_seeds(self) -> None:
        """Undo what building other nets has drawn since."""
        self.seeds.state.assign([self._seed + self._apart, 0])

    @property
    def guarded(self) -> bool:
        """Whether a loss scale stands around the optimizer."""
        return isinstance(self.optimizer, GuardedLossScaleOptimizer)

    @property
    def inner(self) -> keras.optimizers.Optimizer:
        """The optimizer that moves the weights, which a loss scale may stand around."""
        return getattr(self.optimizer, "inner_optimizer", self.optimizer)

    @property
    def variables(self) -> list[Any]:
        """All that training changes: model, optimizer and loss scale, random seeds, the learning rate's factor."""
        factor = [self.rate.factor] if isinstance(self.rate, EpochSchedule) else []
        return [*self.model.variables, *self.optimizer.variables, *factor, self.seeds.state]

    def names(self) -> dict[str, list[str]]:
        """Paths of `variables`: of the ``model``, and of the ``other`` ones."""
        first, rest = self.model.variables, self.variables[len(self.model.variables) :]
        return {"model": [variable.path for variable in first], "other": [variable.path for variable in rest]}

    def values(self) -> list[np.ndarray]:
        """Copies of what `variables` hold now."""
        # By Keras' convert_to_numpy each variable takes twice as long, and a training of a second has many.
        return [self._firsts(variable, variable.value.numpy()) for variable in self.variables]

    def held(self) -> list[Any]:
        """What `variables` hold now, as tensors that nothing changes. They cost no time, but a second state of memory
        on the device from the next step on."""
        return [self._firsts(variable, variable.value.read_value()) for variable in self.variables]

    def to_go_back_to(self, memory_bytes: int | None) -> list[Any]:
        """What `variables` hold now: `held` where that is little of the device's memory, else `values`.

        Args:
            memory_bytes: the device's; None where it is not known.
        """
        size = sum(variable.value.dtype.size * math.prod(variable.shape) for variable in self.variables)
        return self.held() if memory_bytes and size <= HELD_SHARE * memory_bytes else self.values()

    def restore(self, values: Sequence[Any]) -> None:
        """Put ``values``, in the order of `variables`, in their place.

        Raises:
            ResumeError: they are not those of these variables.
        """
        checkpoint.restore(values, self.variables)
        self._set_apart(self.variables)

    def _set_apart(self, variables: Sequence[Any]) -> None:
        """Make seeds, which are the first process's, this one's."""
        for variable in variables if self._apart else ():
            if variable.name == _SEED:
                variable.assign(variable.value + np.array([self._apart, 0]))

    def _firsts(self, variable: Any, value: Any) -> Any:
        """``value`` of ``variable`` as the first process has it."""
        return value - np.array([self._apart, 0]) if self._apart and variable.name == _SEED else value

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What the block does to `variables` is undone after it."""
        before = self.values()
        yield
        self.restore(before)

    def rates(self, iterations: Any) -> np.ndarray:
        """Learning rates at ``iterations``, integers of any shape; float32 of that shape."""
        iterations = np.array(keras.ops.convert_to_numpy(iterations), np.int32)
        if isinstance(self.rate, EpochSchedule):
            return self.rate.at(iterations)
        return np.full(iterations.shape, keras.ops.convert_to_numpy(self.inner._learning_rate), np.float32)

    def multiply_rate(self, factor: float, least: float = 0.0) -> bool:
        """Go on with ``factor`` times the learning rate, or ``least`` of the schedule's; False where it is as low
        already. A callback that sets one has the last word."""
        variable = self.rate.factor if isinstance(self.rate, EpochSchedule) else self.inner.learning_rate
        before = float(variable.numpy())
        variable.assign(max(before * factor, least))
        return float(variable.numpy()) < before

    def loss_scale(self) -> float:
        """The scale in force; 1 for policies without one."""
        return float(self.optimizer.dynamic_scale.value.numpy()) if self.guarded else 1.0

    def finalize(self) -> None:
        """Training is over: averaged or slow weights, where there are any, become the weights."""
        self.optimizer.finalize_variable_values(self.trained)


def seeded_model(job: Job) -> keras.Model:
    """The pipeline's net under its policy, as its seed, the data (`adapt`) and the weights that it starts from make it;
    and nothing but the net.

    Under ``float16`` weights are those that the mixed policies draw, rounded: Keras draws others in float16, and then
    policies would differ in their start, too.
    """
    drawn = None
    if job.pipeline.precision.policy == "float16":
        keras.utils.set_random_seed(job.pipeline.seed)
        drawn = job.model("mixed_float16").get_weights()
    keras.utils.set_random_seed(job.pipeline.seed)
    model = job.model()
    if drawn is not None:
        model.set_weights(drawn)
    if job.pipeline.model.initializers:
        draw_weights(model, job.pipeline.model.initializers, job.pipeline.seed)
    adapt(model, job)
    if job.initial is not None:
        job.initial.fill(model)
    return model


def adapt(model: keras.Model, job: Job) -> None:
    """Let the model file set what the data decides, if it has something to set."""
    job.builder.adapt(model, lambda: job.preprocess.apply(job.splits.x_train[:ADAPT_IMAGES]))


def optimizer_of(pipeline: config.Pipeline, items: int) -> tuple[keras.optimizers.Optimizer, Any]:
    """The optimizer of ``pipeline`` over ``items`` training items, without a loss scale, and its learning rate: a
    number, or a schedule."""
    settings, batches = pipeline.train, Batches(pipeline.train, items)
    rate = learning_rate(batches.rate_schedule, settings.optimizer.learning_rate, batches.plan)
    stochastic = pipeline.precision.rounding == "stochastic"
    optimizer = optimizers.make_optimizer(
        settings.optimizer,
        rate,
        settings.accumulate,
        sum(batches.plan),
        accumulate_dtype=settings.accumulate_dtype,
        rounding_seed=pipeline.seed if stochastic else None,
    )
    return optimizer, rate
