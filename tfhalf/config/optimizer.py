"""The sections of a pipeline file that say how weights are moved, and how fast."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tfhalf.config.section import NonNegative, Patterns, Positive, Section, check_patterns

Epochs = Annotated[float, Field(ge=0, le=100_000)]


class Muon(Section):
    """Kernels moved by Muon (`tfhalf.train.optim.muon`): ``match`` are regular expressions searched in variable paths
    such as ``conv1/kernel``. For kernels of Conv and Dense layers, which keep their filters last.

    ``learning_rate`` follows the schedule that `Optimizer.learning_rate` follows. ``steps`` is the number of
    Newton-Schulz rounds. ``normalize`` sets each kernel's norm to the root of its number of filters before every step,
    in place of weight decay; without it, decay is decoupled.
    """

    match: Annotated[Patterns, Field(min_length=1)]
    learning_rate: Positive = 0.24
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.6
    nesterov: bool = True
    steps: Annotated[int, Field(ge=1, le=10)] = 3
    normalize: bool = True

    @field_validator("match")
    @classmethod
    def _patterns(cls, value: Patterns) -> Patterns:
        check_patterns(value)
        return value


class Lookahead(Section):
    """Slow weights that go part of the way to the trained ones ``every`` applied steps, and in the end are the result.

    The part falls from 1 to ``alpha`` with the ``power`` of the share of training that is done; power 0: it is
    ``alpha`` throughout.
    """

    every: Annotated[int, Field(ge=1)] = 5
    alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    power: NonNegative = 0.0


class Optimizer(Section):
    """A Keras optimizer by its name, with what is set on it.

    ``weight_decay`` is decoupled (Loshchilov and Hutter 2019: multiplied by the learning rate, beside the gradient)
    unless ``coupled_decay`` adds it to the gradient (L2, as He et al. 2015). ``no_decay`` and ``lr_multipliers`` are
    regular expressions searched in variable paths such as ``conv1/kernel``; a multiplier of 0 freezes a variable.
    ``muon`` moves the variables that it matches in this optimizer's place.
    """

    name: Literal["sgd", "adam", "adamw", "lion"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Positive = 1e-7
    weight_decay: NonNegative = 0.0
    coupled_decay: bool = False
    no_decay: Patterns = ()
    lr_multipliers: dict[str, NonNegative] = Field(default_factory=dict)
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None
    muon: Muon | None = None
    lookahead: Lookahead | None = None

    @field_validator("name", mode="before")
    @classmethod
    def _any_case(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value  # Keras writes SGD and AdamW

    @field_validator("no_decay", "lr_multipliers")
    @classmethod
    def _patterns(cls, value: Any) -> Any:
        check_patterns(value)
        return value

    @model_validator(mode="after")
    def _one_clip(self) -> Optimizer:
        if self.clip_norm and self.clip_value:
            raise ValueError("clip_norm and clip_value exclude each other: keep one")
        return self

    @model_validator(mode="after")
    def _one_average(self) -> Optimizer:
        if self.lookahead and self.ema_momentum:
            raise ValueError("lookahead and ema_momentum exclude each other, as only one can be the result: keep one")
        return self


class Schedule(Section):
    """Learning rate over training, as a multiple of ``optimizer.learning_rate``. Lengths are in epochs.

    ``step`` multiplies by ``factor`` at each epoch of ``milestones``; ``cosine`` ends at ``end``; ``triangular`` climbs
    from ``start`` to 1 at the share ``peak`` of training and falls to ``end``. ``plateau`` multiplies by ``factor``,
    down to ``least``, after ``patience`` epochs in which the monitored metric of the validation part (the training
    loss, where there is none) was no better than before. ``warmup_epochs`` climbs from 0 before any of them.

    ``decay: batch``, of ``step`` and ``plateau``, keeps the rate and has the batch grow, by 5 where ``factor`` is 0.2,
    up to ``max_batch_size`` (by default a tenth of the training items). What would take it beyond that lowers the rate.
    """

    name: Literal["constant", "step", "cosine", "triangular", "plateau"] = "constant"
    warmup_epochs: Epochs = 0.0
    milestones: tuple[Epochs, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    start: Annotated[float, Field(ge=0, le=1)] = 0.2
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.23
    end: Annotated[float, Field(ge=0, le=1)] = 0.0
    patience: Annotated[int, Field(ge=1, le=100_000)] = 3
    least: Annotated[float, Field(ge=0, lt=1)] = 0.0
    decay: Literal["rate", "batch"] = "rate"
    max_batch_size: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @field_validator("milestones")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"milestones must rise, received {list(value)}")
        return value

    @model_validator(mode="after")
    def _milestones(self) -> Schedule:
        if self.name == "step" and not self.milestones:
            raise ValueError("schedule 'step' needs milestones, for example [60, 90]")
        return self

    @model_validator(mode="after")
    def _growing(self) -> Schedule:
        if self.decay == "rate":
            if self.max_batch_size is not None:
                raise ValueError("max_batch_size bounds a batch that grows: set decay to batch, or leave it out")
            return self
        if self.name not in ("step", "plateau"):
            raise ValueError(f"decay 'batch' needs the schedule 'step' or 'plateau', received {self.name!r}")
        times = round(1 / self.factor)
        if abs(times * self.factor - 1) > 1e-5:
            raise ValueError(
                f"decay 'batch' multiplies the batch by 1/factor, which has to be a whole number: received "
                f"{self.factor:g}, take {1 / times:.6g}"
            )
        if any(milestone != int(milestone) for milestone in self.milestones):
            raise ValueError(f"decay 'batch' needs milestones that are whole epochs, received {list(self.milestones)}")
        return self
