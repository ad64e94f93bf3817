"""What is wrong with a pipeline file, in words: the key at fault, what was received and what is accepted."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

At = tuple[Any, ...]  # the way to a value: keys, and indices of list items


_WEIGHTS = "the data gives them: w_train of an npz file or a function, or a column of a table with the role weight"
_STOPPING = "train.callbacks: [{build: 'keras.callbacks:EarlyStopping', args: {monitor: val_accuracy, patience: 3}}]"
# Settings of Keras and others that no pipeline has: what is done in their place.
NOT_READ = {
    "sample_weight": _WEIGHTS,
    "shuffle": "training items are shuffled anew each epoch",
    "steps_per_epoch": "an epoch is as many whole batches as the training part holds",
    "num_classes": "the data says how many classes there are",
    "input_shape": "the data says which shape its items have",
    "early_stopping": f"it is a callback: {_STOPPING}",
    "device": "the first GPU trains where there is one; CUDA_VISIBLE_DEVICES chooses",
    "devices": "the first GPU trains where there is one; CUDA_VISIBLE_DEVICES chooses",
}
# What others call a key.
_ALIASES = {
    **dict.fromkeys(("lr", "base_lr", "learningrate", "learning-rate"), "train.optimizer.learning_rate"),
    **dict.fromkeys(("epoch", "n_epochs", "num_epochs", "max_epochs", "nb_epoch"), "train.epochs"),
    **dict.fromkeys(("batch", "batchsize", "batch-size", "bs", "train_batch_size"), "train.batch_size"),
    **dict.fromkeys(("wd", "decay"), "train.optimizer.weight_decay"),
    **dict.fromkeys(("clipnorm", "global_clipnorm", "grad_clip", "max_grad_norm"), "train.optimizer.clip_norm"),
    **dict.fromkeys(("clipvalue",), "train.optimizer.clip_value"),
    **dict.fromkeys(("scheduler", "lr_schedule", "lr_scheduler"), "train.schedule"),
    **dict.fromkeys(("warmup", "warmup_steps"), "train.schedule.warmup_epochs"),
    **dict.fromkeys(("gradient_accumulation_steps", "accumulation_steps"), "train.accumulate"),
    **dict.fromkeys(("dtype", "mixed_precision", "fp16", "amp"), "precision.policy"),
    **dict.fromkeys(("loss", "loss_fn", "criterion"), "task.loss"),
    **dict.fromkeys(("metric", "metrics"), "task.metrics"),
    **dict.fromkeys(("class_weight", "class_weights"), "task.class_weight"),
    **dict.fromkeys(("loss_weights", "loss_weight"), "outputs.NAME.weight"),
    **dict.fromkeys(("dataset", "data_source", "dataset_name"), "data.source"),
    **dict.fromkeys(("validation_split", "val_split"), "data.validation"),
    **dict.fromkeys(("test_split",), "data.test"),
    **dict.fromkeys(("normalization", "normalisation", "standardize"), "data.normalize"),
    **dict.fromkeys(("augmentation",), "data.augment"),
    **dict.fromkeys(("random_seed", "random_state"), "seed"),
    **dict.fromkeys(("layers", "lr_scale", "layer_lr", "param_groups"), "train.optimizer.lr_multipliers"),
    **dict.fromkeys(("pretrained", "init_from", "initial_weights", "checkpoint"), "model.weights"),
}
# Keys of several sections, which say nothing of where another belongs.
_COMMON = ("name", "args", "build", "match", "mode", "start", "end", "steps", "every", "action")
_FULL = "; {0} alone would round most changes of weights away; mixed_{0} computes in {0} and keeps float32 weights"
_HALF = "; did you mean 'mixed_float16', or 'float16', which keeps no float32 copy of the weights?"
# Policies that Keras has, or people ask for, and a pipeline has not.
_POLICIES = {
    **dict.fromkeys(("fp16", "half", "16"), _HALF),
    **dict.fromkeys(("bfloat16", "bf16"), _FULL.format("bfloat16")),
    **dict.fromkeys(("mixed", "amp", "auto", "16-mixed"), "; did you mean 'mixed_float16'?"),
    **dict.fromkeys(("float64", "fp64", "double"), "; float32 is the widest that trains here"),
    **dict.fromkeys(("fp32", "32", "single"), "; did you mean 'float32'?"),
}


def explain(model: type[BaseModel], problems: list[Any], tree: dict[str, Any]) -> tuple[At, str]:
    """The key of the problem that says most, and the message for it."""
    walked = [(*_walk(model, problem["loc"]), problem) for problem in problems]
    unknown = [entry for entry in walked if entry[2]["type"] == "extra_forbidden"]
    at, field, problem = (unknown or walked)[0]
    # A union reports every member it tried: the member that got furthest is the one that was meant.
    deeper = [entry for entry in walked if len(entry[0]) > len(at) and entry[0][: len(at)] == at]
    judged = [entry for entry in walked if entry[0] == at and entry[2]["type"] == "value_error"]
    at, field, problem = (deeper or judged or [(at, field, problem)])[0]
    kind = problem["type"]
    if kind == "missing" and isinstance(at[-1], int):  # a list that is too short
        at, field = at[:-1], _walk(model, at[:-1])[1]
    elif kind == "missing":
        return at, f"is needed and missing; it is {describe(field)}"
    if kind == "extra_forbidden":
        choices = list(_section(_walk(model, at[:-1])[1]).model_fields)
        return at, f"unknown key {at[-1]!r}{_meant(model, at, choices)} (accepted: {', '.join(choices)})"
    if kind == "value_error":
        return at, str(problem["msg"]).removeprefix("Value error, ")
    received = _value(tree, at)
    hint = _POLICIES.get(str(received).lower(), "") if dotted(at) == "precision.policy" else ""
    hint = hint or _near(received, list(_literals(field))) or _as_section(at, field, received)
    if received is None and isinstance(field, FieldInfo) and not field.is_required():
        hint = "; leave the key out for its default"
    return at, f"received {shown(received)}, accepted: {describe(field)}{hint}"


def _meant(model: type[BaseModel], at: At, choices: list[str]) -> str:
    """Which key was meant: near ones of the section, then where the key belongs, then near ones of any section."""
    name = str(at[-1])
    if name.lower() in NOT_READ:
        return f"; {NOT_READ[name.lower()]}"
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.8)
    paths = [path for path in _paths(model) if path[-1] not in _COMMON]
    alias = _ALIASES.get(name.lower())
    keys = [alias] if alias else [dotted(path) for path in paths if path[-1] == name.lower()]
    if keys and not near:
        return f"; it belongs at {min(keys, key=lambda key: key.count('.'))}"
    in_section = _near(name, choices)
    if in_section:
        return in_section
    elsewhere = difflib.get_close_matches(name, [path[-1] for path in paths], n=1, cutoff=0.8)
    belonging = [dotted(path) for path in paths if elsewhere and path[-1] == elsewhere[0]]
    return f"; did you mean {min(belonging, key=lambda key: key.count('.'))!r}?" if belonging else ""


def _paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every key below ``model``; those of lists' items are left out."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        for member in _members(field):
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from _paths(member, (*above, name))


def _as_section(at: At, field: Any, received: Any) -> str:
    """How a name alone is written where a section is taken: ``optimizer: {name: adam}``."""
    sections = [one for one in _members(field) if isinstance(one, type) and issubclass(one, BaseModel)]
    if not isinstance(received, str) or not sections:
        return ""
    key = next((key for key in ("name", "build", "source", "policy", "mode") if key in sections[0].model_fields), None)
    before = f"{at[-1]}: " if at and isinstance(at[-1], str) else ""
    return f"; did you mean {before}{{{key}: {received}}}?" if key else ""


def _walk(model: type[BaseModel], loc: At) -> tuple[At, Any]:
    """The keys in a pydantic location, and the field or type they lead to (None past an unknown key).

    Pydantic also puts the name of the union member that it tried into a location; such steps are left out.
    """
    at: At = ()
    field: Any = model
    steps = iter(loc)
    for step in steps:
        members = [member for member in _members(field) if member is not NoneType]
        if len(members) > 1:
            step = next(steps, None)
            if step is None:
                break
            members = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
        inner = members[0]
        if step == "[key]":
            break
        at = (*at, step)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            field = inner.model_fields.get(step)
        elif get_origin(inner) in (tuple, dict):
            field = [argument for argument in get_args(inner) if argument is not Ellipsis][-1]
        if field is None:
            break
    return at, field


def _members(field: Any) -> Iterator[Any]:
    """The types a field is a union of, bare of their constraints; the type itself where it is not a union."""
    if isinstance(field, FieldInfo):
        field = field.annotation
    origin = get_origin(field)
    if origin is Annotated:
        yield from _members(get_args(field)[0])
    elif origin in (Union, UnionType):
        for member in get_args(field):
            yield from _members(member)
    else:
        yield field


def _section(field: Any) -> type[BaseModel]:
    return next(member for member in _members(field) if isinstance(member, type) and issubclass(member, BaseModel))


def _literals(field: Any) -> Iterator[str]:
    return (choice for member in _members(field) if get_origin(member) is Literal for choice in get_args(member))


def describe(field: Any, bounds: str = "") -> str:
    """What a pydantic field or a type accepts, in words: ``a whole number from 1 to 4096``."""
    if isinstance(field, FieldInfo):
        return field.description or describe(field.rebuild_annotation())
    origin, arguments = get_origin(field), get_args(field)
    if origin is Annotated:
        metadata = [part for one in arguments[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        named = (one.description for one in arguments[1:] if isinstance(one, FieldInfo) and one.description)
        return next(named, None) or describe(arguments[0], _bounds(metadata))
    if origin in (Union, UnionType):
        return ", or ".join(describe(member) for member in arguments)
    if origin is Literal:
        return " or ".join(", ".join(repr(choice) for choice in arguments).rsplit(", ", 1))
    if origin is tuple:
        count = bounds if Ellipsis in arguments else f" of {len(arguments)}"
        return f"a list{count}, each {describe(arguments[0])}"
    if origin is dict:
        return "a mapping" if arguments[1] is Any else f"a mapping, each value {describe(arguments[1])}"
    if isinstance(field, type) and issubclass(field, BaseModel):
        return f"a mapping with keys {', '.join(field.model_fields)}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
    characters = " characters" if field is str and bounds else ""
    return words.get(field, "a value") + bounds + characters


_CONSTRAINTS = ("gt", "ge", "lt", "le", "min_length", "max_length")


def _bounds(metadata: list[Any]) -> str:
    """The words for ``annotated_types`` constraints, such as `` from 1 to 4096`` or `` in [0, 1)``."""
    limits: dict[str, Any] = {}
    for part in metadata:
        limits.update({name: getattr(part, name) for name in _CONSTRAINTS if hasattr(part, name)})
    if (least := limits.pop("min_length", None)) is not None:
        return f" of {least} to {limits['max_length']}" if "max_length" in limits else f" of at least {least}"
    if "max_length" in limits:
        return f" of at most {limits['max_length']}"
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        if "ge" in limits and "le" in limits:
            return f" from {_number(low)} to {_number(high)}"
        return f" in {'[' if 'ge' in limits else '('}{_number(low)}, {_number(high)}{']' if 'le' in limits else ')'}"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return "".join(f" {signs[name]} {_number(bound)}" for name, bound in limits.items())


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _near(received: Any, choices: list[str]) -> str:
    close = difflib.get_close_matches(str(received), choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _value(tree: Any, at: At) -> Any:
    for step in at:
        if not isinstance(tree, dict | list | tuple):  # a text in place of a section, whose key it stands for
            break
        tree = tree[step]
    return tree


def shown(value: Any) -> str:
    """A value in the words of YAML, cut short."""
    if value is None or isinstance(value, bool):
        return {None: "nothing (null)", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def dotted(at: At) -> str:
    """A position as messages write it: ``train.schedule.milestones[0]``."""
    dotted = ""
    for step in at:
        name = str(step) if isinstance(step, int) or (step.isprintable() and step == step.strip()) else repr(step)
        dotted += f"[{name}]" if isinstance(step, int) else f".{name}" if dotted else name
    return dotted or "the file"


def one_line(message: str) -> str:
    """Without line breaks and terminal codes, which paths, keys and tags may hold."""
    joined = " ".join(message.splitlines())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in joined)
