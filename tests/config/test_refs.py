"""References: "file.py:name" and "package.module:name" to a callable."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfhalf.config.refs import resolve, sibling, user_code
from tfhalf.errors import DataError, RefError


@pytest.fixture(autouse=True)
def import_state() -> Iterator[None]:
    """`sys.path` stays as it is, and no user file stands in `sys.modules` under its own name."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    assert sys.path == path
    user = {name for name, module in sys.modules.items() if "_tfhalf_user_" in name or name in ("net", "build")}
    assert all(name.startswith("_tfhalf_user_") for name in user - modules)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(ref: str, base: Path) -> str:
    with pytest.raises(RefError) as caught:
        resolve(ref, base)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert repr(ref) in message
    return message


def test_a_file_is_found_from_the_base_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "models" / "net.py", "def build(): return 'models'")
    write(tmp_path / "pipelines" / "net.py", "def build(): return 'pipelines'")
    monkeypatch.chdir(tmp_path / "models")
    assert resolve("net.py:build", tmp_path / "pipelines")() == "pipelines"
    assert resolve("../models/net.py:build", tmp_path / "pipelines")() == "models"
    assert resolve(f"{tmp_path}/models/net.py:build", "/")() == "models"


def test_files_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    for folder in "ab":
        write(tmp_path / folder / "net.py", "X = []\ndef build(): return X")
    a, b = (resolve("net.py:build", tmp_path / folder) for folder in "ab")
    assert a() is not b()
    assert a.__module__ != b.__module__
    assert sys.modules[a.__module__].__file__ == str(tmp_path / "a" / "net.py")


def test_an_unchanged_file_runs_once(tmp_path: Path) -> None:
    write(tmp_path / "net.py", "def build(): return 1")
    assert resolve("net.py:build", tmp_path) is resolve("./net.py:build", tmp_path)


def test_an_edited_file_runs_anew_even_at_the_same_size_and_time(tmp_path: Path) -> None:
    path = write(tmp_path / "net.py", "def build(): return 1")
    os.utime(path, (1e9, 1e9))
    before = resolve("net.py:build", tmp_path)
    write(path, "def build(): return 2")
    os.utime(path, (1e9, 1e9))
    assert resolve("net.py:build", tmp_path)() == 2
    assert before() == 1
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_need_not_have_a_python_name(tmp_path: Path) -> None:
    write(tmp_path / "my-net v1.2.py", "class Net:\n    pass\ndef build(): return Net")
    net = resolve("my-net v1.2.py:build", tmp_path)()
    assert isinstance(pickle.loads(pickle.dumps(net())), net)


def test_a_link_leads_to_the_same_module(tmp_path: Path) -> None:
    write(tmp_path / "net.py", "def build(): return 1")
    (tmp_path / "link.py").symlink_to("net.py")
    assert resolve("link.py:build", tmp_path) is resolve("net.py:build", tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\ndef build(:\n", ":2 fails while it is run: SyntaxError"),
        ("x = 1\n\nraise ValueError('two\\nlines')\n", ":3 fails while it is run: ValueError: two lines"),
        ("def f():\n    return 1 / 0\nf()\n", ":2 fails while it is run: ZeroDivisionError"),
        ("import no_such_module_here\n", ":1 fails while it is run: ModuleNotFoundError: No module named"),
        ("import json\njson.loads('x')\n", ":2 fails while it is run: JSONDecodeError"),
        ("compile('a b', 'elsewhere', 'exec')\n", ":1 fails while it is run: SyntaxError"),
        ("import sys\nsys.exit('bye')\n", ":2 fails while it is run: SystemExit: bye"),
        ("x = '\0'\n", " fails while it is run: "),
    ],
)
def test_a_failing_file_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path / "net.py", text)
    modules = set(sys.modules)
    assert f"{path}{expected}" in refusal("net.py:build", tmp_path)
    assert not [name for name in set(sys.modules) - modules if name.startswith("_tfhalf")]


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_bytes(b"x = '\xff'\n")
    assert f"{tmp_path / 'net.py'}" in refusal("net.py:build", tmp_path)


def test_a_mended_file_works(tmp_path: Path) -> None:
    path = write(tmp_path / "net.py", "raise ValueError")
    refusal("net.py:build", tmp_path)
    write(path, "def build(): return 1")
    assert resolve("net.py:build", tmp_path)() == 1


def test_an_interrupt_stays_one(tmp_path: Path) -> None:
    write(tmp_path / "net.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        resolve("net.py:build", tmp_path)


def test_a_missing_name_brings_a_suggestion(tmp_path: Path) -> None:
    write(tmp_path / "net.py", "def build(): return 1\nsize = 3\nnothing = None\n")
    assert refusal("net.py:biuld", tmp_path).endswith("net.py has no 'biuld'; did you mean 'build'?")
    assert refusal("net.py:zzz", tmp_path).endswith("net.py has no 'zzz'")
    assert refusal("net.py:size", tmp_path).endswith("'size' is of type int, not a callable")
    assert refusal("net.py:nothing", tmp_path).endswith("'nothing' is of type NoneType, not a callable")


def test_a_name_made_on_demand_may_fail(tmp_path: Path) -> None:
    write(tmp_path / "net.py", "def __getattr__(name): raise OSError('no\\ndisk')")
    assert refusal("net.py:build", tmp_path).endswith("fails to give 'build': OSError: no disk")


@pytest.mark.parametrize(
    "ref", ["", ":", "net.py", "net.py:", ":build", "net.py:a.b", "net.py:1", "..x:a", "a-b:c", "a b:c"]
)
def test_what_is_no_reference(tmp_path: Path, ref: str) -> None:
    assert "accepted: file.py:name, package.module:name" in refusal(ref, tmp_path)


@pytest.mark.parametrize("where", ["none.py", "folder.py", "file.txt/net.py", "no\0where.py", "loop.py"])
def test_no_such_file(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder.py").mkdir()
    write(tmp_path / "file.txt", "")
    (tmp_path / "loop.py").symlink_to("loop.py")
    message = refusal(f"{where}:build", tmp_path)
    assert "there is no file" in message or "cannot be read" in message


def test_a_module() -> None:
    import json

    assert resolve("json:dumps", "/") is json.dumps
    assert resolve("collections.abc:Mapping", "/").__name__ == "Mapping"


def test_a_module_of_keras() -> None:
    keras = pytest.importorskip("keras")
    assert resolve("keras.applications:ResNet50V2", "/") is keras.applications.ResNet50V2
    assert refusal("keras.applications:ResNet50v2", Path("/")).endswith("did you mean 'ResNet50V2'?")


def test_a_missing_module() -> None:
    assert "no module named 'no_such_package'; install it" in refusal("no_such_package.nets:build", Path("/"))
    assert "no module named 'json.nets'" in refusal("json.nets:build", Path("/"))


def test_a_module_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "tfhalf_broken_module.py", "1 / 0")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        message = refusal("tfhalf_broken_module:build", tmp_path)
    assert "importing tfhalf_broken_module fails: ZeroDivisionError" in message


class Leaves(BaseException):
    """What ends a process, and is no Exception."""


@pytest.mark.parametrize("error", [SystemExit(0), Leaves("gone")])
def test_code_that_ends_the_process_fails(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught, user_code("load fails", DataError, "; correct it"):
        raise error
    assert re.match(r"load fails: .* \(raised at test_refs.py:\d+\); such code must .*; correct it$", str(caught.value))
    write(tmp_path / "net.py", f"class Leaves(BaseException): pass\nraise {type(error).__name__}(0)\n")
    assert "net.py:2 fails while it is run" in refusal("net.py:build", tmp_path)


def test_errors_of_tfhalf_and_an_interrupt_stay_what_they_are() -> None:
    for error in (DataError("too long"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, user_code("load fails"):
            raise error
        assert caught.value is error


def test_a_sibling_lives_in_the_same_file(tmp_path: Path) -> None:
    write(tmp_path / "net.py", "def build(): return 1\ndef preprocess(): return 2\nsize = 3\n")
    build = resolve("net.py:build", tmp_path)
    found = sibling(build, "preprocess")
    assert found is not None
    assert found() == 2
    assert sibling(build, "size") is None
    assert sibling(build, "none") is None
