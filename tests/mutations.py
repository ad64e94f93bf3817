"""Damaged and hostile files of every kind, and what tfhalf makes of them: ``python tests/mutations.py 300 [SEED]``.

Good files are made once: two published versions, a ``.keras`` file, an ``.h5`` file and an array file. Each case
changes one of them by its structure (a value of its JSON, a field of its protobuf message, an array's header, an
operator's name) or its bytes, makes the manifest's hashes fit again, and gives it to a command of tfhalf in a process
of its own limits. Wrong is a traceback, a file that appears, more than `MEMORY` or `SECONDS`, a process that ends, or
an error of several lines.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = 2 << 30
SECONDS = 20.0
_HOSTILE_OPS = ("WriteFile", "ReadFile", "PyFunc", "PrintV2", "Fill", "Tile", "Where", "Softmax", "MatMul", "Greater")
_TEXTS = (
    "",
    "a" * 9000,
    "\x1b[31m\u202e\0",
    "../../../etc/passwd",
    "/dev/zero",
    "os:system",
    "\ud800",
    "float99",
    "-1",
)
_NUMBERS = (0, -1, 1, 3, 255, 1 << 20, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_LOOSE = (None, True, False, 1 << 80, -(1 << 70), 1e308, -0.5, [], {}, [[]], [None], {"a": {}}, *_TEXTS, *_NUMBERS)

Random = np.random.Generator


@dataclass(frozen=True)
class Case:
    """A change of one good file, and the command that is given the result."""

    name: str
    arguments: list[str]


# --- good files -------------------------------------------------------------------------------------------------------


def make_good(folder: Path) -> None:
    """Every kind of file that tfhalf reads, below ``folder``."""
    import keras
    import zoo_helpers
    from keras import layers
    from PIL import Image
    from test_verify import X, Y
    from test_verify import export as export_pipeline

    from tfhalf.convert import job
    from tfhalf.convert.options import Options, Request
    from tfhalf.progress import Progress
    from tfhalf.verify import data_sha256

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu", padding="same")(image))
    x = layers.LSTM(4)(layers.Reshape((8, 32))(x))
    model = keras.Model(image, layers.Dense(3, name="head")(x))
    model.save(folder / "m.keras")
    model.save(folder / "m.h5")
    np.savez(folder / "in.npz", image=np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32))
    job.Verifier = zoo_helpers.Here  # type: ignore[misc,assignment]
    options = Options(exports=folder / "exports", formats=("savedmodel", "onnx", "litert"))
    job.export_model(Request(str(folder / "m.keras")), options, Progress(io.StringIO(), quiet=True))
    pipeline = folder / "exports/p/1"
    pipeline.mkdir(parents=True)
    export_pipeline(pipeline)
    assert data_sha256(X)
    np.savez(folder / "data.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    manifest = json.loads((pipeline / "manifest.json").read_text())
    manifest["config"]["data"]["source"] = f"npz:{folder / 'data.npz'}"
    manifest["data"]["source"] = manifest["config"]["data"]["source"]
    (pipeline / "manifest.json").write_text(json.dumps(manifest))
    Image.fromarray(np.full((4, 4), 200, np.uint8)).save(folder / "a.png")


# --- changes ----------------------------------------------------------------------------------------------------------


def pick(random: Random, options: Any) -> Any:
    return options[int(random.integers(len(options)))]


def bytes_changed(random: Random, data: bytes) -> bytes:
    """Bits turned, a part cut off, overwritten or put in."""
    raw = bytearray(data)
    place = int(random.integers(len(raw)))
    match int(random.integers(4)):
        case 0:
            for other in random.integers(0, len(raw), 8):
                raw[other] ^= 1 << int(random.integers(8))
        case 1:
            del raw[place:]
        case 2:
            raw[place : place + 8] = int(pick(random, _NUMBERS) & (2**64 - 1)).to_bytes(8, "little")
        case _:
            raw[place:place] = random.bytes(int(random.integers(1, 64)))
    return bytes(raw)


def json_changed(random: Random, text: str) -> str:
    """One value replaced, taken out, nested without end, or its key written twice."""
    tree = json.loads(text)
    places = list(_places(tree))
    branch, key = pick(random, places)
    match int(random.integers(6)):
        case 0:
            del branch[key]
        case 1:
            branch[key] = "MARK"
            return json.dumps(tree).replace('"MARK"', "[" * 3000 + "]" * 3000)
        case 2 if isinstance(key, str):
            written = json.dumps({key: branch[key]})[1:-1]
            return json.dumps(tree).replace(
                written, f"{written}, {json.dumps(key)}: {json.dumps(pick(random, _LOOSE))}", 1
            )
        case _:
            branch[key] = pick(random, _LOOSE)
    return json.dumps(tree)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def message_changed(random: Random, message: Any) -> bytes:
    """One field of a protobuf message, wherever it lies, changed as its type allows."""
    fields = list(_fields(message))
    by_name: dict[str, list[Any]] = {}
    for one in fields:  # else the most frequent field, a node's input, would be almost all
        by_name.setdefault(f"{one[0].DESCRIPTOR.name}.{one[1].name}", []).append(one)
    owner, field = pick(random, by_name[pick(random, sorted(by_name))])
    repeated = field.is_repeated
    values = getattr(owner, field.name)
    if field.type == field.TYPE_MESSAGE:
        if repeated and hasattr(values, "add") and len(values):
            if random.integers(2):
                del values[int(random.integers(len(values)))]
            else:
                values.append(values[int(random.integers(len(values)))])
        else:
            owner.ClearField(field.name)
    elif repeated:
        place = int(random.integers(len(values)))
        values[place] = _scalar(random, field, values[place])
    else:
        setattr(owner, field.name, _scalar(random, field, values))
    return bytes(message.SerializeToString())


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    for field, value in message.ListFields():
        yield message, field
        if field.type == field.TYPE_MESSAGE:
            of_map = field.message_type.GetOptions().map_entry
            inner = list(value.values()) if of_map else value if field.is_repeated else [value]
            for one in inner:
                if hasattr(one, "ListFields"):
                    yield from _fields(one)


def _scalar(random: Random, field: Any, value: Any) -> Any:
    if field.name in ("op", "op_type"):
        return pick(random, _HOSTILE_OPS)
    if field.type == field.TYPE_STRING:
        return pick(random, [text for text in _TEXTS if text != "\ud800"])
    if field.type == field.TYPE_BYTES:
        return bytes_changed(random, value) if value else b"\xff"
    if field.type == field.TYPE_BOOL:
        return not value
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return pick(random, (0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.type == field.TYPE_ENUM:
        return pick(random, [one.number for one in field.enum_type.values])
    wide = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64)
    low = 0 if field.cpp_type in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64) else -(1 << (63 if wide else 31))
    return max(low, min((1 << (63 if wide else 31)) - 1, pick(random, _NUMBERS)))


def archive_changed(random: Random, path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """One member of a zip archive changed, named anew, doubled, or grown."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = pick(random, sorted(members))
    match int(random.integers(10)):
        case 0:
            members[pick(random, ("../out", "/tmp/out", "a\\b", "more.txt"))] = b"x"
        case 1:
            members[name] = bytes(300 << 20)
        case 2:
            del members[name]
        case _:
            members[name] = change(name, members[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def header_changed(random: Random, data: bytes) -> bytes:
    """An array with another header."""
    text = pick(random, ("'<f4'", "'|O'", "'<U9'", "'<f8'", "'|V3'", "'<c16'", "'x'"))
    shape = pick(random, ("()", "(0,)", "(1000000000000,)", "(1000000000,)", "(-1,)", "(2, 3)", "('a',)", "(" * 900))
    header = f"{{'descr': {text}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data[128:]


def h5_changed(random: Random, path: Path) -> None:
    """An attribute, a data set or a link of an HDF5 file changed, or its bytes."""
    import h5py

    kind = int(random.integers(4))
    if kind == 3:
        path.write_bytes(bytes_changed(random, path.read_bytes()))
        return
    with h5py.File(path, "r+") as file:
        if kind == 0 and "model_config" in file.attrs:
            file.attrs["model_config"] = json_changed(random, file.attrs["model_config"]).replace("\x00", "")
            return
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = pick(random, names)
        del file[name]
        match int(random.integers(4)):
            case 0:
                file[name] = h5py.ExternalLink("/etc/passwd", "/x")
            case 1:
                file[name] = h5py.SoftLink(f"/{name}")
            case 2:
                file.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1024, 1024), compression="gzip")
            case _:
                file[name] = np.zeros(int(random.integers(0, 9)), pick(random, ("f4", "i1", "S3")))


# --- cases ------------------------------------------------------------------------------------------------------------


def refit(version: Path) -> None:
    """Record the files as they are: who means harm does so as well."""
    path = version / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        data = (version / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def cases(good: Path, folder: Path, count: int, seed: int) -> Iterator[Case]:
    """``count`` cases; each is made in ``folder`` when it is asked for."""
    from onnx import ModelProto
    from tensorflow.core.protobuf import saved_model_pb2

    kinds = (
        "manifest",
        "savedmodel",
        "onnx",
        "keras",
        "samples",
        "manifest",
        "h5",
        "litert",
        "index",
        "pipeline",
        "npz",
    )
    for number in range(count):
        random = np.random.default_rng((seed, number))
        kind = kinds[number % len(kinds)]
        here = folder / f"{number:03d}-{kind}"
        here.mkdir()
        if kind in ("keras", "h5"):
            file = Path(shutil.copy(good / f"m.{kind}", here))
            if kind == "h5":
                h5_changed(random, file)
            elif random.integers(4):
                archive_changed(random, file, lambda name, data: _member(random, name, data))  # noqa: B023
            else:
                file.write_bytes(bytes_changed(random, file.read_bytes()))
            commands = [
                ["inspect", str(file)],
                ["export", str(file), "--format", "savedmodel", "-o", str(here / "out")],
            ]
            yield Case(here.name, commands[int(random.integers(4) > 0)])
            continue
        if kind == "npz":
            file = Path(shutil.copy(good / "in.npz", here))
            archive_changed(random, file, lambda _, data: header_changed(random, data))  # noqa: B023
            yield Case(
                here.name, ["export", str(good / "m.keras"), "--verify-with", str(file), "-o", str(here / "out")]
            )
            continue
        name = "p" if kind == "pipeline" or (kind == "manifest" and number % 2) else "m"
        version = Path(shutil.copytree(good / f"exports/{name}/1", here / "exports" / name / "1"))
        _change_version(random, kind, version, saved_model_pb2.SavedModel, ModelProto)
        use = ["predict", str(version), str(good / "a.png")] if name == "p" else ["verify", str(version)]
        reads = kind in ("savedmodel", "onnx", "litert", "index")
        yield Case(here.name, pick(random, [["verify", str(version)], use, *([["inspect", str(version)]] * reads)]))


def _change_version(random: Random, kind: str, version: Path, saved: Any, onnx: Any) -> None:
    if kind == "manifest":
        path = version / "manifest.json"
        path.write_text(json_changed(random, path.read_text()))
        return
    file = {
        "savedmodel": "saved_model.pb",
        "onnx": "model.onnx",
        "litert": "model.tflite",
        "index": "variables/variables.index",
        "samples": "samples.npz",
        "pipeline": pick(random, ("reference.npz", "saved_model.pb", "model.onnx")),
    }[kind]
    path = version / file
    data = path.read_bytes()
    if file.endswith(".npz"):
        archive_changed(random, path, lambda _, data: header_changed(random, data))
    elif file.endswith((".pb", ".onnx")) and random.integers(5):
        message = (saved if file.endswith(".pb") else onnx).FromString(data)
        path.write_bytes(message_changed(random, message))
    else:
        path.write_bytes(bytes_changed(random, data))
    refit(version)


def _member(random: Random, name: str, data: bytes) -> bytes:
    if name.endswith(".json"):
        return json_changed(random, data.decode()).encode("utf-8", "surrogatepass")
    return bytes_changed(random, data)


# --- the process that runs them ---------------------------------------------------------------------------------------


def _work() -> None:
    """Run each command that comes on standard input; answer with how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from tfhalf.start import import_tensorflow

    import_tensorflow()
    from click.testing import CliRunner

    from tfhalf.cli import main

    started: list[str] = []
    sys.addaudithook(lambda event, given: started.append(f"{event} {given}") if event in _STARTS else None)
    limit = MEMORY + (6 << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before, begun = _status("VmRSS"), time.perf_counter()
        started.clear()
        result = CliRunner().invoke(main, json.loads(line))
        answer = {
            "code": result.exit_code,
            "raised": "" if isinstance(result.exception, SystemExit | None) else repr(result.exception)[:500],
            "errors": result.stderr[-3000:],
            "seconds": time.perf_counter() - begun,
            "memory": _status("VmHWM") - before,
            "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10,
            "started": [one[:200] for one in started if "tfhalf." not in one],
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


_STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pty.spawn")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


class Worker:
    """A process that runs cases, and is started again where one ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, case: Case, seconds: float) -> dict[str, Any]:
        """How the case ended; ``lost`` where the process did, or took too long."""
        if self._process is None:
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        process, lines = self._process, queue.Queue[str]()
        assert process.stdin is not None
        assert process.stdout is not None
        stdout = process.stdout
        process.stdin.write(json.dumps(case.arguments) + "\n")
        process.stdin.flush()
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=seconds)
        except queue.Empty:
            line = ""
        if line:
            return dict(json.loads(line))
        ended = process.poll()
        self.end()
        return {"lost": f"took more than {seconds:.0f} s" if ended is None else f"ended with {ended}"}

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def wrong(case: Case, answer: dict[str, Any], canaries: list[Path]) -> str:
    """What is wrong with how a case ended; empty where nothing is."""
    if "lost" in answer:
        return str(answer["lost"])
    errors = [line for line in answer["errors"].splitlines() if line.strip()]
    faults = {
        "raised": answer["raised"],
        "a traceback": "Traceback" in answer["errors"],
        "an exit code": answer["code"] not in (0, 1, 2),
        "several lines": answer["code"] == 2 and len(errors) != 1,
        "control characters": not all(line.isprintable() for line in errors),
        "seconds": answer["seconds"] > SECONDS,
        "memory": max(answer["memory"], answer["children"]) > MEMORY,
        "a process started": answer["started"],
        "a file written": [str(path) for path in canaries if path.exists()],
    }
    found = {key: value for key, value in faults.items() if value}
    return f"{found} {errors[-1:]}" if found else ""


def run(count: int, seed: int, say: Callable[[str], None] = print) -> list[str]:
    """Make and run ``count`` cases; what was wrong, a line each."""
    faults: list[str] = []
    outcomes: Counter[Any] = Counter()
    with tempfile.TemporaryDirectory(prefix="tfhalf-mutations-") as scratch:
        good, folder = Path(scratch) / "good", Path(scratch) / "cases"
        good.mkdir()
        folder.mkdir()
        make_good(good)
        worker = Worker()
        worker.run(Case("warm", ["verify", str(good / "exports/m/1")]), 300)
        largest = slowest = 0.0
        for case in cases(good, folder, count, seed):
            answer = worker.run(case, 3 * SECONDS)
            fault = wrong(case, answer, [Path("/tmp/out"), folder / "out", folder / case.name / "canary"])
            outcomes[case.name[4:], answer.get("code", "lost")] += 1
            largest, slowest = max(largest, answer.get("memory", 0)), max(slowest, answer.get("seconds", 0))
            if fault:
                faults.append(f"{case.name} {case.arguments[0]}: {fault}")
                say(faults[-1])
            elif os.environ.get("SHOW"):
                say(f"{case.name} {answer['code']} {answer['seconds']:.1f} s {answer['errors'].strip()[-220:]}")
            shutil.rmtree(folder / case.name)
        worker.end()
    say(f"{count} cases, {len(faults)} wrong; at most {slowest:.1f} s and {largest / 2**20:.0f} MiB in one process")
    say(", ".join(f"{kind} exit {code}: {n}" for (kind, code), n in sorted(outcomes.items(), key=str)))
    return faults


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        _work()
    else:
        sys.exit(1 if run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0) else 0)
