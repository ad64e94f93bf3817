"""The pipeline file as strict, frozen types.

A pipeline is YAML: ``name``, ``model`` and ``data`` are needed, the rest has defaults. Unknown keys are refused with
the nearest valid one, and every error is one line that names file, line and key (`tfhalf.config.yaml_file` reads the
file and words the errors). Overrides (``train.epochs=3``) pass the same checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from tfhalf.config.augment import Colour as Colour
from tfhalf.config.augment import RandAugment as RandAugment
from tfhalf.config.data import Augment as Augment
from tfhalf.config.data import Data as Data
from tfhalf.config.data import HeldOut as HeldOut
from tfhalf.config.data import Normalize as Normalize
from tfhalf.config.data import Records as Records
from tfhalf.config.data import Text as Text
from tfhalf.config.guard import Blowup as Blowup
from tfhalf.config.model import Model as Model
from tfhalf.config.optimizer import Lookahead as Lookahead
from tfhalf.config.optimizer import Muon as Muon
from tfhalf.config.optimizer import Optimizer as Optimizer
from tfhalf.config.optimizer import Schedule as Schedule
from tfhalf.config.section import LayerPatterns, Patterns, Positive, Section, check_patterns
from tfhalf.config.stages import Stage as Stage
from tfhalf.config.stages import check_stages, with_epochs
from tfhalf.config.task import Output as Output
from tfhalf.config.task import Task as Task
from tfhalf.config.yaml_file import check, read, write

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
# Field descriptions stand in for the words that error messages otherwise make from types and bounds.
NAME_WORDS = "1 to 64 letters, digits, '_', '-' or '.', the first a letter or a digit"


class Callback(Section):
    """A Keras callback, called at the beginning and the end of training and of every epoch.

    ``build`` is a class or a function that returns one: ``keras.callbacks:EarlyStopping``, ``file.py:name`` (relative
    to the pipeline file) or ``package.module:name``; ``args`` are its keyword arguments.
    """

    build: Annotated[str, Field(min_length=3)]
    args: dict[str, Any] = Field(default_factory=dict)


class Train(Section):
    """``test_views`` averages the model's answers over mirrored (and shifted) images in the test figure printed after
    training; exported artifacts and their verification always use the plain image.

    ``sizes``: heights (and widths) in pixels that square images are scaled down to, an equal part of the epochs each:
    [24, 28, 32] spends the first third on images of 24x24. The model must have the same weights for all of them.

    ``freeze_after``: patterns of variables' paths, and how many epochs train what they match; after these it stands
    still, which spares the gradient that would have to reach it. Each number of them takes a compilation of its own.

    ``stages`` follow one another, and their epochs add up to ``epochs``, which may then be left out. They say all that
    ``sizes`` and ``freeze_after`` do, and exclude both.

    ``accumulate`` adds up the gradients of so many batches, and moves the weights by their mean. The sums are kept in
    ``accumulate_dtype``: float16 takes half the memory, and flushes gradients below 3e-8 to 0.

    On several devices each computes an equal part of every batch. ``reduce_dtype`` is what gradients are averaged in:
    float16 halves the bytes between devices. ``sync_batch_norm`` has BatchNormalization take its statistics over the
    whole batch, as one device would; else each takes them over its part, and what evaluation uses is their mean.

    ``feed``: ``resident`` keeps the training set in the device's memory, ``streamed`` brings it there block by block;
    ``auto`` is resident where it fits. Both train the same.

    ``remat``: regular expressions searched in layer paths; what such layers compute is not kept for the backward pass,
    but worked out again there, in as many parts as leave the least to keep. ``auto``: as few layers as bring the step
    within ``remat_gib``, by default within the device's memory, by what XLA says of the compiled step.

    ``checkpoint_seconds`` lie between two checkpoints, 0 for as many as there can be; ``keep_checkpoints`` of them are
    kept, and that of the best validation accuracy.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    accumulate_dtype: Literal["float32", "float16"] = "float32"
    reduce_dtype: Literal["float32", "float16"] = "float32"
    sync_batch_norm: bool = False
    sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = ()
    freeze_after: dict[str, Annotated[int, Field(ge=1, le=100_000)]] = Field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    xla: Literal["auto", "on", "off"] = "auto"
    feed: Literal["auto", "resident", "streamed"] = "auto"
    remat: LayerPatterns = ()
    remat_gib: Positive | None = None
    test_views: Literal["none", "mirror", "mirror_shift"] = "none"
    callbacks: tuple[Callback, ...] = ()
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    keep_checkpoints: Annotated[int, Field(ge=1, le=1000)] = 2
    blowup: Blowup = Blowup()

    @field_validator("freeze_after")
    @classmethod
    def _patterns(cls, value: dict[str, int]) -> dict[str, int]:
        check_patterns(value)
        return value

    @model_validator(mode="after")
    def _remat(self) -> Train:
        if self.remat_gib is not None and self.remat != "auto":
            raise ValueError("remat_gib is a budget for remat: auto; say that, or leave it out")
        return self

    @model_validator(mode="before")
    @classmethod
    def _epochs_of_stages(cls, values: Any) -> Any:
        return with_epochs(values)

    @model_validator(mode="after")
    def _stages(self) -> Train:
        check_stages(self)
        return self

    @model_validator(mode="after")
    def _an_epoch_each(self) -> Train:
        if len(self.sizes) > self.epochs:
            raise ValueError(f"sizes needs an epoch each, received {len(self.sizes)} sizes for {self.epochs} epochs")
        return self


class LossScale(Section):
    """Loss scaling with a floor and a cap (used by ``mixed_float16`` and ``float16``).

    ``dynamic``: the scale starts at ``initial``, is multiplied by ``growth_factor`` after ``growth_interval`` finite
    steps, and by ``backoff_factor`` at a step with a non-finite gradient, which is skipped. With ``hysteresis`` n it is
    lowered at the n-th such step only, and those after it; counting starts anew when the scale has grown, with
    ``consecutive_hysteresis`` at every finite step. ``static``: the scale stays at ``initial``; non-finite steps are
    skipped still. ``none``: the loss is not scaled and no step is skipped; one whose loss is not finite ends the run,
    as in float32 (``train.blowup``). All scales and factors are powers of two: so scaling rounds nothing.

    ``max_skipped`` skipped steps in a row end the run.
    """

    mode: Literal["dynamic", "static", "none"] = "dynamic"
    initial: Annotated[float, Field(ge=1, le=2.0**126)] = 2.0**15
    growth_interval: Annotated[int, Field(ge=1)] = 2000
    growth_factor: Annotated[float, Field(ge=2, le=2.0**16)] = 2.0
    backoff_factor: Annotated[float, Field(ge=2.0**-16, le=0.5)] = 0.5
    floor: Annotated[float, Field(ge=2.0**-24, le=2.0**126)] = 1.0
    cap: Annotated[float, Field(ge=1, le=2.0**126)] = 2.0**24
    hysteresis: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    consecutive_hysteresis: bool = False
    max_skipped: Annotated[int, Field(ge=1, le=2**31 - 1)] = 50

    @field_validator("initial", "growth_factor", "backoff_factor", "floor", "cap")
    @classmethod
    def _power_of_two(cls, value: float) -> float:
        mantissa, exponent = math.frexp(value)
        if mantissa != 0.5:
            below, above = math.ldexp(0.5, exponent), math.ldexp(1.0, exponent)
            raise ValueError(
                f"received {value:.15g}, accepted: a power of two, which rounds no gradient; "
                f"take {below:.15g} or {above:.15g}"
            )
        return value

    @model_validator(mode="after")
    def _ordered(self) -> LossScale:
        if self.mode == "dynamic" and not self.floor <= self.initial <= self.cap:
            received = f"{self.floor:g}, {self.initial:g}, {self.cap:g}"
            raise ValueError(f"floor <= initial <= cap is needed, received {received}")
        return self


class Precision(Section):
    """``policy``: the mixed ones keep weights in float32 and compute in half precision; ``float16`` has no float32 copy
    of the weights, and a change of less than half a weight's last digit is lost, unless ``rounding`` is ``stochastic``:
    then it takes effect as often as it is large beside that digit.

    ``keep_float32``: regular expressions searched in layer paths; such layers train and ship in float32. ``auto``:
    before training, a few steps in float32 show which layers float16 does not hold, and these are the list. Layers that
    an artifact needs beside these, to answer like the float32 model, are searched when it is exported.
    """

    policy: Literal["mixed_float16", "mixed_bfloat16", "float32", "float16"] = "mixed_float16"
    rounding: Literal["nearest", "stochastic"] = "nearest"
    keep_float32: LayerPatterns = ()
    loss_scale: LossScale = LossScale()

    @property
    def float16_gradients(self) -> bool:
        """Whether gradients are float16, and so may be flushed to 0 or overflow."""
        return self.policy in ("mixed_float16", "float16")

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled: under a policy of float16 gradients, unless ``loss_scale.mode`` is none."""
        return self.float16_gradients and self.loss_scale.mode != "none"

    @property
    def islands(self) -> Patterns:
        """The patterns of ``keep_float32``; none while they are to be found still."""
        return () if self.keep_float32 == "auto" else self.keep_float32


class Export(Section):
    """Artifacts are float16 whichever policy trained them. ``opset`` is ONNX's operator set version.

    ``litert-int8`` is for comparison: the same numbers with weights in int8, held to limits of its own.
    """

    formats: tuple[Literal["savedmodel", "onnx", "litert", "litert-int8"], ...] = ("savedmodel", "onnx")
    opset: Annotated[int, Field(ge=13, le=25)] = 18
    fold_batchnorm: bool = True

    @field_validator("formats")
    @classmethod
    def _formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("formats needs one or more of savedmodel, onnx, litert, litert-int8, each once")
        return value


class Verify(Section):
    """Thresholds against the float32 model. ``max_accuracy_drop`` is in points, of any metric that is a share;
    ``max_error_growth`` in percent, of errors of numbers; ``min_agreement`` in percent.

    ``min``: by name what the artifacts' metrics must at least be on the test set, shares from 0 to 1; of errors (rmse,
    mae) what they may at most be.

    On so few images that a threshold allows less than one, one is allowed. ``true_float16_samples`` images also go
    through the ONNX file in true float16 arithmetic; 0 leaves that out.
    """

    max_accuracy_drop: Annotated[float, Field(ge=0, le=100)] = 0.1
    max_error_growth: Annotated[float, Field(ge=0, le=1000)] = 1.0
    min: dict[str, float] = Field(default_factory=dict)
    min_agreement: Annotated[float, Field(ge=0, le=100)] = 99.5
    true_float16_samples: Annotated[int, Field(ge=0)] = 256


class Pipeline(Section):
    """One pipeline file. ``name`` becomes a folder of ``exports/`` and ``runs/``.

    ``outputs``: of a model of several outputs the task of each, by name, in place of ``task``.
    """

    name: Annotated[str, Field(pattern=NAME, description=NAME_WORDS)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: Model
    data: Data
    task: Task = Task()
    outputs: dict[str, Output] = Field(default_factory=dict)
    train: Train = Train()
    precision: Precision = Precision()
    export: Export = Export()
    verify: Verify = Verify()
    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> Path | None:
        """The file that it was read from, whose folder its relative paths start from; None for one made in code."""
        return self._file

    def __eq__(self, other: object) -> bool:
        """Whether they say the same, whichever files they were read from."""
        return isinstance(other, Pipeline) and self.__dict__ == other.__dict__

    @field_validator("name")
    @classmethod
    def _no_dots_only(cls, value: str) -> str:
        if value.startswith("failed-") or value.isdigit():
            raise ValueError(f"{value!r} would be taken for a version: choose a name with a letter")
        return value

    def dump(self) -> dict[str, Any]:
        """Plain dict of every value, defaults included: what JSON can hold."""
        return self.model_dump(mode="json")

    def values(self) -> dict[str, str]:
        """Every value as text by its whole key: ``train.optimizer.name``."""
        return dict(_values(self.dump()))

    def to_yaml(self) -> str:
        """The text of a pipeline file that `load_pipeline` reads back to an equal pipeline.

        ``yaml.safe_dump`` does not do: it leaves the string ``1e3`` unquoted, which is a number in YAML 1.2.
        """
        return write(self.dump())


def _values(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _values(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", str(value)


def load_pipeline(path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Read and check a pipeline file.

    Args:
        path: the YAML file.
        overrides: ``key.path=value`` strings, values in YAML, applied in order.

    Raises:
        ConfigError: in one line with file, line and key, whatever is wrong with the file or an override.
    """
    pipeline = check(Pipeline, read(path, overrides))
    pipeline._file = Path(path)
    return pipeline
