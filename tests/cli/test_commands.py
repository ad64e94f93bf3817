"""The command line: what each command says, and that whatever is wrong ends in one line and the right exit code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tfhalf import __version__
from tfhalf.cli import main
from tfhalf.config import load_pipeline
from tfhalf.config.yaml_file import write
from tfhalf.errors import ConfigError, ResumeError
from tfhalf.train.record.run_folder import held
from tfhalf.workflows.train_request import Request, check

CHECKOUT = Path(__file__).resolve().parents[2]
MLP = CHECKOUT / "models" / "mlp.py"
COMMANDS = (
    "train",
    "export",
    "check",
    "verify",
    "predict",
    "serve",
    "bench",
    "compare",
    "doctor",
    "float16",
    "inspect",
    "numerics",
    "init",
)
BASE = f"name: job\nmodel: {{build: '{MLP}:build'}}\ndata: {{source: 'sklearn:digits'}}\n"


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("KERAS_BACKEND", "tensorflow"), ("TF_CPP_MIN_LOG_LEVEL", "3")):
        monkeypatch.setenv(name, value)  # the command sets them itself: put back afterwards


def call(*arguments: object, **env: str) -> Result:
    """The command in this process. An exception that is no exit is raised: it would be a traceback."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], env=env, catch_exceptions=False)
    plain(result.stdout, result.stderr)
    return result


def process(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tfhalf", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **env})
    plain(done.stdout, done.stderr)
    return done


def plain(*streams: str) -> None:
    """No terminal codes where there is no terminal."""
    for stream in streams:
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", stream), repr(stream)


def refused(result: Any, code: int = 2) -> str:
    """One line on standard error, nothing on standard output, nothing left behind; returns the message."""
    exit_code = result.exit_code if isinstance(result, Result) else result.returncode
    assert exit_code == code, (result.stdout, result.stderr)
    assert loaded(result.stdout) == ""
    said = loaded(result.stderr)
    assert said.endswith("\n")
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert not Path("runs").exists()
    return said.removeprefix("error: ").rstrip("\n")


def loaded(text: str) -> str:
    """``text`` without the lines that say what is being waited for."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("loading    "))


# --- help and version -------------------------------------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert tuple(sorted(main.commands)) == tuple(sorted(COMMANDS))
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", result.stdout, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {name} ")
    assert result.stderr == ""
    for option in (option for option in main.commands[name].params if isinstance(option, click.Option)):
        assert option.opts[0] in result.stdout
    assert call(name, "-h").stdout == result.stdout


def test_version() -> None:
    assert call("--version").stdout == f"tfhalf, version {__version__}\n"


@pytest.mark.parametrize("arguments", [("trian",), ("train", "--epochs", "3"), ("predict",), ("verify",)])
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_cause_of_an_error_is_shown_on_request(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text("name: [")
    said = call("check", tmp_path / "net.yaml", TFHALF_TRACEBACK="1").stderr.splitlines()
    assert said[0] == "Traceback (most recent call last):"
    assert any("yaml" in line for line in said[1:-1])
    refused(call("check", tmp_path / "net.yaml"))
    assert said[-1] == call("check", tmp_path / "net.yaml").stderr.rstrip()


# --- pipeline files that are malformed --------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "it is empty"),
    "only a comment": ("# name: job\n", "it is empty"),
    "a list": ("- name: job\n", "a pipeline file is a mapping"),
    "a word": ("digits\n", "a pipeline file is a mapping"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256)), ""),
    "not UTF-8": (BASE.encode() + "# caf\u00e9\n".encode("latin-1"), "UTF-8"),
    "UTF-16": (BASE.encode("utf-16"), ""),
    "a null byte": (BASE.encode() + b"seed: \x00\n", ""),
    "an escape code": (BASE.encode() + b"\x1b[31mseed: 1\n", ""),
    "an escaped escape code": (BASE + '"\\e[31mseed": 1\n', "\\x1b"),
    "a key over two lines": (BASE + '"se\\ned": 1\n', "unknown key"),
    "a tab": (BASE + "train:\n\tepochs: 3\n", "indent with spaces"),
    "an open bracket": (BASE + "verify: {min_agreement: 99\n", ""),
    "an open quote": (BASE + "train: {xla: 'on}\n", ""),
    "a key twice": (BASE + "name: other\n", "is given twice"),
    "two documents": (BASE + "---\n" + BASE, "a second document"),
    "an anchor": (BASE + "train: &a {epochs: 1}\n", "anchor"),
    "a bomb of aliases": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n" + BASE, "anchor"),
    "a Python object": (BASE + "seed: !!python/object/apply:os.system ['touch runs']\n", "tag"),
    "too deep": (BASE + "train: " + "{a: " * 60 + "1" + "}" * 60 + "\n", ""),
    "too long": (BASE + "# " + "x" * 300_000 + "\n", ""),
    "no name": (BASE.replace("name: job", "seed: 1"), "name: is needed and missing"),
    "no model": ("name: job\ndata: {source: 'sklearn:digits'}\n", "model: is needed and missing"),
    "no data": (f"name: job\nmodel: {{build: '{MLP}:build'}}\n", "data: is needed and missing"),
    "a name that climbs": (BASE.replace("job", "../job"), "name: received '../job'"),
    "a name with a slash": (BASE.replace("job", "a/b"), "name: received 'a/b'"),
    "a hidden name": (BASE.replace("job", ".staging-1"), "name: received"),
    "a number for a name": (BASE.replace("job", "'12'"), "would be taken for a version"),
    "a failed name": (BASE.replace("job", "failed-1"), "would be taken for a version"),
    "a long name": (BASE.replace("job", "x" * 65), "1 to 64 letters"),
    "an unknown section": (BASE + "trian: {epochs: 3}\n", "did you mean 'train'?"),
    "an unknown key": (BASE + "train: {epoch: 3}\n", "did you mean 'epochs'?"),
    "no epochs": (BASE + "train: {epochs: 0}\n", "train.epochs: received 0"),
    "epochs as text": (BASE + "train: {epochs: three}\n", "train.epochs: received 'three'"),
    "half an epoch": (BASE + "train: {epochs: 0.5}\n", "train.epochs: received 0.5"),
    "a negative batch": (BASE + "train: {batch_size: -1}\n", "train.batch_size: received -1"),
    "an infinite rate": (BASE + "train: {optimizer: {learning_rate: .inf}}\n", "numbers must be finite"),
    "an unknown optimizer": (BASE + "train: {optimizer: {name: adamx}}\n", "did you mean 'adam'?"),
    "an unknown policy": (BASE + "precision: {policy: bfloat16}\n", "accepted: 'mixed_float16'"),
    "a bad pattern": (BASE + "precision: {keep_float32: ['(']}\n", "not a regular expression"),
    "an unknown format": (BASE + "export: {formats: [tflite]}\n", "'savedmodel', 'onnx', 'litert' or 'litert-int8'"),
    "an opset of tomorrow": (BASE + "export: {opset: 26}\n", "from 13 to 25"),
    "agreement above 100": (BASE + "verify: {min_agreement: 100.5}\n", "from 0 to 100"),
    "a schedule without milestones": (BASE + "train: {schedule: {name: step}}\n", "needs milestones"),
    "a scale above its cap": (BASE + "precision: {loss_scale: {initial: 8, cap: 4}}\n", "floor <= initial <= cap"),
}


@pytest.mark.parametrize("command", ["check", "train"])
@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_pipeline(what: str, command: str) -> None:
    text, part = MALFORMED[what]
    Path("p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(call(command, "p.yaml"))
    assert message.startswith("p.yaml")
    assert part in message
    assert sorted(os.listdir()) == ["p.yaml"]


@pytest.mark.parametrize("what", ["a key twice", "a Python object", "an escaped escape code"])
def test_a_malformed_pipeline_in_a_process(what: str) -> None:
    text, part = MALFORMED[what]
    Path("p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert part in refused(process("train", "p.yaml"))
    assert sorted(os.listdir()) == ["p.yaml"]


def test_no_pipeline_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for command in ("check", "train"):
        assert "absent.yaml" in refused(call(command, "absent.yaml"))
        assert "folder" in refused(call(command, "folder"))
        assert "loop.yaml" in refused(call(command, "loop.yaml"))
        assert refused(call(command, "p\n\x1b[31m.yaml"))


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.epochs", "the form is key.path=value"),
        ("=3", "the form is key.path=value"),
        ("train..epochs=3", "the form is key.path=value"),
        ("", "the form is key.path=value"),
        ("train.epochs=three", "--set train.epochs: received 'three'"),
        ("train.epochs=", "--set train.epochs: received nothing (null)"),
        ("train.epoch=3", "did you mean 'epochs'?"),
        ("trian.epochs=3", "did you mean 'train'?"),
        ("name.first=x", "which holds no keys"),
        ("train=3", "--set train: received 3"),
        ("train.epochs={a: [", "--set train.epochs"),
        ("train.epochs=\x1b[31m", "--set train.epochs"),
        ("seed=!!python/name:os.system ''", "tag"),
    ],
)
def test_overrides_that_do_not_fit(override: str, part: str) -> None:
    Path("p.yaml").write_text(BASE)
    for command in ("check", "train"):
        assert part in refused(call(command, "p.yaml", "--set", override))


# --- pipelines that are well-formed and cannot be run -----------------------------------------------------------------

MODELS = """
import keras
from keras import layers
three = 3
def build(*, input_shape, num_classes, width=4):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Dense(num_classes)(layers.Flatten()(image)))
def raises(*, input_shape, num_classes):
    raise RuntimeError("first line\\nsecond line")
def leaves(*, input_shape, num_classes):
    raise SystemExit(0)
def nothing(*, input_shape, num_classes):
    return None
def no_arguments():
    return None
def seven(*, input_shape, num_classes):
    return build(input_shape=input_shape, num_classes=7)
def two(*, input_shape, num_classes):
    model = build(input_shape=input_shape, num_classes=num_classes)
    return keras.Model(model.inputs, [model.output, model.output])
def not_flat(*, input_shape, num_classes):
    image = keras.Input(input_shape)
    return keras.Model(image, layers.Dense(num_classes)(image))
def global_policy(*, input_shape, num_classes):
    keras.config.set_dtype_policy("float16")
    return build(input_shape=input_shape, num_classes=num_classes)
def load():
    return {"x": [[1.0, 2.0], [3.0]], "y": [0, 1]}
def load_list():
    return [1, 2]
def load_raises():
    raise OSError("no such disk")
"""


def _sources() -> None:
    """Data and model files beside ``p.yaml``, right and wrong ones."""
    Path("net.py").write_text(MODELS)
    Path("broken.py").write_text("def build(:\n")
    Path("dies.py").write_text("import sys\nsys.exit(3)\n")
    x, y = np.zeros((20, 4, 4, 1), np.uint8), np.arange(20) % 2
    np.savez("label.npz", x_train=x, y_train=y, x_test=x, y_test=np.where(np.arange(20) == 7, 2, y))
    np.savez("negative.npz", x=x, y=y - 1)
    np.savez("objects.npz", x=x, y=np.array([object()] * 20), allow_pickle=True)
    np.savez("lengths.npz", x=x, y=y[:-1])
    np.savez("infinite.npz", x=np.full((20, 4), np.inf, np.float32), y=y)
    Path("cut.npz").write_bytes(Path("negative.npz").read_bytes()[:100])
    for name in ("cat", "dog"):
        (Path("images") / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(f"images/{name}/1.png")
    Path("images/dog/2.png").write_bytes(Path("images/dog/1.png").read_bytes()[:40])


class GoneError(BaseException):
    """What ends a process, and is no Exception."""


UNUSABLE = {
    "model.build: ['no.py:build']": "",
    "model.build: no.py:build": "there is no file",
    "model.build: net.py:bild": "did you mean 'build'?",
    "model.build: net.py:three": "not a callable",
    "model.build: net.py": "is not a reference",
    "model.build: no_such_module_here:build": "no module named",
    "model.build: broken.py:build": "SyntaxError",
    "model.build: dies.py:build": "SystemExit",
    "model.build: net.py:raises": "RuntimeError: first line second line",
    "model.build: net.py:leaves": "SystemExit: 0 (raised at net.py:",
    "model.build: net.py:nothing": "returned a NoneType",
    "model.build: net.py:no_arguments": "takes no 'input_shape'",
    "model.build: net.py:seven": "gives [N, 7]; classification needs [N, 10]",
    "model.build: net.py:two": "2 outputs",
    "model.build: net.py:not_flat": "classification needs [N, 10]: a last layer Dense(10) without activation",
    "model.build: net.py:global_policy": "changed the global dtype policy",
    "model.args: {widht: 3}": "takes no 'widht'",
    "precision.keep_float32: [conv9]": "'conv9' matches no layer",
    "data.source: folder:nowhere": "does not exist",
    "data.source: folder:images": "dog/2.png",
    "data.source: npz:nowhere.npz": "does not exist",
    "data.source: npz:label.npz": "y_test[7] is 2 where the training part has 2 classes",
    "data.source: npz:negative.npz": "y_train[0] is -1",
    "data.source: npz:objects.npz": "",
    "data.source: npz:lengths.npz": "20 items",
    "data.source: npz:infinite.npz": "finite",
    "data.source: npz:cut.npz": "cut short",
    "data.source: npz:net.py": "is not an npz file",
    "data.source: sklearn:iris": "accepted: sklearn:digits",
    "data.source: sklaern:digits": "did you mean 'sklearn:digits'?",
    "data.source: net.py:load": "",
    "data.source: net.py:load_list": "",
    "data.source: net.py:load_raises": "no such disk",
    "data.source: net.py:laod": "did you mean 'load'?",
    "data.args: {a: 1}": "remove data.args",
    "data.validation: 5000": "data.validation",
}


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), GoneError()])
def test_code_that_ends_the_process_does_not_decide_how_the_command_ends(error: BaseException) -> None:
    group = type(main)("group")

    @group.command("train")
    def ends() -> None:
        raise error

    message = refused(CliRunner().invoke(group, ["train"], catch_exceptions=False))
    assert message.startswith("the code that was given fails: ")
    assert "such code must return or raise an Exception" in message


@pytest.mark.parametrize("change", UNUSABLE)
def test_a_pipeline_that_cannot_be_run(change: str) -> None:
    _sources()
    Path("p.yaml").write_text("name: job\nmodel: {build: 'net.py:build'}\ndata: {source: 'sklearn:digits'}\n")
    key, _, value = change.partition(": ")
    there = sorted(os.listdir())
    for command in ("check", "train"):
        assert UNUSABLE[change] in refused(call(command, "p.yaml", "--set", f"{key}={value}"))
    assert sorted(os.listdir()) == there


def test_check_says_what_a_pipeline_resolves_to() -> None:
    Path("p.yaml").write_text(BASE)
    result = call("check", "p.yaml", "--set", "train.epochs=3", "--set", "precision.policy=float32")
    assert result.exit_code == 0
    assert loaded(result.stderr) == ""
    assert "# p.yaml: valid\n# data: 1,294 train, 144 validation, 359 test; 10 classes" in result.stdout
    Path("resolved.yaml").write_text(result.stdout)
    expected = load_pipeline("p.yaml", ["train.epochs=3", "precision.policy=float32"])
    assert load_pipeline("resolved.yaml") == expected
    told = json.loads(call("check", "p.yaml", "--json", "--set", "train.epochs=3").stdout)
    assert told["pipeline"]["train"]["epochs"] == 3
    assert told["data"]["input"] == [8, 8, 1]
    assert told["data"]["classes"] == list("0123456789")
    assert told["model"]["parameters"] == 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert told["islands"] is None
    batch = told["pipeline"]["train"]["batch_size"]
    assert told["steps"] == 3 * (1294 // batch)
    assert f"# steps: {1294 // batch} of {batch} images x 3 epochs" in result.stdout
    schedule = "train.schedule={name: step, milestones: [2], factor: 0.5, decay: batch, max_batch_size: 512}"
    grown = call(
        "check", "p.yaml", "--set", "train.epochs=3", "--set", schedule, "--set", "train.batch_size=128"
    ).stdout
    assert "# steps: 10 of 128 images x 2, 5 of 256 images x 1 epochs\n# batches of 128, 256, one after" in grown
    assert not Path("runs").exists()
    assert not Path("exports").exists()


# --- runs -------------------------------------------------------------------------------------------------------------


def run_folder(name: str, *overrides: str, **facts: object) -> Path:
    """A run of ``p.yaml`` that has only begun."""
    Path("p.yaml").write_text(BASE)
    run = Path(name)
    run.mkdir(parents=True, exist_ok=True)
    held = {"pipeline_file": str(Path("p.yaml").resolve()), "data_dir": None, **facts}
    (run / "run.json").write_text(json.dumps(held))
    (run / "pipeline.yaml").write_text(write(load_pipeline("p.yaml", overrides).dump()))
    return run


def test_what_train_and_resume_are_given() -> None:
    Path("p.yaml").write_text(BASE)
    assert "give a PIPELINE file, --resume RUN, or both" in refused(call("train"))
    assert "give PIPELINE, or name RUN" in refused(call("train", "--resume"))
    assert "give PIPELINE, or name RUN" in refused(call("train", "--resume", "--quiet"))
    assert "p.yaml: is a pipeline file; put it before --resume" in refused(call("train", "--resume", "p.yaml"))
    assert "runs/x: is not a run folder" in refused(call("train", "p.yaml", "--resume", "runs/x"))
    assert "holds no unfinished run; leave --resume out" in refused(call("train", "p.yaml", "--resume"))
    assert "--set and --smoke" in refused(call("train", "--resume", "x", "--smoke"))
    assert "--set and --smoke" in refused(call("train", "p.yaml", "--smoke", "--resume"))
    assert "--set and --smoke" in refused(call("train", "--resume", "x", "--set", "seed=1"))


def test_a_pipeline_that_no_longer_matches_its_run() -> None:
    run = run_folder("jobs/job/20260101-000000", "seed=3", "train.epochs=7")
    words = f"{run}: was trained with other settings: seed 3 -> 0, train.epochs 7 -> 10; bring them back"
    assert words in refused(call("train", "p.yaml", "--resume", str(run)))
    assert words in refused(call("train", "p.yaml", "--runs", "jobs", "--resume"))
    changed = ("--set", "train.epochs=9", "--set", "seed=3", "--set", "train.schedule.name=cosine")
    cosine = run_folder("jobs/job/20260101-000000", "seed=3", "train.epochs=7", "train.schedule.name=cosine")
    assert cosine == run
    words = "train.epochs 7 -> 9: schedule 'cosine' spans all epochs; bring it back, or begin a new run"
    assert words in refused(call("train", "p.yaml", *changed, "--runs", "jobs", "--resume"))
    assert "started without --deterministic" in refused(call("train", "--resume", str(run), "--deterministic"))


PUBLISHED = '{"version": "exports/job/1"}'


def test_the_newest_unfinished_run() -> None:
    old, new = (run_folder(f"jobs/job/20260101-00000{second}", smoke=False) for second in (1, 3))
    later = run_folder("jobs/job/20260101-000003-10", deterministic=True)
    smoke = run_folder("jobs/job/20260101-000004", smoke=True)
    (Path("jobs/job") / "20260101-000009").mkdir()  # killed before it became a run

    def found(*overrides: str) -> Request:
        return check(Path("p.yaml"), overrides, resume="newest", runs_folder=Path("jobs"))

    request = found("export.opset=15", "train.feed=streamed")
    assert (request.run, request.deterministic, request.smoke) == (later, True, False)
    assert (request.pipeline.export.opset, request.pipeline.train.feed) == (15, "streamed")
    (later / "outcome.json").write_text(PUBLISHED)
    assert found().run == new
    (new / "outcome.json").write_text('{"version": null}')
    assert found().run == new  # trained, and published nothing
    (new / "outcome.json").write_text(PUBLISHED)
    assert found().run == old
    (old / "outcome.json").write_text(PUBLISHED)
    with pytest.raises(ConfigError, match="holds no unfinished run"):
        found()
    named = check(None, (), resume=str(smoke), runs_folder=Path("jobs"), on_blowup="rollback")
    assert (named.run, named.smoke, named.source) == (smoke, True, Path("p.yaml").resolve())
    assert named.pipeline.train.blowup.action == "rollback"


def test_layers_that_were_found_for_a_run_are_not_looked_for_again() -> None:
    run_folder("jobs/job/20260101-000000", "precision.keep_float32=[dense]")
    Path("p.yaml").write_text(BASE + "precision: {keep_float32: auto}\n")
    request = check(Path("p.yaml"), (), resume="newest", runs_folder=Path("jobs"))
    assert request.pipeline.precision.keep_float32 == ("dense",)


def test_a_run_keeps_the_normalisation_that_its_model_decided() -> None:
    """A net of words took them as they are; the file leaves it to the model still."""
    run_folder("jobs/job/20260101-000000", "data.normalize=none")
    request = check(Path("p.yaml"), (), resume="newest", runs_folder=Path("jobs"))
    assert request.pipeline.data.normalize == "none"
    with pytest.raises(ConfigError, match=r"data\.normalize"):
        check(Path("p.yaml"), ("data.normalize=unit",), resume="newest", runs_folder=Path("jobs"))


def test_one_process_at_a_time_works_in_a_run() -> None:
    run = run_folder("jobs/job/20260101-000000")
    with held(run), pytest.raises(ResumeError, match="another process is training it"), held(run):
        pass
    with held(run):
        pass


@pytest.mark.parametrize("arguments", [("train", "--resume"), ("export",)])
def test_a_folder_that_is_no_run(arguments: tuple[str, ...]) -> None:
    Path("empty").mkdir()
    Path("file").write_text("")
    for name in ("absent", "empty", "file"):
        assert name in refused(call(*arguments, name))


@pytest.mark.parametrize(
    ("text", "code"),
    [("{", 1), ("[]", 1), ("{}", 1), ('{"pipeline_file": 3}', 1), ("\x00", 1), ('{"pipeline_file": "gone.yaml"}', 2)],
)
def test_a_damaged_run(text: str, code: int) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text(text)
    assert "run" in refused(call("train", "--resume", "run"), code)
    assert "run" in refused(call("export", "run"), code)


def test_a_run_without_a_checkpoint() -> None:
    run = run_folder("run")
    assert "ended after epoch 0 of 10; finish it first" in refused(call("export", "run"), 1)
    (run / "checkpoints/00000010").mkdir(parents=True)
    done = call("export", "run")
    assert loaded(done.stdout) == "checkpoint run/checkpoints/00000010: passed over: No such file or directory\n"
    assert "no checkpoint in it is whole (1 damaged)" in done.stderr
    assert done.exit_code == 1
    assert not Path("exports").exists()


@pytest.mark.parametrize("option", ["--exports", "--runs"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_that_have_no_place_to_go(option: str, place: str) -> None:
    """Told before training, not after it."""
    Path("p.yaml").write_text(BASE)
    Path("file").write_text("")
    message = refused(call("train", "p.yaml", option, place))
    assert message.startswith(place)
    assert option in message
    assert sorted(os.listdir()) == ["file", "p.yaml"]


# --- published versions -----------------------------------------------------------------------------------------------


def version(directory: Path = Path("exports/job/1")) -> Path:
    """A version directory whose artifacts hold nothing."""
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"onnx")
    (directory / "reference.npz").write_bytes(b"reference")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(directory.iterdir())
    }
    Path("p.yaml").write_text(BASE)
    pipeline = load_pipeline("p.yaml", ["export.formats=[onnx]"])
    manifest = {
        "schema": 1,
        "name": "job",
        "config": pipeline.dump(),
        "pipeline_file": str(Path("p.yaml").resolve()),
        "seed": 0,
        "data": {"source": "sklearn:digits", "sizes": {"train": 1294, "validation": 144, "test": 359}},
        "input": {"name": "image", "dtype": "float32", "shape": ["batch", 8, 8, 1]},
        "labels": list("0123456789"),
        "files": files,
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_verify_where_nothing_was_published() -> None:
    Path("empty").mkdir()
    Path("file").write_text("")
    assert "does not exist" in refused(call("verify", "exports/job"))
    assert "holds no exported version" in refused(call("verify", "empty"))
    assert "file" in refused(call("verify", "file"))
    version()
    assert "holds the exports job; give one of them" in refused(call("verify", "exports"))
    assert "does not exist" in refused(call("verify", "exports/job/2"))


def test_verify_names_a_file_that_was_tampered_with() -> None:
    directory = version()
    (directory / "model.onnx").write_bytes(b"0nnx")
    for path in ("exports/job", directory):
        message = refused(call("verify", path), 1)
        assert message.startswith("exports/job/1/model.onnx: is not the file that was published")
    Image.new("L", (8, 8)).save("digit.png")
    assert "model.onnx: is not the file" in refused(call("predict", "exports/job", "digit.png"), 1)


def test_verify_names_a_file_that_is_missing_or_not_recorded() -> None:
    directory = version()
    (directory / "extra.bin").write_text("")
    assert "extra.bin: is not in the manifest" in refused(call("verify", directory), 1)
    (directory / "extra.bin").unlink()
    (directory / "reference.npz").unlink()
    assert "reference.npz: is missing" in refused(call("verify", directory), 1)


def test_verify_of_artifacts_that_do_not_open() -> None:
    assert "reference.npz: cannot be read" in refused(call("verify", version()))


def without(*keys: str) -> str:
    manifest = json.loads(Path("exports/job/1/manifest.json").read_text())
    inner = manifest
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return json.dumps(manifest)


@pytest.mark.parametrize("garbage", ["", "{", "[]", "null", "3", '"text"', "{}", '{"schema": 3}', "[" * 100_000])
def test_a_manifest_that_is_garbage(garbage: str) -> None:
    directory = version()
    (directory / "manifest.json").write_text(garbage)
    Image.new("L", (8, 8)).save("digit.png")
    assert "manifest.json" in refused(call("verify", "exports/job"))
    assert "manifest.json" in refused(call("predict", "exports/job", "digit.png"))


def test_a_manifest_that_is_not_text() -> None:
    (version() / "manifest.json").write_bytes(b"\xff\xfe\x00{")
    assert "manifest.json: is not readable JSON" in refused(call("verify", "exports/job"))


@pytest.mark.parametrize(
    "keys", ["name", "config", "files", "labels", "input", "seed", "data", "config.data", "config.export", "data.sizes"]
)
def test_a_manifest_that_lacks_something(keys: str) -> None:
    directory = version()
    (directory / "manifest.json").write_text(without(*keys.split(".")))
    assert "manifest.json" in refused(call("verify", "exports/job"))


@pytest.mark.parametrize(
    "keys",
    [
        *("config", "files", "labels", "input", "data", "pipeline_file", "files.model.onnx"),
        *("config.data.source", "config.verify.min_agreement", "config.export.formats"),
    ],
)
def test_a_manifest_with_values_of_other_kinds(keys: str) -> None:
    directory = version()
    manifest = inner = json.loads((directory / "manifest.json").read_text())
    first, *rest = keys.split(".", 1 if keys.startswith("files") else -1)
    for key in rest:
        inner, first = inner[first], key
    inner[first] = -3
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert "manifest.json" in refused(call("verify", "exports/job"))


def test_predict_needs_images() -> None:
    directory = version()
    Image.new("L", (8, 8)).save("good.png")
    Path("text.png").write_text("no image")
    Path("none.png").write_bytes(b"")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save("whole.png")
    Path("cut.png").write_bytes(Path("whole.png").read_bytes()[:2000])
    Image.open("whole.png").save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:700])
    assert "absent.png: no such image" in refused(call("predict", directory, "absent.png"))
    for name in ("text.png", "none.png", "cut.png", "cut.jpg", "p.yaml"):
        assert f"{name}: cannot be read as an image" in refused(call("predict", directory, "good.png", name))
    assert "exports: holds no image" in refused(call("predict", directory, "good.png", "exports"))
    assert "does not exist" in refused(call("predict", "exports/other", "good.png"))
    assert "holds no saved_model.pb; it has onnx" in refused(
        call("predict", directory, "good.png", "--runtime", "savedmodel")
    )
    assert "model.onnx: is not an ONNX file" in refused(call("predict", directory, "good.png"))
    for wrong in (("--top", "0"), ("--runtime", "tflite")):
        assert call("predict", directory, "good.png", *wrong).exit_code == 2


def test_predict_where_the_model_takes_no_images() -> None:
    directory = version()
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["input"]["shape"] = ["batch", 13, 2]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    Image.new("L", (8, 8)).save("good.png")
    message = refused(call("predict", directory, "good.png"))
    assert "float32 [batch, 13, 2]: not images, texts or rows of a table; give a file DATA.npz" in message
    np.savez("none.npz", other=np.zeros((1, 13, 2)), another=np.zeros(1))
    assert "none.npz: lacks the array" in refused(call("predict", directory, "none.npz"))


# --- init and doctor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_init_writes_the_starters(there: bool) -> None:
    if there:
        Path("mine").mkdir()
    result = call("init", "mine")
    assert result.exit_code == 0
    assert result.stderr == ""
    written = {path.relative_to("mine").as_posix(): path.read_bytes() for path in Path("mine").rglob("*.*")}
    wanted = [*CHECKOUT.glob("pipelines/**/*.yaml"), *CHECKOUT.glob("models/*.py")]
    assert written == {path.relative_to(CHECKOUT).as_posix(): path.read_bytes() for path in wanted}
    assert len(written) >= 7
    *lines, own, last = result.stdout.splitlines()
    assert sorted(lines) == sorted(f"mine/{name}" for name in written)
    assert "pipelines/templates" in own
    assert last == "next: cd mine && tfhalf train pipelines/digits.yaml"
    assert load_pipeline("mine/pipelines/digits.yaml").name == "digits"


def test_init_leaves_what_is_there() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    Path("file").write_text("")
    for name in ("mine", "file"):
        assert "is not empty" in refused(call("init", name))
    assert "choose another folder" in refused(call("init", "file/below"))
    assert sorted(str(path) for path in Path().rglob("*")) == ["file", "mine", "mine/notes.txt"]


def test_doctor() -> None:
    result = call("doctor")
    assert result.stderr == ""
    assert re.search(r"^ok +Python +3\.", result.stdout, re.MULTILINE)
    told = call("doctor", "--json")
    findings = json.loads(told.stdout)
    assert set(findings) == {"healthy", "findings", "cache"}
    assert findings["healthy"] is all(row["status"] != "bad" for row in findings["findings"])
    assert result.exit_code == told.exit_code == (0 if findings["healthy"] else 1)
    assert {"Python", "tensorflow", "XLA", "cache"} <= {row["name"] for row in findings["findings"]}


def test_doctor_says_of_a_cache_that_it_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def contents() -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/there/programs")

    monkeypatch.setattr("tfhalf.system.cache_contents.contents", contents)
    findings = json.loads(call("doctor", "--json").stdout)
    assert findings["cache"] is None
    (cache,) = [row for row in findings["findings"] if row["name"] == "cache"]
    assert (cache["status"], cache["value"]) == ("warn", "/there/programs: Permission denied")
    assert "set TFHALF_CACHE_DIR" in cache["advice"]


def test_doctor_empties_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    key = cache / "programs" / "0123456789abcdef"
    key.mkdir(parents=True)
    (key / "a.pb").write_bytes(b"x" * 1000)
    (cache / f"folder-{'0' * 32}.npz").write_bytes(b"y" * 500)
    (cache / "mine.txt").write_bytes(b"zz")
    result = call("doctor", "--clear-cache", TFHALF_CACHE_DIR=str(cache))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{cache}: removed 2 files, 1.50 kB",
        "left       1 files that tfhalf did not write, 2 bytes",
    ]
    assert [path.name for path in cache.rglob("*")] == ["mine.txt"]
    again = json.loads(call("doctor", "--clear-cache", "--json", TFHALF_CACHE_DIR=str(cache)).stdout)
    assert again["removed"] == {"files": 0, "bytes": 0}
    assert again["others"] == {"files": 1, "bytes": 2}


def test_a_limit_of_the_cache_that_is_not_a_size_is_one_line() -> None:
    for arguments in (("doctor",), ("doctor", "--clear-cache")):
        assert "TFHALF_CACHE_LIMIT='much' is not a size" in refused(call(*arguments, TFHALF_CACHE_LIMIT="much"))
    Path("p.yaml").write_text(BASE)
    for arguments in (("train", "p.yaml"), ("numerics", "p.yaml"), ("bench", "p.yaml")):
        assert "TFHALF_CACHE_LIMIT='much' is not a size" in refused(call(*arguments, TFHALF_CACHE_LIMIT="much"))


def test_another_backend_is_refused() -> None:
    version()
    for arguments in (("train", "p.yaml"), ("check", "p.yaml"), ("verify", "exports/job"), ("doctor",)):
        assert "KERAS_BACKEND is 'jax'" in refused(call(*arguments, KERAS_BACKEND="jax"))
    assert "KERAS_BACKEND is 'jax'" in refused(process("train", "p.yaml", KERAS_BACKEND="jax"))


@pytest.mark.slow
def test_a_failure_after_tensorflow_is_imported_is_one_line_too() -> None:
    """TensorFlow's libraries write to standard error while they are imported: nothing of that is to be seen."""
    Path("p.yaml").write_text(BASE)
    assert "does not exist" in refused(process("train", "p.yaml", "--set", "data.source=npz:absent.npz"))


# --- help -------------------------------------------------------------------------------------------------------------

OPTIONS = [
    pytest.param(option, id=f"{name} {option.opts[-1]}")
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.parametrize("option", OPTIONS)
def test_the_help_of_an_option_makes_sense_alone(option: click.Option) -> None:
    """A verb phrase or a full noun phrase, not a caption such as "Of an image."."""
    words = (option.help or "").split()
    assert len(words) >= 3
    assert words[0][0].isupper()
    assert words[0] not in ("At", "Below", "By", "For", "From", "In", "Of", "On", "Only", "The", "To", "Which", "With")
    assert words[-1][-1] in ".]"


def test_the_commands_short_helps_begin_with_a_verb() -> None:
    first = {command.get_short_help_str().split()[0] for command in main.commands.values()}
    verbs = {"Answer", "Check", "Compare", "Export", "Measure", "Print", "Show", "Train", "Validate", "Write"}
    assert first == verbs
