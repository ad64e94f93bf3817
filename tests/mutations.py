"""Damaged and hostile files of every kind, and what tfhalf makes of them: ``tests/mutations.py COUNT SEED START``.

Good files are made once: two published versions, a ``.keras`` file, an ``.h5`` file and an array file. Each case
changes one of them by its structure (a value of its JSON, a field of its protobuf message or FlatBuffer, an array's
header, an operator's name) or its bytes, makes the manifest's hashes fit again, and gives it to a command of tfhalf in
a process of its own limits. Wrong is a traceback, a file that appears, more than `MEMORY` or `SECONDS`, a process that
ends, or an error of several lines.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mutators import (
    Random,
    archive_changed,
    bytes_changed,
    h5_changed,
    header_changed,
    json_changed,
    litert_changed,
    message_changed,
    pick,
    size_changed,
)

MEMORY = 2 << 30
SECONDS = 20.0


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
    from pipeline_version import X, Y
    from pipeline_version import export as export_pipeline

    from tfhalf.artifacts.reference import data_sha256
    from tfhalf.export.request import Options, Request

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu", padding="same")(image))
    x = layers.LSTM(4)(layers.Reshape((8, 32))(x))
    model = keras.Model(image, layers.Dense(3, name="head")(x))
    model.save(folder / "m.keras")
    model.save(folder / "m.h5")
    np.savez(folder / "in.npz", image=np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32))
    options = Options(exports=folder / "exports", formats=("savedmodel", "onnx", "litert"))
    zoo_helpers.export_here(Request(str(folder / "m.keras")), options)
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


# --- cases ------------------------------------------------------------------------------------------------------------


def refit(version: Path) -> None:
    """Record the files as they are: who means harm does so as well."""
    path = version / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        data = (version / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def cases(good: Path, folder: Path, numbers: range, seed: int) -> Iterator[Case]:
    """The cases of these numbers; each is made in ``folder`` when it is asked for."""
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
    for number in numbers:
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
        _only(version, {"onnx": ["onnx"], "litert": ["litert"], "manifest": ["onnx"]}.get(kind, ["savedmodel"]))
        if kind == "pipeline":
            _only(version, ["savedmodel", "onnx"])
        if kind == "manifest" and name == "p" and not random.integers(4):
            _name_code(random, version, here)
            yield Case(here.name, ["verify", str(version)])
            continue
        _change_version(random, kind, version, saved_model_pb2.SavedModel, ModelProto)
        seen = name == "p" and kind == "manifest"
        use = ["predict", str(version), str(good / "a.png")] if seen else ["verify", str(version)]
        reads = kind in ("savedmodel", "onnx", "litert", "index")
        yield Case(here.name, pick(random, [["verify", str(version)], use, *([["inspect", str(version)]] * reads)]))


def _name_code(random: Random, version: Path, here: Path) -> None:
    """Have the manifest name code as its source of data."""
    canary = here / "canary"
    (here / "evil.py").write_text(f"import os\nos.system('touch {canary}')\n")
    path = version / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["pipeline_file"] = str(here / "p.yaml")
    source, args = pick(
        random, (("os:system", {"command": f"touch {canary}"}), ("evil.py:load", {}), ("evil:load", {}))
    )
    manifest["config"]["data"] |= {"source": source, "args": args}
    path.write_text(json.dumps(manifest))


def _only(version: Path, formats: list[str]) -> None:
    """Have a version's manifest list these formats: what is not changed need not be run again and again."""
    path = version / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["artifacts"] = [row for row in manifest["artifacts"] if row["format"] in formats]
    path.write_text(json.dumps(manifest))


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
        "samples": "reference.npz",
        "pipeline": pick(random, ("reference.npz", "saved_model.pb", "model.onnx")),
    }[kind]
    path = version / file
    data = path.read_bytes()
    if file.endswith(".npz"):
        archive_changed(random, path, lambda _, data: header_changed(random, data))
    elif file.endswith((".pb", ".onnx")) and random.integers(5):
        message = (saved if file.endswith(".pb") else onnx).FromString(data)
        if random.integers(3):
            path.write_bytes(message_changed(random, message))
        else:
            path.write_bytes(size_changed(random, message))
    elif kind == "litert" and random.integers(5):
        path.write_bytes(litert_changed(random, data))
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
    from tfhalf.system.tensorflow import import_tensorflow

    import_tensorflow()
    from unittest.mock import patch

    import zoo_helpers
    from click.testing import CliRunner

    from tfhalf.cli import main
    from tfhalf.export import model as job

    job.Verifier = zoo_helpers.Here  # type: ignore[misc,assignment]  # a fresh process each would be most of the time
    started: list[str] = []
    sys.addaudithook(lambda event, given: started.append(f"{event} {given}") if event in _STARTS else None)
    limit = MEMORY + (6 << 30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        before, begun = _status("VmRSS"), _cpu()
        started.clear()
        arguments = json.loads(line)
        # One in three goes to OpenVINO as well, whose process takes most of the time.
        openvino = sum(map(len, arguments)) % 3 == 0
        lacking = (lambda kind: "") if openvino else (lambda kind: "left out")
        with patch("tfhalf.verify.version.lacking", lacking):
            result = CliRunner().invoke(main, arguments)
        answer = {
            "code": result.exit_code,
            "raised": "" if isinstance(result.exception, SystemExit | None) else repr(result.exception)[:500],
            "errors": result.stderr[-3000:],
            "seconds": _cpu() - begun,
            "memory": _status("VmHWM") - before,
            "children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10,
            "started": [one[:200] for one in started if not any(own in one for own in _OWN)],
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


_OWN = ("tfhalf.runtimes.child_main", "tfhalf.verify.process", "tfhalf.export.litert.worker", "'rev-parse'", "'status'")
_STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pty.spawn")


def _cpu() -> float:
    """Seconds of processor time that this process and the ended ones it started have taken: what a loaded machine takes
    does not count."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


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


def run(count: int, seed: int, start: int = 0, say: Callable[[str], None] = print) -> list[str]:
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
        for case in cases(good, folder, range(start, start + count), seed):
            answer = worker.run(case, 6 * SECONDS)
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
        sys.exit(1 if run(*map(int, sys.argv[1:4])) else 0)
