"""Exports a small model for every function of `keras.ops` and every layer of `keras.layers`; writes docs/operations.md.

    python benchmarks/operations_table.py [--only NAME ...] [--again] [--processes 2]

The cases are those of tests/operations.py. Each is exported as `tfhalf export` does, with inputs that exercise it, in
every format; each artifact is then opened anew and compared with the float32 model on other inputs as well. What was
measured is kept in --work, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ("savedmodel", "onnx", "litert")
LIMIT = 300.0
"""Seconds for a case."""
RIGHT, REFUSED, WRONG = "right", "refused", "wrong"


def main() -> None:
    """Measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "operations.md")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / ".operations_table", help="results are kept here")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="regular expressions for whole names, as ops.log")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured before")
    parser.add_argument("--state", metavar="WORD", help="measure anew what has this word in its result, as wrong")
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    listed = names_of_cases()
    chosen = [n for n in listed["cases"] if not options.only or any(re.fullmatch(p, n) for p in options.only)]
    anew = [n for n in chosen if options.state and options.state in json.dumps(results.get(n, ""))]
    todo = [n for n in chosen if n not in results or options.again or n in anew]
    measure(todo, results, kept, options.processes)
    write(options.out, listed, results)
    print(summary(listed, results))


# --- the processes ----------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """For a process with the cases and this checkout in its path."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    changes = {"PYTHONPATH": paths, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "NO_COLOR": "1"}
    return {**os.environ, **changes}


def names_of_cases() -> dict[str, Any]:
    """The names with a case, those with a reason, aliases and what lacks both."""
    code = (
        "import json, operations as o; c = o.cases(); print(json.dumps({'cases': [n for n in c if c[n].build],"
        "'reasons': {n: c[n].reason for n in c if not c[n].build}, 'aliases': o.aliases(), 'lacking': o.lacking()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    names: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return names


def measure(todo: list[str], results: dict[str, Any], kept: Path, processes: int) -> None:
    """Each case in one of the ``processes``, which are started anew when they end or take too long (such a case stays
    without a result)."""
    left: queue.Queue[str] = queue.Queue()
    for name in todo:
        left.put(name)
    lock = threading.Lock()

    def run() -> None:
        worker = Worker(kept.parent)
        while True:
            try:
                name = left.get_nowait()
            except queue.Empty:
                break
            start = time.perf_counter()
            result = worker.case(name)
            result["seconds"] = round(time.perf_counter() - start, 1)
            with lock:
                if result.get("trouble") is None:
                    results[name] = result
                kept.write_text(json.dumps(results, indent=1))
                states = " ".join(f"{kind}={result[kind]['state']}" for kind in FORMATS if kind in result)
                print(f"{name} {states} {result.get('trouble', '')[:150]} {result['seconds']} s", flush=True)
        worker.end()

    threads = [threading.Thread(target=run) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Worker:
    """A process that measures one case after another."""

    def __init__(self, folder: Path) -> None:
        self._log = (folder / f"worker-{threading.get_ident()}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def case(self, name: str) -> dict[str, Any]:
        """What a case gave, or how it ended the process."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--worker"],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name}\n".encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        line = process.stdout.readline() if ready else b""
        if line:
            result: dict[str, Any] = json.loads(line)
            return result
        self.end()
        how = "ended the process" if ready else f"not done in {LIMIT:.0f} s"
        return {"trouble": how} if not ready else {kind: {"state": WRONG, "why": how} for kind in FORMATS}

    def end(self) -> None:
        """Stop the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


# --- a case -----------------------------------------------------------------------------------------------------------


def work() -> None:
    """Measure the cases whose names come on standard input, and answer each with a line of JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import operations

    known = operations.cases()
    for line in sys.stdin:
        name = line.strip()
        with tempfile.TemporaryDirectory(prefix="tfhalf-operation-") as folder:
            result = one(name, known[name], Path(folder))
        out.write(json.dumps(result) + "\n")
        out.flush()


def one(name: str, case: Any, folder: Path) -> dict[str, Any]:
    """Export a case: all formats at once, or one by one where that is refused."""
    import keras
    import numpy as np
    import operations

    try:
        model = operations.model_of(case)
        path = saved(name, model, folder)
        first, other = (operations.inputs_of(case, seed) for seed in (0, 1))
        np.savez(folder / "in.npz", **first)
        answers = keras.tree.map_structure(
            np.asarray, model([other[n] for n in other] if len(other) > 1 else other["x0"], training=False)
        )
    except Exception as error:  # noqa: BLE001  # a fault of the case
        return {"trouble": f"the case fails: {error_text(error)}"}
    reference = [
        y.astype(np.float32) if y.dtype.kind == "f" else y for y in keras.tree.flatten(answers) if y is not None
    ]
    together = attempt(path, folder / "all", None, other, reference)
    if together["state"] == RIGHT:
        return results_of(together)
    results: dict[str, Any] = {}
    for kind in FORMATS:
        alone = attempt(path, folder / kind, (kind,), other, reference)
        results |= results_of(alone, (kind,))
    keras.backend.clear_session()
    return results


def saved(name: str, model: Any, folder: Path) -> str:
    """The model as a file; or as a builder, where Keras cannot save it or tfhalf does not read it back."""
    import keras

    path = folder / "m.keras"
    try:
        model.save(path)
        keras.saving.load_model(path, compile=False, safe_mode=False)
    except Exception:  # noqa: BLE001  # functions of Python in a configuration, or one that Keras cannot read back
        path.unlink(missing_ok=True)
        return builder(name, folder)
    return builder(name, folder) if any(type(la).__name__ == "Step" for la in model.layers) else str(path)


def builder(name: str, folder: Path) -> str:
    """A file whose `build` makes the model."""
    (folder / "m.py").write_text(
        f"import operations\n\n\ndef build():\n    return operations.model_of(operations.cases()[{name!r}])\n"
    )
    return f"{folder / 'm.py'}:build"


def attempt(
    path: str, folder: Path, formats: tuple[str, ...] | None, other: dict[str, Any], reference: list[Any]
) -> dict[str, Any]:
    """Export in ``formats``, or in all that can be; then run what was published on ``other`` inputs."""
    from tfhalf.errors import TfhalfError
    from tfhalf.export import model as job
    from tfhalf.export.request import Options, Request
    from tfhalf.progress import Progress

    in_this_process()
    options = Options(
        exports=folder,
        formats=formats,
        tried=FORMATS,
        verify_with=folder.parent / "in.npz",
        bisect_seconds=30.0,
    )
    try:
        exported = job.export_model(Request(path), options, Progress(quiet=True))
    except TfhalfError as error:
        whole = "\n" not in str(error).strip()
        return {"state": REFUSED if whole else WRONG, "why": cleaned(str(error), folder)}
    except Exception as error:  # noqa: BLE001  # what a user would see as a traceback
        traceback.print_exc()
        return {"state": WRONG, "why": f"traceback: {error_text(error)}"}
    manifest = exported.manifest
    result = {
        "state": RIGHT,
        "islands": [island.path for island in manifest.islands],
        "refused": {kind: cleaned(why, folder) for kind, why in manifest.refused.items()},
        "differ": {c.artifact: c.worst("max_difference") for c in exported.comparisons},
        "wrong": {},
    }
    for artifact in manifest.artifacts:
        runtimes = ["onnx", "onnx-float16"] if artifact.format == "onnx" else [artifact.format]
        for runtime in runtimes:
            problem = compared(exported.version, runtime, manifest, other, reference)
            if problem:
                result["wrong"][artifact.format] = f"on other inputs, {runtime}: {problem}"
    shutil.rmtree(folder, ignore_errors=True)
    return result


def compared(version: Path, runtime: str, manifest: Any, other: dict[str, Any], reference: list[Any]) -> str:
    """What is wrong with the answers to inputs that the export has not seen; empty where nothing is."""
    from tfhalf.artifacts.comparison import Limits
    from tfhalf.runtimes.open import open_predictor
    from tfhalf.verify.compare import compare_outputs
    from tfhalf.verify.version import run

    names = [port.name for port in manifest.outputs]
    inputs = {port.name: x for port, x in zip(manifest.inputs, other.values(), strict=True)}
    fixed = next((a.details.get("batch") for a in manifest.artifacts if a.format == runtime), None)
    try:
        got = run(open_predictor(version, runtime), inputs, 1 if fixed == 1 else 8)
        outputs = compare_outputs(dict(zip(names, reference, strict=True)), got, (), Limits())
    except Exception as error:  # noqa: BLE001  # three libraries, each with exceptions of its own
        return error_text(error)
    return "; ".join(f"{output.name}: {problem}" for output in outputs for problem in output.problems)


def results_of(attempted: dict[str, Any], kinds: tuple[str, ...] = FORMATS) -> dict[str, Any]:
    """By format: its state, and why it is none that is right."""
    if attempted["state"] != RIGHT:
        return dict.fromkeys(kinds, attempted)
    results: dict[str, Any] = {}
    for kind in kinds:
        if kind in attempted["refused"]:
            results[kind] = {"state": REFUSED, "why": attempted["refused"][kind]}
        elif kind in attempted["wrong"]:
            results[kind] = {"state": WRONG, "why": attempted["wrong"][kind]}
        else:
            differ = [v for k, v in attempted["differ"].items() if k.split(",")[0] == kind and v is not None]
            results[kind] = {"state": RIGHT, "islands": attempted["islands"], "difference": max(differ, default=0.0)}
    return results


def in_this_process() -> None:
    """Have the verifier, LiteRT's converter and LiteRT run here: processes of their own would be most of the time. This
    process may end, and another one takes its place."""
    from zoo_helpers import Here

    from tfhalf.export import model as job
    from tfhalf.export.litert import to_litert
    from tfhalf.export.litert import worker as litert_worker
    from tfhalf.runtimes import open as runtime
    from tfhalf.runtimes.engines import LiteRt
    from tfhalf.verify import samples

    job.Verifier = Here  # type: ignore[misc, assignment]
    to_litert._convert = litert_worker.make
    runtime.Isolated = lambda kind, path: LiteRt(path, 1)  # type: ignore[misc, assignment]
    samples.lacking = lambda kind: "it is no column of the table" if kind == "openvino" else ""


def error_text(error: BaseException) -> str:
    """An exception's kind and text."""
    from tfhalf.text import one_line

    return f"{type(error).__name__}: {one_line(error)}"


def cleaned(text: str, folder: Path) -> str:
    """Without places of this run."""
    return " ".join(text.replace(f"{folder.parent}/", "").split())


# --- the document -----------------------------------------------------------------------------------------------------


WORDS = """\
`python benchmarks/operations_table.py` makes this page: for every name a small model, with float16 layers before the
operation, is exported as `tfhalf export` does, with inputs that exercise it (zeros, negative, large, equal numbers).
Every artifact is opened anew and held against the float32 model, on those inputs and on others that the export has
not seen, ONNX also in true float16. The cases are in `tests/operations*.py`; a test says which names have none.

- *right*: the answers are the float32 model's, within the limits of [export](export.md).
- *right, in float32*: so as well, with layers kept in float32: TensorFlow has the operation in no other, or its numbers
  are beyond float16.
- *refused*: not written, for the reason that the user reads.
- *wrong*: published and different, or a traceback. None may be."""
_VERSIONS = ("keras", "tensorflow", "tf2onnx", "onnxruntime", "ai-edge-litert")


def summary(listed: dict[str, Any], results: dict[str, Any]) -> str:
    """How many cases are what, a line for each format."""
    lines = []
    for kind in FORMATS:
        states = Counter(results[n][kind]["state"] for n in listed["cases"] if kind in results.get(n, {}))
        lines.append(f"{kind}: " + ", ".join(f"{states[s]} {s}" for s in (RIGHT, REFUSED, WRONG)))
    return "\n".join([*lines, f"not measured: {len(unmeasured(listed, results))}"])


def unmeasured(listed: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Cases without a result."""
    return [n for n in listed["cases"] if FORMATS[0] not in results.get(n, {})]


def write(path: Path, listed: dict[str, Any], results: dict[str, Any]) -> None:
    """The document."""
    path.write_text("\n".join(document(listed, results)) + "\n", encoding="utf-8")


def document(listed: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Its lines."""
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in _VERSIONS)
    lines = ["# Every function of keras.ops and every layer of keras.layers", "", WORDS, ""]
    lines += [
        f"{libraries}; {platform.machine()}, CPU.",
        "",
        *(f"- {line}" for line in summary(listed, results).split("\n")),
    ]
    for title, start in (("keras.ops", "ops."), ("keras.layers", "layers.")):
        lines += ["", f"## {title}", "", "| name | savedmodel | onnx | litert |", "| --- | --- | --- | --- |"]
        for name in listed["cases"]:
            if name.startswith(start) and FORMATS[0] in results.get(name, {}):
                cells = [cell(results[name].get(kind)) for kind in FORMATS]
                same = len(set(cells)) == 1 and cells[0].startswith(REFUSED)
                cells = [cells[0], "likewise", "likewise"] if same else cells
                lines.append("| " + " | ".join([name.removeprefix(start), *cells]) + " |")
    lines += ["", "## The same under another name", ""]
    lines += [", ".join(f"`{name}` ({other})" for name, other in sorted(listed["aliases"].items()))]
    lines += ["", "## In no model", "", "| names | why |", "| --- | --- |"]
    reasons: dict[str, list[str]] = {}
    for name, reason in listed["reasons"].items():
        reasons.setdefault(reason, []).append(name)
    lines += [f"| {', '.join(names)} | {reason} |" for reason, names in reasons.items()]
    if left := [*unmeasured(listed, results), *listed["lacking"]]:
        lines += ["", "## Not measured yet", "", ", ".join(left)]
    return lines


def cell(result: dict[str, Any] | None) -> str:
    """What the table says of one format."""
    if result is None:
        return "not measured"
    if result["state"] != RIGHT:
        why = re.sub(r"\x1b\[\d*m", "", result["why"]).replace("|", "/")
        return f"{result['state']}: {why[:320]}"
    return "right" + (", in float32" if result["islands"] else "")


if __name__ == "__main__":
    main()
