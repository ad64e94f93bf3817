"""What nets with trained weights need in float32: trains each of tests/zoo_trained.py, exports it, writes the table.

    python benchmarks/export_trained.py --out docs/export.md

Each net is exported three times: with random weights, trained with drawn inputs, and trained with the test part of its
data. Results are kept in --work, so that a run that was stopped goes on; --again NAME measures anew. Data:
TFDS_DATA_DIR (CIFAR-10) and TFHALF_DATASETS (sst2, housing, membrane).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import export_zoo as zoo_table

ROOT = zoo_table.ROOT
BEGIN = "<!-- trained nets: python benchmarks/export_trained.py --out docs/export.md -->"
END = "<!-- the end of the trained nets -->"
HEADS = (
    "net",
    "parameters",
    "test score",
    "float32 layers: random weights",
    "trained, drawn inputs",
    "trained, test inputs",
    "max diff",
    "true float16",
)
UNITS = {"accuracy": "{:.1f} %", "pixels": "{:.1f} % of pixels", "error": "{:.3f} mean error"}


def main() -> None:
    """Measure what is not measured yet, and write the table after each net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "export.md")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / ".export_trained", help="models, exports, results")
    parser.add_argument("--only", help="a regular expression for names")
    parser.add_argument("--again", help="a regular expression for names to measure anew")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for a command")
    parser.add_argument("--jobs", type=int, default=1, help="nets that are measured side by side")
    parser.add_argument("--epochs", type=int, help="instead of each net's own, on a fast machine")
    parser.add_argument("--make", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.make:
        make(options.make, options.work, options.epochs)
        return
    kept = options.work / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    entries = zoo_table.python(["-c", "import zoo_trained as z; print('\\n'.join(e.name for e in z.ENTRIES))"], 300)
    assert entries.returncode == 0, entries.stderr
    names = entries.stdout.split()
    due = [name for name in names if name not in results or (options.again and re.search(options.again, name))]
    due = [name for name in due if not options.only or re.search(options.only, name)]
    with ThreadPoolExecutor(options.jobs) as pool:
        running = {pool.submit(measure, name, options): name for name in due}
        for done in as_completed(running):
            name, result = running[done], done.result()
            results[name] = result
            print(name, result["outcome"], f"{result['seconds']:.0f} s", flush=True)
            kept.write_text(json.dumps(results, indent=1))
            write(options.out, {n: results[n] for n in names if n in results})
    write(options.out, {n: results[n] for n in names if n in results})


def make(name: str, work: Path, epochs: int | None) -> None:
    """Save one net with random weights and trained, and the test inputs beside it."""
    import numpy as np
    import zoo
    import zoo_trained

    entry = next(entry for entry in zoo_trained.ENTRIES if entry.name == name)
    model, data, score = zoo_trained.train(entry, epochs=epochs)
    model.save(work / f"{name}.keras")
    np.savez(work / f"{name}.npz", **{k: x[:256] for k, x in data.x_test.items()})
    (work / f"{name}.score.json").write_text(json.dumps({"score": score, "unit": entry.score}))
    random = entry.build(data)
    zoo.perturb(random)
    random.save(work / f"{name}_random.keras")


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and export one net; what went wrong is part of the result."""
    start = time.perf_counter()
    work, limit = options.work, options.limit
    epochs = ["--epochs", str(options.epochs)] if options.epochs else []
    result: dict[str, Any] = {"outcome": "ok", "exports": {}}
    try:
        trained = zoo_table.python([__file__, "--make", name, "--work", str(work), *epochs], limit)
        if trained.returncode:
            return {"outcome": f"cannot be trained: {zoo_table.last(trained.stderr)}", "seconds": 0.0, "exports": {}}
        result |= json.loads((work / f"{name}.score.json").read_text())
        inputs = ["--verify-with", str(work / f"{name}.npz")]
        for kind, stem, more in (("random", f"{name}_random", []), ("drawn", name, []), ("test", name, inputs)):
            result["exports"][kind] = export(work / f"{stem}.keras", work / f"exports-{kind}", more, limit)
    except subprocess.TimeoutExpired:
        result["outcome"] = f"not done in {limit:.0f} s"
    result["seconds"] = time.perf_counter() - start
    return result


def export(path: Path, out: Path, more: list[str], limit: float) -> dict[str, Any]:
    """The manifest of one export, or the reason why there is none."""
    done = zoo_table.python(["-m", "tfhalf", "export", str(path), "-o", str(out), "--json", "--quiet", *more], limit)
    if done.returncode:
        return {"refused": zoo_table.last(done.stderr).removeprefix("error: ").replace(str(path), path.name)}
    return zoo_table.slim(json.loads(done.stdout))


# --- the document -----------------------------------------------------------------------------------------------------


def write(path: Path, results: dict[str, Any]) -> None:
    """The table between its marks in a document; the rest of it stays as it is."""
    text = path.read_text(encoding="utf-8") if path.is_file() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    assert END in rest, f"{path}: has no line {END}"
    lines = [
        "",
        "| " + " | ".join(HEADS) + " |",
        "|" + " --- |" * len(HEADS),
        *("| " + " | ".join(row(name, result)) + " |" for name, result in results.items()),
        "",
    ]
    path.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def row(name: str, result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    if "score" not in result:
        return [name, result["outcome"], *[""] * (len(HEADS) - 2)]
    exports = result["exports"]
    manifests = [e for e in (exports.get("drawn"), exports.get("test")) if e]
    published = [m for m in manifests if "source" in m]
    comparisons = [c for m in published for c in m["comparisons"] if c["artifact"] != "litert-int8"]
    exact = [c for c in comparisons if "true" in c["runtime"]]
    return [
        name,
        f"{published[0]['source']['parameters']:,}" if published else "-",
        UNITS[result["unit"]].format(result["score"]),
        *(layers(exports.get(kind)) for kind in ("random", "drawn", "test")),
        f"{zoo_table.worst([c for c in comparisons if c not in exact]):.1e}" if published else "-",
        f"{zoo_table.worst(exact):.1e}" if exact else "-",
    ]


def layers(manifest: dict[str, Any] | None) -> str:
    """How many layers stay in float32, and which, where they are few."""
    if manifest is None:
        return "-"
    if "source" not in manifest:
        return str(manifest["refused"]).replace("|", "/")
    paths = [island["path"] for island in manifest["islands"]]
    return f"{len(paths)}" + (f" ({', '.join(paths)})" if 0 < len(paths) <= 3 else "")


if __name__ == "__main__":
    sys.exit(main())
