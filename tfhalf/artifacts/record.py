"""`Manifest`: what a version says of itself, as one frozen record, whatever it comes from.

A version has ports, formats, a reference (what its artifacts are compared with, and on which inputs), limits, and the
comparisons that were made before it was published. It is a classifier where an output has classes; a pipeline's run
adds facts of its own (data, training, hardware), a model file those of its source, and neither changes the rest.

``manifest.json`` of schema 2 is this record. Schema 1 had two forms, for pipelines and for models, which named the same
things otherwise: `tfhalf.artifacts.schema1` reads both into it, and nothing else knows of them. Types are strict where
a manifest is read, sizes are bounded, and unknown keys are ignored, so that manifests of later releases are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from tfhalf import config
from tfhalf.artifacts.comparison import Comparison, Limits
from tfhalf.artifacts.formats import FORMATS, Format
from tfhalf.artifacts.ports import MAX_SIZE, Port
from tfhalf.text import printable

SCHEMA = 2

_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Path = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
_Port = Annotated[Port, PlainSerializer(Port.to_dict)]
_Comparison = Annotated[Comparison, PlainSerializer(Comparison.to_dict)]
_Statistics = tuple[float, ...] | float | None

Self = TypeVar("Self", bound="Record")


class Record(BaseModel):
    """A part of a manifest. Built in code of Python's values, or `read` of JSON's."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls: type[Self], facts: Mapping[str, Any]) -> Self:
        """The record that ``facts`` are, as JSON has them.

        Raises:
            ValueError: in one line, what it lacks or has as another type.
        """
        try:
            return cls.model_validate_json(json.dumps(facts))
        except ValidationError as error:
            raise ValueError(_wrong(error)) from None
        except RecursionError:
            raise ValueError("is not readable JSON: its values lie too deep within each other") from None

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return self.model_dump(mode="json")

    @model_serializer(mode="wrap")
    def _known_facts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is None is not known, and left out."""
        return {name: fact for name, fact in handler(self).items() if fact is not None}


class _Open(Record):
    """A part whose further facts are kept, for people."""

    model_config = ConfigDict(extra="allow")


class File(Record):
    """A file of a version."""

    bytes: _Count = 0
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _known(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"known are {', '.join(FORMATS)}")
    return name


class Artifact(Record):
    """One format on disk. ``bytes`` is the sum of its files; ``details`` are what else is to be said of it."""

    format: Annotated[str, AfterValidator(_known)]
    files: tuple[_Path, ...] = ()
    bytes: _Count = 0
    details: dict[str, Any] = {}


class Parameters(Record):
    """How many parameters there are of a dtype, and their bytes."""

    count: _Count
    bytes: _Count = 0


class Cast(Record):
    """What the cast to float16 changed by more than rounding, as `tfhalf.precision.cast` counts it."""

    total: _Count = 0
    clamped: _Count = 0
    flushed: _Count = 0
    subnormal: _Count = 0


class Island(Record):
    """A layer that is kept in float32 beside those that a pipeline keeps so, and why."""

    path: str
    reason: str


class Sweep(Record):
    """Up to which size of the ``inputs`` float16 holds: 2 to the power ``up`` times those here, of which ``largest`` is
    the largest, and down to ``down``; ``above`` and ``below`` say what fails beyond."""

    inputs: tuple[str, ...]
    largest: float
    up: int
    down: int
    above: str = ""
    below: str = ""
    up_to: float


class OtherSize(Record):
    """Inputs of another ``size``: their ``shapes`` by name, whether the float32 model takes them, or ``why`` not."""

    size: str
    shapes: dict[str, tuple[_Count, ...]]
    taken: bool
    why: str = ""


class ReferenceFacts(Record):
    """What the comparisons rest on.

    ``origin``: samples that were ``drawn`` at random (``how``, by input), ``given`` in ``file``, or a ``test set``,
    which does not lie in the version. ``count`` includes edge rows, which ``edges`` counts by kind.
    """

    origin: Literal["drawn", "given", "test set"] = "drawn"
    count: _Count = 0
    edges: dict[str, _Count] = {}
    file: str | None = None
    seed: int | None = None
    how: dict[str, str] = {}
    sweep: Sweep | None = None
    other_sizes: tuple[OtherSize, ...] = ()


class Sizes(_Open):
    """How many items the parts of a data set have."""

    test: Annotated[int, Field(ge=1, le=MAX_SIZE)]


class Preprocess(_Open):
    """What goes on inside the artifacts before the net."""

    mean: _Statistics = None
    std: _Statistics = None


class Data(_Open):
    """The data that a run was trained and tested on. ``noun``: what its items are called, ``rows`` or the like."""

    source: _Name
    sizes: Sizes
    preprocess: Preprocess = Preprocess()
    noun: _Name | None = None  # of a version of tfhalf that wrote none


class Chance(_Open):
    """How the accuracy stands beside always giving the commonest label."""

    better: bool = True
    label: str = ""
    share: float | None = 0.0
    p_value: float = 1.0


class Training(_Open):
    """How a run went; of a policy without a loss scale ``loss_scale`` and ``skipped`` say nothing."""

    policy: str | None = None
    epochs: _Count = 0
    ended: bool = True  # whether training had ended when it was exported
    test_accuracy: float | None = None
    test_metrics: dict[_Name, float | None] = {}  # none, of a version of tfhalf that wrote the accuracy alone
    chance: Chance | None = None
    run: str | None = None
    loss_scale: float | None = None
    skipped: _Count = 0
    seconds: dict[str, float] = {}


class Config(_Open):
    """What was asked for, of a pipeline all of it."""

    data: config.Data | None = None
    task: config.Task | None = None
    outputs: dict[str, config.Output] = {}


class Manifest(Record):
    """What a version says of itself; see the module."""

    name: _Name
    version: _Count | None = None
    created: str = ""
    smoke: bool = False
    inputs: Annotated[tuple[_Port, ...], Field(min_length=1)]
    outputs: Annotated[tuple[_Port, ...], Field(min_length=1)]
    labels: tuple[str, ...] = ()
    tasks: dict[_Name, dict[str, Any]] = {}
    columns: dict[_Name, tuple[str, ...]] = {}
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1)]
    refused: dict[str, str] = {}
    limits: Limits
    reference: ReferenceFacts
    comparisons: tuple[_Comparison, ...] = ()
    not_covered: tuple[str, ...] = ()
    parameters: dict[str, Parameters] = {}
    float32_share: float = 0.0
    cast: Cast | None = None
    kept_float32: tuple[str, ...] = ()
    islands: tuple[Island, ...] = ()
    search: dict[str, Any] | None = None
    folded_batchnorm: tuple[str, ...] = ()
    source: dict[str, Any] | None = None
    config: Config = Config()
    pipeline_file: _Path | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    data: Data | None = None
    training: Training | None = None
    hardware: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    git_revision: str | None = None
    seconds: float | None = None
    files: dict[_Path, File] = {}

    @property
    def formats(self) -> tuple[Format, ...]:
        """The formats that it holds, in the order in which they were written."""
        return tuple(FORMATS[artifact.format] for artifact in self.artifacts)

    @property
    def class_output(self) -> Port | None:
        """The output that says which class a sample is of: rows of classes, by preference those that have a label each,
        and of probabilities."""
        rows = [port for port in self.outputs if port.classes and len(port.shape) == 2]
        rows = [port for port in rows if port.shape[-1] == len(self.labels)] or rows
        return next((port for port in rows if port.name == "probabilities"), next(iter(rows), None))

    @property
    def classes(self) -> tuple[str, tuple[str, ...]] | None:
        """The name of `class_output`, and the labels of its classes."""
        return None if (output := self.class_output) is None else (output.name, self.labels)

    @property
    def center_crop(self) -> float | None:
        """How much of an image is kept where one of another size is to be predicted or served, as ``data.center_crop``
        says; None: all of it."""
        return self.config.data.center_crop if self.config.data else None

    @property
    def input_dtypes(self) -> dict[str, str]:
        """The dtype of each input by its name."""
        return {port.name: port.dtype for port in self.inputs}

    @property
    def batch(self) -> int | None:
        """How many samples a call takes, where that number is fixed."""
        return self.inputs[0].shape[0]

    def to_dict(self) -> dict[str, Any]:
        """What ``manifest.json`` holds."""
        return {"schema": SCHEMA, **super().to_dict()}


def _wrong(error: ValidationError) -> str:
    errors = error.errors(include_url=False, include_context=False)
    missing = [_key(one["loc"]) for one in errors if one["type"] == "missing"]
    if missing:
        return f"lacks {', '.join(missing[:5])}"
    first = errors[0]
    if first["type"] == "json_invalid":
        return f"is not readable JSON: {printable(first['msg'].lower(), 120)}"
    received = printable(repr(first["input"]), 60)
    return f"{_key(first['loc'])} is not valid: received {received}; {printable(first['msg'].lower(), 120)}"


def _key(steps: tuple[int | str, ...]) -> str:
    return printable(".".join(map(str, steps)), 120)
