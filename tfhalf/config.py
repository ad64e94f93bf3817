"""The pipeline file as strict, frozen types.

A pipeline is YAML: ``name``, ``model`` and ``data`` are needed, the rest has defaults. Unknown keys are refused with the
nearest valid one, and every error names file, line and key. Overrides (``train.epochs=3``) pass the same checks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tfhalf.errors import ConfigError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Epochs = Annotated[float, Field(ge=0, le=100_000)]
Patterns = tuple[str, ...]


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


def _compiled(patterns: Iterable[str]) -> None:
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None


class Model(Section):
    """``build`` is ``file.py:name`` (relative to the pipeline file), ``package.module:name`` or ``keras.applications:Name``."""

    build: Annotated[str, Field(min_length=3)]
    args: dict[str, Any] = {}


class Augment(Section):
    """Random changes to training images, drawn anew each epoch. ``crop`` and ``cutout`` are in pixels."""

    flip: Literal["none", "random", "alternating"] = "none"
    crop: Annotated[int, Field(ge=0, le=64)] = 0
    crop_padding: Literal["reflect", "zeros"] = "reflect"
    cutout: Annotated[int, Field(ge=0, le=512)] = 0


class Normalize(Section):
    """Fixed statistics per channel, in the source's own units: ``(x - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[Positive, ...]


class Data(Section):
    """``source``: ``tfds:NAME``, ``folder:PATH``, ``npz:PATH``, ``sklearn:digits`` or ``file.py:load``.

    ``validation`` (share below 1, or a number of items) is taken from the training part, never from the test set.
    ``test`` is the share split off where the source has no test set of its own.
    """

    source: Annotated[str, Field(min_length=3)]
    args: dict[str, Any] = {}
    image_size: tuple[Annotated[int, Field(ge=1, le=4096)], Annotated[int, Field(ge=1, le=4096)]] | None = None
    validation: Annotated[int, Field(ge=0)] | Share = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    normalize: Literal["standardize", "unit", "none"] | Normalize = "standardize"
    augment: Augment = Augment()


class Optimizer(Section):
    """A Keras optimizer by its name, with what is set on it.

    ``weight_decay`` is decoupled (Loshchilov and Hutter 2019: multiplied by the learning rate, beside the gradient)
    unless ``coupled_decay`` adds it to the gradient (L2, as He et al. 2015). ``no_decay`` and ``lr_multipliers`` are
    regular expressions searched in variable paths such as ``conv1/kernel``; a multiplier of 0 freezes a variable.
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
    lr_multipliers: dict[str, NonNegative] = {}
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    ema_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None

    @field_validator("no_decay", "lr_multipliers")
    @classmethod
    def _patterns(cls, value: Any) -> Any:
        _compiled(value)
        return value

    @model_validator(mode="after")
    def _one_clip(self) -> Optimizer:
        if self.clip_norm and self.clip_value:
            raise ValueError("clip_norm and clip_value exclude each other: keep one")
        return self


class Schedule(Section):
    """Learning rate over training, as a multiple of ``optimizer.learning_rate``. Lengths are in epochs.

    ``step`` multiplies by ``factor`` at each epoch of ``milestones``; ``cosine`` ends at ``end``; ``triangular`` climbs
    from ``start`` to 1 at the share ``peak`` of training and falls to ``end``. ``warmup_epochs`` climbs from 0 before any.
    """

    name: Literal["constant", "step", "cosine", "triangular"] = "constant"
    warmup_epochs: Epochs = 0.0
    milestones: tuple[Epochs, ...] = ()
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    start: Annotated[float, Field(ge=0, le=1)] = 0.2
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.23
    end: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _milestones(self) -> Schedule:
        if self.name == "step" and not self.milestones:
            raise ValueError("schedule 'step' needs milestones, for example [60, 90]")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, received {list(self.milestones)}")
        return self


class Train(Section):
    """``test_views`` averages the model's answers over mirrored (and shifted) images in the test figure printed after
    training; exported artifacts and their verification always use the plain image."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 10
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 128
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    xla: Literal["auto", "on", "off"] = "auto"
    test_views: Literal["none", "mirror", "mirror_shift"] = "none"


class LossScale(Section):
    """Dynamic loss scaling with a floor and a cap (used by ``mixed_float16`` only).

    ``max_skipped`` skipped steps in a row end the run.
    """

    initial: Annotated[float, Field(ge=1, le=2.0**127)] = 2.0**15
    growth_interval: Annotated[int, Field(ge=1)] = 2000
    floor: Annotated[float, Field(ge=2.0**-24, le=2.0**127)] = 1.0
    cap: Annotated[float, Field(ge=1, le=2.0**127)] = 2.0**24
    max_skipped: Annotated[int, Field(ge=1)] = 50

    @model_validator(mode="after")
    def _ordered(self) -> LossScale:
        if not self.floor <= self.initial <= self.cap:
            raise ValueError(f"floor <= initial <= cap is needed, received {self.floor:g}, {self.initial:g}, {self.cap:g}")
        return self


class Precision(Section):
    """``keep_float32``: regular expressions searched in layer paths; such layers stay float32 in training and export."""

    policy: Literal["mixed_float16", "mixed_bfloat16", "float32"] = "mixed_float16"
    keep_float32: Patterns = ()
    loss_scale: LossScale = LossScale()

    @field_validator("keep_float32")
    @classmethod
    def _patterns(cls, value: Patterns) -> Patterns:
        _compiled(value)
        return value


class Export(Section):
    """Artifacts are float16 whichever policy trained them. ``opset`` is ONNX's operator set version."""

    formats: tuple[Literal["savedmodel", "onnx"], ...] = ("savedmodel", "onnx")
    opset: Annotated[int, Field(ge=13, le=18)] = 18
    fold_batchnorm: bool = True

    @field_validator("formats")
    @classmethod
    def _formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("formats needs one or more of savedmodel, onnx, each once")
        return value


class Verify(Section):
    """Thresholds against the float32 model. ``max_accuracy_drop`` is in points, ``min_agreement`` in percent.

    On so few images that a threshold allows less than one, one is allowed. ``true_float16_samples`` images also go
    through the ONNX file in true float16 arithmetic; 0 leaves that out.
    """

    max_accuracy_drop: Annotated[float, Field(ge=0, le=100)] = 0.1
    min_agreement: Annotated[float, Field(ge=0, le=100)] = 99.5
    true_float16_samples: Annotated[int, Field(ge=0)] = 256


class Pipeline(Section):
    """One pipeline file. ``name`` becomes a folder of ``exports/`` and ``runs/``."""

    name: Annotated[str, Field(pattern=NAME)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: Model
    data: Data
    train: Train = Train()
    precision: Precision = Precision()
    export: Export = Export()
    verify: Verify = Verify()

    @field_validator("name")
    @classmethod
    def _no_dots_only(cls, value: str) -> str:
        if value.startswith("failed-") or value.isdigit():
            raise ValueError(f"{value!r} would be taken for a version: choose a name with a letter")
        return value

    def dump(self) -> dict[str, Any]:
        """Plain dict of every value, defaults included, that `load` reads back to an equal pipeline."""
        return self.model_dump(mode="json")


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: ``1e-3`` is a number, ``on`` and ``no`` are strings."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
_MAX_BYTES = 1 << 20
_Lines = dict[tuple[Hashable, ...], int]


def load_pipeline(path: str | Path, overrides: Iterable[str] = ()) -> Pipeline:
    """Read and check a pipeline file.

    Args:
        path: the YAML file.
        overrides: ``key.path=value`` strings, values in YAML, applied in order.

    Raises:
        ConfigError: with file, line and key, whatever is wrong with the file or an override.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; give a pipeline file, for example {path / 'digits.yaml'}")
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {_MAX_BYTES} bytes; this is no pipeline file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such pipeline file; `tfhalf init DIR` writes working ones to start from") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; a pipeline file is YAML") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    tree, lines = _parse(text, str(path))
    for override in overrides:
        _override(tree, override, lines)
    return _validate(tree, str(path), lines)


def _parse(text: str, where: str) -> tuple[dict[str, Any], _Lines]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: _Lines = {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{where}: a pipeline file is a mapping of keys such as name, model, data; found none")
        _index(node, (), lines, where)
        tree: dict[str, Any] = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}{line}: is not valid YAML: {problem}") from None
    except (RecursionError, ValueError, TypeError) as error:
        raise ConfigError(f"{where}: is not valid YAML: {str(error).splitlines()[0]}") from None
    finally:
        loader.dispose()
    return tree, lines


def _index(node: yaml.Node, at: tuple[Hashable, ...], lines: _Lines, where: str) -> None:
    """Note the line of every key and item; refuse duplicate keys, which YAML loaders drop in silence, and aliases."""
    if at in lines and at:
        raise ConfigError(f"{where}:{node.start_mark.line + 1}: {_dotted(at)}: is given twice; keep one")
    lines[at] = node.start_mark.line + 1
    if len(at) > 12:
        raise ConfigError(f"{where}:{node.start_mark.line + 1}: {_dotted(at[:3])}...: is nested too deeply")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{where}:{key.start_mark.line + 1}: a key must be plain text")
            _index(value, (*at, key.value), lines, where)
            lines[(*at, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _index(value, (*at, index), lines, where)


def _override(tree: dict[str, Any], override: str, lines: _Lines) -> None:
    key, equals, value = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: the form is key.path=value, for example train.epochs=3")
    try:
        parsed = yaml.load(value, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: {value!r} is not a YAML value") from None
    branch: Any = tree
    for depth, step in enumerate(keys[:-1]):
        branch = branch.setdefault(step, {}) if isinstance(branch, dict) else None
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {override}: {'.'.join(keys[: depth + 1])} holds no keys")
    branch[keys[-1]] = parsed
    for known in [at for at in lines if at[: len(keys)] == tuple(keys)]:
        del lines[known]


def _validate(tree: dict[str, Any], where: str, lines: _Lines) -> Pipeline:
    try:
        return Pipeline.model_validate(tree)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    # A union reports one error per member; the first error of a key says enough.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    at = tuple(step for step in first["loc"] if step not in _UNION_TAGS and not str(step).startswith(_UNION_PREFIXES))
    message = _explain(first, at, problems)
    known = next((at[:depth] for depth in range(len(at), 0, -1) if at[:depth] in lines), None)
    if known is None and at and at[0] in tree and at not in lines:
        raise ConfigError(f"--set {_dotted(at)}: {message}")
    if known is None or (known != at and first["type"] != "missing"):
        line = f":{lines[known]}" if known else ":1"
        origin = f"{where}{line}"
    else:
        origin = f"{where}:{lines[known]}"
    raise ConfigError(f"{origin}: {_dotted(at)}: {message}")


_UNION_TAGS = {"int", "float", "str", "bool", "Normalize", "none"}
_UNION_PREFIXES = ("literal[", "tuple[", "constrained-", "function-", "list[")


def _explain(problem: Any, at: tuple[Any, ...], problems: list[Any]) -> str:
    received = problem.get("input")
    kind = problem["type"]
    if kind == "extra_forbidden":
        choices = _keys_at(at[:-1])
        close = difflib.get_close_matches(str(at[-1]), choices, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"unknown key {str(at[-1])!r}{hint} (accepted: {', '.join(choices)})"
    if kind == "missing":
        return "is needed and missing"
    same_key = [p for p in problems if p["loc"][: len(at)] == problem["loc"][: len(at)]]
    wanted = " or ".join(dict.fromkeys(_wanted(p) for p in same_key))
    if kind == "literal_error":
        close = difflib.get_close_matches(str(received), re.findall(r"'([^']*)'", wanted), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"received {received!r}, accepted: {wanted}{hint}"
    if kind == "value_error":
        return _wanted(problem)
    return f"received {received!r}, accepted: {wanted}"


def _wanted(problem: Any) -> str:
    message = str(problem["msg"])
    for prefix in ("Value error, ", "Input should be ", "Input "):
        message = message.removeprefix(prefix)
    return message.removeprefix("a valid ").replace("String should match pattern", "text that matches")


def _keys_at(at: tuple[Any, ...]) -> list[str]:
    section: Any = Pipeline
    for step in at:
        annotation = section.model_fields[step].annotation
        section = next(
            candidate
            for candidate in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(candidate, type) and issubclass(candidate, Section)
        )
    return list(section.model_fields)


def _dotted(at: tuple[Any, ...]) -> str:
    dotted = ""
    for step in at:
        dotted += f"[{step}]" if isinstance(step, int) else f".{step}" if dotted else str(step)
    return dotted or "the file"
