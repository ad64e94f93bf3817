"""What a manifest has to hold, by the kind of export: strict types that say where one is wrong.

Further keys are ignored, so that the manifests of older and newer releases are read.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfhalf import config
from tfhalf.text import printable

MAX_SIZE = 2**31 - 1
_Format = Literal["savedmodel", "onnx", "litert", "litert-int8"]
_Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Size = Annotated[int, Field(ge=1, le=MAX_SIZE)]
_Name = Annotated[str, Field(min_length=1, max_length=1000)]
_Path = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
_Shape = Annotated[list[_Size | str | None], Field(min_length=1, max_length=32)]
_Dtype = Annotated[str, Field(pattern=r"^(bool|string|u?int(8|16|32|64)|float(16|32|64)|complex(64|128))$")]
_Statistics = list[float] | float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _File(_Part):
    bytes: _Count = 0
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Port(_Part):
    name: _Name
    dtype: _Dtype
    shape: _Shape


class _Input(_Part):
    name: _Name = "image"
    dtype: _Dtype = "float32"
    shape: _Shape


class _Preprocess(_Part):
    mean: _Statistics = None
    std: _Statistics = None


class _Sizes(_Part):
    test: _Size


class _Data(_Part):
    source: _Name
    sizes: _Sizes
    preprocess: _Preprocess = _Preprocess()


class _PipelineConfig(_Part):
    data: config.Data
    export: config.Export
    verify: config.Verify


class _Pipeline(_Part):
    """Of a pipeline's export."""

    name: _Name
    pipeline_file: _Path
    config: _PipelineConfig
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    data: _Data
    labels: Annotated[list[str], Field(min_length=1)]
    input: _Input
    outputs: list[_Port] = []
    files: dict[_Path, _File]


class _ExportConfig(_Part):
    formats: Annotated[list[_Format], Field(min_length=1)]


class _Limits(_Part):
    max_difference: float
    mean_difference: float
    min_agreement: float
    true_float16_samples: _Count


class _ModelConfig(_Part):
    export: _ExportConfig
    verify: _Limits


class _Model(_Part):
    """Of any other model's export."""

    name: _Name
    config: _ModelConfig
    samples: dict[str, Any]
    inputs: Annotated[list[_Port], Field(min_length=1)]
    outputs: Annotated[list[_Port], Field(min_length=1)]
    labels: list[str] = []
    files: dict[_Path, _File]


_KINDS: dict[str, type[_Part]] = {"pipeline": _Pipeline, "model": _Model}


def wrong(manifest: dict[str, Any], kind: str) -> str:
    """What a manifest of ``kind``, ``pipeline`` or ``model``, lacks or has as another type; empty where it is right."""
    try:
        _KINDS[kind].model_validate(manifest)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        missing = [_key(one["loc"]) for one in errors if one["type"] == "missing"]
        if missing:
            return f"lacks {', '.join(missing[:5])}"
        first = errors[0]
        received = printable(repr(first["input"]), 60)
        return f"{_key(first['loc'])} is not valid: received {received}; {printable(first['msg'].lower(), 120)}"
    return ""


def _key(steps: tuple[int | str, ...]) -> str:
    return printable(".".join(map(str, steps)), 120)
