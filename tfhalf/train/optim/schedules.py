"""Learning rate over training, counted in optimizer iterations, which a skipped step does not advance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import keras
import numpy as np
from keras import ops

from tfhalf.config import Schedule


def multiplier(config: Schedule, epoch: float, epochs: float) -> float:
    """The schedule as a plain function: share of the peak learning rate at ``epoch`` (a fraction) of ``epochs``."""
    return float(_multiplier(config, np.asarray([epoch], np.float32), float(epochs), np)[0])


def _multiplier(config: Schedule, epoch: Any, epochs: float, math: Any) -> Any:
    """``math`` is Keras' ops or numpy, which have these functions by the same names."""
    warmup = config.warmup_epochs
    span = max(epochs - warmup, 1e-9)
    share = math.clip((epoch - warmup) / span, 0.0, 1.0)
    if config.name in ("constant", "plateau"):
        value = math.ones_like(epoch)
    elif config.name == "step":
        value = math.ones_like(epoch)
        for milestone in config.milestones:
            value = value * math.where(epoch >= milestone, config.factor, 1.0)
    elif config.name == "cosine":
        # Loshchilov and Hutter, arXiv:1608.03983, equation 5, without restarts
        value = config.end + (1 - config.end) * 0.5 * (1 + math.cos(share * 3.141592653589793))
    else:
        rise = config.start + (1 - config.start) * share / config.peak
        fall = 1 + (config.end - 1) * (share - config.peak) / (1 - config.peak)
        value = math.where(share < config.peak, rise, fall)
    if warmup:
        value = value * math.minimum(epoch / warmup, 1.0)
    return value


def learning_rate(config: Schedule, peak: float, steps: tuple[int, ...]) -> float | EpochSchedule:
    """What an optimizer is made with: the schedule over epochs of so many ``steps``, or, where that is constant,
    ``peak``, which callbacks may set."""
    if config.name == "constant" and not config.warmup_epochs:
        return peak
    return EpochSchedule(config, peak, steps, len(steps))


class EpochSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """``learning_rate`` times `multiplier`, over ``epochs`` of ``steps_per_epoch`` iterations: one number, or one for
    each.

    ``factor``, a variable, multiplies all of it: 1 until a run that has blown up goes back and on more slowly, or gets
    no better (schedule ``plateau``).
    """

    def __init__(
        self, config: Schedule, learning_rate: float, steps_per_epoch: int | tuple[int, ...], epochs: int
    ) -> None:
        self.config, self.peak = config, learning_rate
        self.steps_per_epoch, self.epochs = steps_per_epoch, epochs
        self._parts = [*_parts([steps_per_epoch] if isinstance(steps_per_epoch, int) else steps_per_epoch)]
        self.factor = keras.Variable(1.0, dtype="float32", trainable=False, name="rate_factor")

    def __call__(self, step: Any) -> Any:
        """Learning rate, float32, at iteration ``step``."""
        return self._rate(ops.cast(step, "float32"), ops) * ops.convert_to_tensor(self.factor)

    def at(self, iterations: np.ndarray) -> np.ndarray:
        """The same for ``iterations``, integers of any shape, by numpy: float32 of that shape.

        In TensorFlow, operation by operation, a training of a second would spend a tenth of it here.
        """
        rate = self._rate(np.atleast_1d(iterations).astype(np.float32), np).astype(np.float32)
        return np.asarray(rate * np.float32(self.factor.numpy())).reshape(np.shape(iterations))

    def _rate(self, step: Any, math: Any) -> Any:
        # The middle of the step: the first is then not at rate 0, nor the last.
        epoch = (step + 0.5) / self._parts[0][2]
        for first_step, first_epoch, steps in self._parts[1:]:
            epoch = math.where(step >= first_step, first_epoch + (step - first_step + 0.5) / steps, epoch)
        return self.peak * _multiplier(self.config, epoch, float(self.epochs), math)

    def get_config(self) -> dict[str, Any]:
        """Configuration as plain values."""
        return {
            "config": self.config.model_dump(),
            "learning_rate": self.peak,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
        }


def _parts(steps: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Epochs of equal length that follow one another: their first iteration, their first epoch, iterations of each."""
    iteration = epoch = 0
    for length, equal in groupby(steps):
        yield iteration, epoch, length
        count = len([*equal])
        iteration, epoch = iteration + count * length, epoch + count
