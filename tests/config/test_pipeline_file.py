"""Pipeline files: what is refused and in which words, and that nothing is lost on the way."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tfhalf.config import NAME, Output, Pipeline, load_pipeline, messages
from tfhalf.config.messages import dotted
from tfhalf.config.yaml_file import write
from tfhalf.errors import ConfigError

BASE = "name: digits\nmodel: {build: 'net.py:build'}\ndata: {source: 'sklearn:digits'}\n"
relaxed = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(folder: Path, text: str | bytes, *overrides: str) -> Pipeline:
    path = folder / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_pipeline(path, overrides)


def refusal(folder: Path, text: str | bytes, *overrides: str) -> str:
    """The message, without the folder; always one line."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message.removeprefix(f"{folder}/")


def test_the_smallest_file(tmp_path: Path) -> None:
    pipeline = load(tmp_path, BASE)
    assert pipeline.name == "digits"
    assert pipeline.train.epochs == 10
    assert pipeline.export.formats == ("savedmodel", "onnx")
    with pytest.raises(ValidationError):
        pipeline.seed = 1  # type: ignore[misc]


BELONGS = [
    ("--set", "epochs=1", "epochs: unknown key 'epochs'; it belongs at train.epochs (accepted: name, seed, model"),
    ("--set", "lr=0.1", "lr: unknown key 'lr'; it belongs at train.optimizer.learning_rate"),
    ("--set", "train.lr=0.1", "unknown key 'lr'; it belongs at train.optimizer.learning_rate (accepted: epochs"),
    ("--set", "train.learning_rate=0.1", "unknown key 'learning_rate'; it belongs at train.optimizer.learning_rate"),
    ("--set", "train.optimizer.lr=0.1", "unknown key 'lr'; it belongs at train.optimizer.learning_rate"),
    ("--set", "optimizer.name=adam", "unknown key 'optimizer'; it belongs at train.optimizer"),
    ("--set", "policy=float32", "unknown key 'policy'; it belongs at precision.policy"),
    ("--set", "batchsize=3", "unknown key 'batchsize'; it belongs at train.batch_size"),
    ("--set", "keep_float23=auto", "unknown key 'keep_float23'; did you mean 'precision.keep_float32'?"),
    ("--set", "train.loss=mse", "unknown key 'loss'; it belongs at task.loss (accepted: epochs"),
    ("--set", "train.metrics=[auc]", "unknown key 'metrics'; it belongs at task.metrics (accepted: epochs"),
    ("file", "train: {class_weight: {0: 1, 1: 3}}", "unknown key 'class_weight'; it belongs at task.class_weight"),
    ("--set", "loss_weights=2", "unknown key 'loss_weights'; it belongs at outputs.NAME.weight (accepted: name"),
    ("--set", "precision.policy=fp16", "'mixed_float16', or 'float16', which keeps no float32 copy of the weights?"),
    ("--set", "precision.policy=bfloat16", "mixed_bfloat16 computes in bfloat16 and keeps float32 weights"),
    ("--set", "precision.policy=amp", "did you mean 'mixed_float16'?"),
    ("--set", "train.optimizer=adam", "received 'adam', accepted: a mapping with keys name, "),
    ("--set", "train.optimizer=adam", "; did you mean optimizer: {name: adam}?"),
    ("--set", "train.callbacks=['keras.callbacks:CSVLogger']", "; did you mean {build: keras.callbacks:CSVLogger}?"),
]


@pytest.mark.parametrize(("way", "given", "words"), BELONGS)
def test_a_key_or_a_value_from_elsewhere(tmp_path: Path, way: str, given: str, words: str) -> None:
    assert words in (refusal(tmp_path, BASE, given) if way == "--set" else refusal(tmp_path, BASE + given))


def test_where_a_key_is_said_to_belong_it_is_taken() -> None:
    """Every alias leads to a key that there is."""
    there = {dotted(path) for path in messages._paths(Pipeline)}
    there |= {f"outputs.NAME.{dotted(path)}" for path in messages._paths(Output)}
    assert set(messages._ALIASES.values()) <= there
    assert not {name for path in there for name in [path.rpartition(".")[2]]} & set(messages.NOT_READ)


def test_yaml_1_2_scalars(tmp_path: Path) -> None:
    args = (
        "{a: 1e-3, b: on, c: no, d: 010, e: 0x1f, f: 2024-01-01, g: 1:30, h: 1_000, i: '1', j: <<, k: =, l: ~, m: 0o17}"
    )
    read = load(tmp_path, BASE.replace("net.py:build'", f"net.py:build', args: {args}")).model.args
    texts = {"b": "on", "c": "no", "f": "2024-01-01", "g": "1:30", "h": "1_000", "i": "1", "j": "<<", "k": "="}
    assert read == {"a": 0.001, "d": 10, "e": 31, "l": None, "m": 15, **texts}


def test_a_whole_number_serves_as_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, BASE + "train: {optimizer: {learning_rate: 1}}").train.optimizer.learning_rate == 1.0


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()).name == "digits"


# --- malformed files: text after the three needed lines, the line at fault, its key, and a part of the message -------

MALFORMED: list[tuple[str, int, str, str]] = [
    ("trian: {epochs: 3}", 4, "trian", "unknown key 'trian'; did you mean 'train'? (accepted: name, seed, model"),
    ("train:\n  epoch: 3", 5, "train.epoch", "unknown key 'epoch'; did you mean 'epochs'?"),
    ("train: 3", 4, "train", "received 3, accepted: a mapping with keys epochs, batch_size"),
    ("train: [1]", 4, "train", "received [1], accepted: a mapping with keys epochs"),
    ("train:", 4, "train", "received nothing (null), accepted: a mapping with keys epochs, batch_size"),
    ("seed: 1\ntrain:\n  epochs: true", 6, "train.epochs", "received true, accepted: a whole number from 1 to 100000"),
    ("train:\n  epochs: 10.0", 5, "train.epochs", "received 10.0, accepted: a whole number from 1 to 100000"),
    ("train:\n  epochs: '10'", 5, "train.epochs", "received '10', accepted: a whole number"),
    (
        "train:\n  epochs: ~",
        5,
        "train.epochs",
        "received nothing (null), accepted: a whole number from 1 to 100000; leave",
    ),
    ("train:\n  epochs: 0", 5, "train.epochs", "received 0, accepted: a whole number from 1 to 100000"),
    (f"train:\n  epochs: {'9' * 200}", 5, "train.epochs", "999..., accepted: a whole number from 1 to 100000"),
    (f"seed: {'9' * 5000}", 4, "seed", "a number of 5000 digits is too long"),
    (f"task: {{unit: {'k' * 41}}}", 4, "task.unit", "accepted: text of at most 40 characters"),
    ("seed: 2147483648", 4, "seed", "accepted: a whole number in [0, 2147483648)"),
    ("train:\n  optimizer:\n    learning_rate: .inf", 6, "train.optimizer.learning_rate", "numbers must be finite"),
    ("train:\n  optimizer:\n    learning_rate: 1e999", 6, "train.optimizer.learning_rate", "numbers must be finite"),
    ("train:\n  label_smoothing: .nan", 5, "train.label_smoothing", "received .nan; numbers must be finite"),
    (
        "train:\n  optimizer: {learning_rate: yes}",
        5,
        "train.optimizer.learning_rate",
        "received 'yes', accepted: a number",
    ),
    (
        "train:\n  optimizer: {learning_rate: true}",
        5,
        "train.optimizer.learning_rate",
        "received true, accepted: a number",
    ),
    (
        "train:\n  optimizer: {name: sdg}",
        5,
        "train.optimizer.name",
        "'sgd', 'adam', 'adamw' or 'lion'; did you mean 'sgd'?",
    ),
    (
        "train:\n  optimizer:\n    no_decay: ['(']",
        6,
        "train.optimizer.no_decay",
        "'(' is not a regular expression: missing )",
    ),
    ("train:\n  optimizer: {clip_norm: 1, clip_value: 1}", 5, "train.optimizer", "exclude each other"),
    ("train:\n  optimizer: {ema_momentum: 2}", 5, "train.optimizer.ema_momentum", "a number in (0, 1), or null"),
    (
        "train:\n  optimizer:\n    lr_multipliers: {^a: x}",
        6,
        "train.optimizer.lr_multipliers.^a",
        "accepted: a number >= 0",
    ),
    (
        "train:\n  optimizer:\n    lr_multipliers: {1: 2}",
        6,
        "train.optimizer.lr_multipliers",
        "the key '1' is not text",
    ),
    ("train:\n  schedule: {name: step}", 5, "train.schedule", "schedule 'step' needs milestones, for example [60, 90]"),
    ("train:\n  schedule:\n    milestones: [3, 2]", 6, "train.schedule.milestones", "milestones must rise, received"),
    (
        "train:\n  schedule:\n    milestones:\n    - 3\n    - x",
        8,
        "train.schedule.milestones[1]",
        "received 'x', accepted",
    ),
    ("precision: {loss_scale: {initial: 0.5}}", 4, "precision.loss_scale.initial", "a number from 1 to 8.50706e+37"),
    (
        "precision:\n  loss_scale: {floor: 4, initial: 2}",
        5,
        "precision.loss_scale",
        "floor <= initial <= cap is needed",
    ),
    (
        "export: {formats: onnx}",
        4,
        "export.formats",
        "received 'onnx', accepted: a list, each 'savedmodel', 'onnx', 'litert'",
    ),
    ("export: {formats: [onx]}", 4, "export.formats[0]", "'litert' or 'litert-int8'; did you mean 'onnx'?"),
    ("export: {formats: []}", 4, "export.formats", "one or more of savedmodel, onnx, litert, litert-int8, each once"),
    ("export:\n  fold_batchnorm: 1", 5, "export.fold_batchnorm", "received 1, accepted: true or false"),
    ("verify: {min_agreement: 101}", 4, "verify.min_agreement", "received 101, accepted: a number from 0 to 100"),
    ("seed: 1\nname: other", 5, "name", "is given twice; keep one"),
    ("seed: &a 1", 4, "seed", "the anchor &a: a pipeline file takes no anchors; repeat the value"),
    ("seed: *a", 4, "seed", "the alias *a: a pipeline file takes no anchors"),
    (
        "train: !!python/object/apply:os.system [ls]",
        4,
        "train",
        "the tag !!python/object/apply:os.system: a pipeline file",
    ),
    ("seed: !!int '1'", 4, "seed", "the tag !!int: a pipeline file takes no tags; leave it out"),
    ("seed: !a%1b 1", 4, "seed", "the tag !a\\x1b: a pipeline file takes no tags"),
    ("seed: ! 1", 4, "seed", "the tag !: a pipeline file takes no tags"),
    ('name2: "\\ud800"', 4, "name2", "holds half of a surrogate pair"),
    ('"a\\nb": 1', 4, r"'a\nb'", r"unknown key 'a\nb' (accepted"),
    ("a: " + "[" * 30 + "]" * 30, 4, "a[0][0]", "is nested more than 12 levels deep"),
]


def test_names_of_items_are_names_of_files(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE.replace("digits'}", f"digits', test: {{items: ['{'9' * 5000}']}}}}"))
    assert message.startswith("p.yaml:3: data.test.items[0]: ")
    assert message.endswith("accepted: a whole number >= 0, or text of 1 to 255 characters")


@pytest.mark.parametrize(
    ("text", "line", "key", "part"), MALFORMED, ids=[f"{key}-{n}" for n, (_, _, key, _) in enumerate(MALFORMED)]
)
def test_a_malformed_file_names_line_and_key(tmp_path: Path, text: str, line: int, key: str, part: str) -> None:
    message = refusal(tmp_path, BASE + text)
    assert message.startswith(f"p.yaml:{line}: {key}: ")
    assert part in message


DATA: list[tuple[str, str, str]] = [
    ("image_size: 32", "image_size", "received 32, accepted: a list of 2, each a whole number from 1 to 4096, or null"),
    ("image_size: [32]", "image_size", "received [32], accepted: a list of 2, each a whole number from 1 to 4096"),
    ("image_size: [32, 32, 3]", "image_size", "received [32, 32, 3], accepted: a list of 2"),
    ("image_size: [32, a]", "image_size[1]", "received 'a', accepted: a whole number from 1 to 4096"),
    ("validation: true", "validation", "received true, accepted: a share in [0, 1) or a whole number >= 0"),
    ("validation: 1.0", "validation", "received 1.0, accepted: a share in [0, 1) or a whole number >= 0"),
    ("validation: -1", "validation", "received -1, accepted: a share in [0, 1) or a whole number >= 0"),
    ("validation: some", "validation", "received 'some', accepted: a share in [0, 1) or a whole number >= 0"),
    ("normalize: standard", "normalize", "or a mapping with keys mean, std; did you mean 'standardize'?"),
    ("normalize: {mean: [1]}", "normalize.std", "is needed and missing; it is a list of at least 1, each a number > 0"),
    ("normalize: {mean: 1, std: [1]}", "normalize.mean", "received 1, accepted: a list of at least 1, each a number"),
    ("normalize: {men: [1], std: [1]}", "normalize.men", "unknown key 'men'; did you mean 'mean'?"),
    ("normalize: {mean: [1], std: [0]}", "normalize.std[0]", "received 0, accepted: a number > 0"),
    ("normalize: {mean: [1], std: [1, 2]}", "normalize", "one number per channel each, received 1 and 2"),
    ("args: {depth: {a: [.inf]}}", "args.depth.a[0]", "numbers must be finite"),
    ("args: 3", "args", "received 3, accepted: a mapping"),
]


@pytest.mark.parametrize(("text", "key", "part"), DATA, ids=[text for text, _, _ in DATA])
def test_a_malformed_data_section(tmp_path: Path, text: str, key: str, part: str) -> None:
    message = refusal(tmp_path, BASE.replace("digits'}", f"digits',\n  {text}}}"))
    assert message.startswith(f"p.yaml:4: data.{key}: ")
    assert part in message


WHOLE: list[tuple[str | bytes, str]] = [
    ("", "p.yaml:1: a pipeline file is a mapping with keys such as name, model, data; it is empty"),
    ("# nothing\n", "p.yaml:1: a pipeline file is a mapping with keys such as name, model, data; it is empty"),
    ("[1]", "p.yaml:1: a pipeline file is a mapping with keys such as name, model, data; it is [1]"),
    ("name: a", "p.yaml:1: model: is needed and missing; it is a mapping with keys build, args"),
    (
        BASE.replace("digits\n", "'a b'\n"),
        "p.yaml:1: name: received 'a b', accepted: 1 to 64 letters, digits, '_', '-' or",
    ),
    (BASE.replace("name: digits", "name: "), "p.yaml:1: name: received nothing (null), accepted: 1 to 64 letters"),
    (BASE.replace("name: digits", "name: 12"), "p.yaml:1: name: received 12, accepted: 1 to 64 letters"),
    (BASE.replace("name: digits", "name: '12'"), "p.yaml:1: name: '12' would be taken for a version"),
    (BASE.replace("{build: 'net.py:build'}", "net.py"), "p.yaml:2: model: received 'net.py', accepted: a mapping with"),
    (
        BASE + "train:\n\tepochs: 3",
        "p.yaml:5: is not valid YAML: found character '\\t' that cannot start any token; indent",
    ),
    (BASE + "---\nname: b", "p.yaml:4: is not valid YAML: it holds a second document; keep one, without '---'"),
    (BASE + "a: b: c", "p.yaml:4: is not valid YAML: mapping values are not allowed here; put quotes round text"),
    (BASE + "train: {epochs: 3", "p.yaml:4: is not valid YAML: expected ',' or '}', but got '<stream end>'"),
    (BASE + "[a]: 1", "p.yaml:4: a list or a mapping cannot be a key"),
    (BASE + "1: 1", "p.yaml:4: the key '1' is not text; put quotes round it"),
    (BASE + '"\\UFFFFFFFF": 1', "p.yaml:4: is not valid YAML: "),
    (BASE + "a: \0", "p.yaml:4: is not valid YAML: the character '\\x00' cannot stand in it"),
    (b"\x89PNG\r\n\x1a\n\xff\xd8", "p.yaml: is not UTF-8 text; a pipeline file is YAML"),
    (b"x" * 300_000, "p.yaml: is larger than 262144 bytes; this is not a pipeline file"),
    ("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "p.yaml:1: a: the anchor &a: a pipeline file takes no anchors"),
    ("[" * 200_000, "p.yaml:1: [0][0][0]: is nested more than 12 levels deep"),
]


@pytest.mark.parametrize(("text", "start"), WHOLE, ids=range(len(WHOLE)))
def test_a_file_that_is_no_pipeline(tmp_path: Path, text: str | bytes, start: str) -> None:
    assert refusal(tmp_path, text).startswith(start)


@pytest.mark.parametrize(
    ("name", "part"), [("", "is a folder"), ("no.yaml", "no such pipeline file"), ("a\0b", "a null byte in its name")]
)
def test_a_path_that_is_no_file(tmp_path: Path, name: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load_pipeline(tmp_path / name)
    with pytest.raises(ConfigError, match="it is a device, not a file"):
        load_pipeline("/dev/zero")


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("export.formats=[onnx]", "export: {formats: [onnx]}"),
        ("train.epochs=3", "train: {epochs: 3}"),
        ("train={epochs: 3}", "train: {epochs: 3}"),
        ("train.optimizer.learning_rate=1e-3", "train: {optimizer: {learning_rate: 1e-3}}"),
        ("train.schedule={name: step, milestones: [1, 2]}", "train: {schedule: {name: step, milestones: [1, 2]}}"),
        ("data.image_size=null", ""),
        (" seed =5", "seed: 5"),
        ("precision.policy=float32", "precision: {policy: float32}"),
        ("train.xla=on", "train: {xla: on}"),
    ],
)
def test_an_override_equals_an_edit(tmp_path: Path, override: str, text: str) -> None:
    assert load(tmp_path, BASE, override) == load(tmp_path, BASE + text)


def test_the_last_override_wins(tmp_path: Path) -> None:
    text = BASE + "train:\n  epochs: 0\n  batch_size: 7\n"
    pipeline = load(tmp_path, text, "train.epochs=2", "train.epochs=3", "train.optimizer.name=adam")
    assert (pipeline.train.epochs, pipeline.train.batch_size, pipeline.train.optimizer.name) == (3, 7, "adam")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=0", "--set train.epochs: received 0, accepted: a whole number from 1 to 100000"),
        ("train={epochs: 0}", "--set train: train.epochs: received 0, accepted: a whole number from 1 to 100000"),
        ("trian.epochs=3", "--set trian.epochs: trian: unknown key 'trian'; did you mean 'train'?"),
        ("train.epoch=3", "--set train.epoch: unknown key 'epoch'; did you mean 'epochs'?"),
        ("train.epochs=", "--set train.epochs: received nothing (null), accepted: a whole number"),
        ("seed.x=3", "--set seed.x: seed is 1, which holds no keys; set it whole"),
        (
            "export.formats.0=onnx",
            "--set export.formats.0: export.formats is ['onnx'], which holds no keys; set it whole",
        ),
        ("export.formats=[onx]", "--set export.formats: export.formats[0]: received 'onx', accepted"),
        ("data.image_size=[1]", "--set data.image_size: received [1], accepted: a list of 2"),
        ("train.epochs", "--set train.epochs: the form is key.path=value, for example train.epochs=3"),
        ("=3", "--set =3: the form is key.path=value"),
        ("train..epochs=3", "--set train..epochs=3: the form is key.path=value"),
        ("train.epochs=[", "--set train.epochs: is not valid YAML: "),
        ("train.epochs=\0", "--set train.epochs: is not valid YAML: the character '\\x00'"),
        ("train.epochs=3\n---\n4", "--set train.epochs: is not valid YAML: it holds a second document"),
        ("train.epochs=&a 3", "--set train.epochs: the anchor &a"),
        ("train={epochs: 1, epochs: 2}", "--set train: epochs: is given twice; keep one"),
        ("\x1b[31m=3", "--set '\\x1b[31m': unknown key '\\x1b[31m'"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    assert refusal(tmp_path, BASE + "seed: 1\nexport: {formats: [onnx]}\n", override).startswith(message)


def test_a_fault_of_the_file_is_not_put_on_the_override(tmp_path: Path) -> None:
    assert refusal(tmp_path, BASE + "train: {epochs: 0}", "seed=3").startswith("p.yaml:4: train.epochs: ")
    assert refusal(tmp_path, "name: a", "seed=3").startswith("p.yaml:1: model: is needed and missing")
    assert refusal(tmp_path, "name: a", "model.args={}").startswith("--set model.args: model.build: is needed")


# --- nothing is lost -------------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "1e3",
        "0o7",
        "yes",
        "null",
        "~",
        "1:30",
        "a: b",
        "- a",
        "#",
        "2024-01-01",
        "<<",
        "=",
        "!x",
        "&a",
        "*a",
        "\u2028",
        "\ufeff",
        "012",
    ]
)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(words, values, max_size=3)
shares = st.floats(0, 1, exclude_max=True)
open_shares = st.floats(0, 1, exclude_min=True, exclude_max=True)
positive = st.floats(0, 1e30, exclude_min=True)
patterns = st.lists(st.sampled_from(["norm", "^head/", "bias$", "1e3", "0o7", "a|b", "on"]), max_size=3, unique=True)


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keys)


optimizers = some(
    name=st.sampled_from(["sgd", "adam", "adamw", "lion"]),
    learning_rate=positive | st.integers(1, 10**9),
    momentum=shares,
    nesterov=st.booleans(),
    weight_decay=st.floats(0, 1e30),
    no_decay=patterns,
    lr_multipliers=st.dictionaries(st.sampled_from(["head", "^a.b/", "1e3"]), st.floats(0, 10)),
    clip_norm=st.none() | positive,
    ema_momentum=st.none() | open_shares,
)
schedules = some(
    warmup_epochs=st.floats(0, 10),
    milestones=st.lists(st.integers(0, 100) | st.floats(0, 100), unique=True, max_size=4).map(sorted),
    factor=open_shares,
    end=st.floats(0, 1),
)
data = st.fixed_dictionaries(
    {"source": st.sampled_from(["tfds:cifar10", "sklearn:digits", "data.py:load"])},
    optional={
        "args": arguments,
        "image_size": st.none() | st.lists(st.integers(1, 4096), min_size=2, max_size=2),
        "validation": shares | st.integers(0, 10**6),
        "normalize": st.sampled_from(["unit", "none"]) | st.just({"mean": [0.5, 1], "std": [1e-30, 2.0**100]}),
        "augment": some(flip=st.sampled_from(["none", "random"]), crop=st.integers(0, 64)),
    },
)
pipelines = st.fixed_dictionaries(
    {
        "name": st.from_regex(NAME, fullmatch=True).filter(lambda name: not name.isdigit() and name[:7] != "failed-"),
        "model": st.fixed_dictionaries({"build": st.just("net.py:build")}, optional={"args": arguments}),
        "data": data,
    },
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "train": some(epochs=st.integers(1, 100_000), optimizer=optimizers, schedule=schedules, xla=st.just("off")),
        "precision": some(keep_float32=patterns, loss_scale=some(growth_interval=st.integers(1, 10**30))),
        "export": some(
            formats=st.permutations(["savedmodel", "onnx", "litert", "litert-int8"]), opset=st.integers(13, 25)
        ),
        "verify": some(max_accuracy_drop=st.floats(0, 100)),
    },
).map(Pipeline.model_validate)


@relaxed
@given(pipeline=pipelines)
def test_any_pipeline_survives_its_file(tmp_path: Path, pipeline: Pipeline) -> None:
    assert load(tmp_path, pipeline.to_yaml()) == pipeline
    assert Pipeline.model_validate(pipeline.dump()) == pipeline


@relaxed
@given(pipeline=pipelines)
def test_any_section_given_as_an_override(tmp_path: Path, pipeline: Pipeline) -> None:
    overrides = [f"{key}={json.dumps(value)}" for key, value in pipeline.dump().items() if key not in ("model", "data")]
    edited = load(tmp_path, write({**pipeline.dump(), **yaml.safe_load(BASE), "name": pipeline.name}))
    assert load(tmp_path, BASE, *overrides) == edited


def attempt(folder: Path, text: str | bytes, *overrides: str) -> None:
    """Loads, or raises ConfigError in one line; anything else fails the test."""
    try:
        load(folder, text, *overrides)
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert message.isprintable()


@relaxed
@example(text="%YAML 9.9\n---\na: 1")
@example(text="? |\n  a\n: 1")
@example(text="a: !<tag:yaml.org,2002:binary> x")
@given(text=st.text() | st.text("aAnN01.:-?[]{},&*!|>'\"%@`#~ \n\t\\xuU<=", max_size=40))
def test_any_text_loads_or_is_refused(tmp_path: Path, text: str) -> None:
    attempt(tmp_path, text.encode(errors="replace"))
    attempt(tmp_path, BASE + text.encode(errors="replace").decode())
    attempt(tmp_path, BASE, text, f"train={text}", f"model.args.x={text}")


@relaxed
@given(content=st.binary())
def test_any_bytes_load_or_are_refused(tmp_path: Path, content: bytes) -> None:
    attempt(tmp_path, content)


keys = st.sampled_from(
    [*Pipeline.model_fields, "epochs", "optimizer", "mean", "std", "normalize", "args", "formats", "image_size"]
)
trees = st.recursive(
    values,
    lambda inner: st.dictionaries(keys, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=10,
)


@relaxed
@given(tree=st.dictionaries(keys, trees, max_size=5))
def test_any_tree_loads_or_is_refused(tmp_path: Path, tree: dict[str, Any]) -> None:
    attempt(tmp_path, yaml.safe_dump(tree))
    attempt(tmp_path, yaml.safe_dump({**yaml.safe_load(BASE), **tree}))


def test_a_name_alone_in_place_of_a_section_is_refused_as_its_name(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"{BASE}outputs: {{a: ''}}\n")
    with pytest.raises(ConfigError, match=r"outputs\.a\.name: received '', accepted: one of classification, binary"):
        load_pipeline(tmp_path / "p.yaml")


def test_numbers_built_in_python_are_finite_too() -> None:
    given = yaml.safe_load(BASE)
    for number in (math.inf, math.nan):
        with pytest.raises(ValidationError):
            Pipeline.model_validate({**given, "train": {"optimizer": {"learning_rate": number}}})


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_pipeline(tmp_path / "p.yaml")


@pytest.mark.parametrize(("written", "read"), [("SGD", "sgd"), ("AdamW", "adamw"), ("lion", "lion")])
def test_optimizers_go_by_the_names_keras_writes(tmp_path: Path, written: str, read: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: a\nmodel: {build: 'm.py:build'}\ndata: {source: 'sklearn:digits'}\n"
        f"train: {{optimizer: {{name: {written}}}}}\n"
    )
    assert load_pipeline(path).train.optimizer.name == read
