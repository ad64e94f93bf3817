"""Exports every model of the zoo (tests/zoo.py) with `tfhalf export`, each in processes of its own; writes the table.

    python benchmarks/export_zoo.py --out docs/export.md

What was measured is kept in --work, so that a run that was stopped goes on; --again NAME measures anew.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ("savedmodel", "onnx", "litert")


def main() -> None:
    """Measure what is not measured yet, and write the table after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "export.md")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / ".export_zoo", help="models, exports, results")
    parser.add_argument("--only", help="a regular expression for names")
    parser.add_argument("--again", help="a regular expression for names to measure anew")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a model")
    parser.add_argument("--make", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.make:
        make(options.make, options.work)
        return
    kept = options.work / "results.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    there = names()
    results = {name: known[name] for name in there if name in known}  # in the order of the zoo
    for name in there:
        again = options.again and re.search(options.again, name)
        if (name in results and not again) or (options.only and not re.search(options.only, name)):
            continue
        print(f"{name} ...", end=" ", flush=True)
        results[name] = measure(name, options.work, options.limit)
        results = {name: results[name] for name in there if name in results}
        print(results[name]["outcome"], f"{results[name]['seconds']:.0f} s", flush=True)
        kept.write_text(json.dumps(results, indent=1))
        write(options.out, results)
    write(options.out, results)


def python(arguments: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    """A Python process with the zoo and this checkout in its path."""
    paths = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=limit, check=False
    )


def names() -> list[str]:
    """Of the zoo's entries, in their order."""
    done = python(["-c", "import zoo; print('\\n'.join(e.name for e in zoo.ENTRIES))"], 300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def make(name: str, work: Path) -> None:
    """Build one model and save it."""
    import zoo

    zoo.make(next(entry for entry in zoo.ENTRIES if entry.name == name), work)


def measure(name: str, work: Path, limit: float) -> dict[str, Any]:
    """Make, export and look at one model; what went wrong is part of the result."""
    start = time.perf_counter()
    path = work / f"{name}.keras"
    try:
        done = python([__file__, "--make", name, "--work", str(work)], limit)
        if done.returncode:
            return {"outcome": f"cannot be built: {last(done.stderr)}", "seconds": time.perf_counter() - start}
        start = time.perf_counter()
        command = ["-m", "tfhalf", "export", str(path), "-o", str(work / "exports"), "--json", "--quiet"]
        command += ["--format", "all"]
        done = python([*command, "--custom", str(ROOT / "tests" / "zoo_layers.py")], limit)
    except subprocess.TimeoutExpired:
        return {"outcome": f"not done in {limit:.0f} s", "seconds": time.perf_counter() - start}
    finally:
        path.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        message = last(done.stderr).removeprefix("error: ").replace(str(path), f"{name}.keras")
        return {"outcome": f"refused: {message}", "code": done.returncode, "seconds": seconds}
    manifest = json.loads(done.stdout)
    casts = None
    if (onnx_file := Path(manifest["version"]) / "model.onnx").is_file():
        import onnx

        graph = onnx.load(str(onnx_file), load_external_data=False).graph
        casts = Counter(node.op_type for node in graph.node)["Cast"]
    return {"outcome": "ok", "seconds": seconds, "casts": casts, "manifest": slim(manifest)}


def slim(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the table takes of a manifest."""
    keys = ("source", "islands", "search", "artifacts", "refused", "comparisons", "versions", "cast", "parameters")
    return {key: manifest[key] for key in keys}


def last(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no word"


# --- the document -----------------------------------------------------------------------------------------------------

NAMES = ("keras", "tensorflow", "tf2onnx", "onnxruntime", "openvino", "ai-edge-litert")
BEGIN = "<!-- the zoo: python benchmarks/export_zoo.py --out docs/export.md -->"
END = "<!-- the end of the zoo -->"
HEADS = (
    "model",
    *FORMATS,
    "float32 layers",
    "size",
    "max diff",
    "int8",
    "true float16",
    "agreement",
    "casts",
    "time",
)


def write(path: Path, results: dict[str, Any]) -> None:
    """The table between its marks in a document; the rest of it stays as it is."""
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    assert END in rest, f"{path}: has no line {END}"
    table = "\n".join(document(results))
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def document(results: dict[str, Any]) -> list[str]:
    """The lines between the marks."""
    done = [result for result in results.values() if result["outcome"] == "ok"]
    versions = done[0]["manifest"]["versions"] if done else {}
    libraries = ", ".join(f"{n} {versions[n]}" for n in NAMES if n in versions)
    return [
        "",
        "## The zoo",
        "",
        "Every model of `tests/zoo.py` with random weights and perturbed norms, saved as `.keras`, exported with",
        f"`tfhalf export`, {datetime.date.today()}; {platform.machine()}, CPU; {libraries}.",
        "",
        "- *float32 layers*: what was found to need float32, and kept in it.",
        "- *size*: of the files, relative to the parameters in float32 (SavedModel, ONNX, LiteRT); small models are",
        "  mostly graph. *batch 1*: a LiteRT file that takes no other.",
        "- *max diff*: the largest difference from the float32 model, relative to the output's largest magnitude; the",
        "  worst of SavedModel in TensorFlow, ONNX in onnxruntime and OpenVINO, and LiteRT. *int8*: of LiteRT with",
        "  weights in int8. *true float16*: of ONNX in that arithmetic.",
        "- *agreement*: the same top class, where the output is classes. *casts*: Cast operators in the ONNX file.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + " --- |" * len(HEADS),
        *("| " + " | ".join(row(name, result)) + " |" for name, result in results.items()),
        "",
    ]


def row(name: str, result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    if result["outcome"] != "ok":
        return [name, result["outcome"].replace("|", "/"), *[""] * (len(HEADS) - 3), f"{result['seconds']:.0f} s"]
    manifest = result["manifest"]
    sizes = {artifact["format"]: artifact["bytes"] for artifact in manifest["artifacts"]}
    whole = 4 * manifest["source"]["parameters"]
    int8 = [c for c in manifest["comparisons"] if c["artifact"] == "litert-int8"]
    plain = [c for c in manifest["comparisons"] if "true" not in c["runtime"] and c not in int8]
    exact = [c for c in manifest["comparisons"] if "true" in c["runtime"]]
    agreed = [o["agreement"] for c in (*plain, *exact) for o in c["outputs"] if o["agreement"] is not None]
    fixed = {a["format"] for a in manifest["artifacts"] if a.get("details", {}).get("batch") == 1}
    islands = [island["path"] for island in manifest["islands"]]
    return [
        name,
        *(
            ("ok, batch 1" if kind in fixed else "ok")
            if kind in sizes
            else "refused: " + manifest["refused"].get(kind, "?").replace("|", "/")
            for kind in FORMATS
        ),
        (", ".join(islands[:4]) + (f" and {len(islands) - 4} more" if len(islands) > 4 else "")) or "-",
        ", ".join(f"{sizes[kind] / whole:.2f}" if kind in sizes else "-" for kind in FORMATS),
        f"{worst(plain):.1e}",
        f"{worst(int8):.1e}" if int8 else "-",
        f"{worst(exact):.1e}" if exact else "-",
        f"{min(agreed):.2f} %" if agreed else "-",
        "-" if result["casts"] is None else str(result["casts"]),
        f"{result['seconds']:.0f} s",
    ]


def worst(comparisons: list[dict[str, Any]]) -> float:
    """The largest difference of any output."""
    return max((o["max_difference"] for c in comparisons for o in c["outputs"]), default=0.0)


if __name__ == "__main__":
    main()
