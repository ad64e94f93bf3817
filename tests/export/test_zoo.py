"""The zoo: every kind of model that people bring, exported and judged, or refused with the reason.

The whole of it, families of keras.applications included: ``python benchmarks/export_zoo.py``.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zoo
import zoo_trained
from zoo_helpers import export, export_file

from tfhalf.errors import TfhalfError

FAST = [entry for entry in zoo.ENTRIES if entry.fast]
QUICK = ("dict_input", "overflow")  # without waiting for the rest


@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, id=e.name, marks=() if e.name in QUICK else pytest.mark.slow) for e in FAST],
)
def test_a_model(entry: zoo.Entry, tmp_path: Path) -> None:
    if entry.expected not in ("ok", "islands"):
        with pytest.raises(TfhalfError, match=entry.expected) as caught:
            export(entry, tmp_path)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("exports/*/[0-9]*"))
        return
    made = export(entry, tmp_path)
    manifest = made.manifest
    assert all(c.passed for c in made.comparisons)
    sizes = [row.size for row in manifest.reference.other_sizes if row.taken]
    assert all([row.size for row in c.other_sizes] == sizes for c in made.comparisons)
    assert bool(manifest.islands) == (entry.expected == "islands")
    if entry.onnx:
        assert set(manifest.refused) == {"onnx"}
        assert entry.onnx in manifest.refused["onnx"]
    else:
        assert manifest.refused == {}
        assert [c.runtime.split(",")[0] for c in made.comparisons][-1] == "true float16"
    kinds = Counter({dtype: row.count for dtype, row in manifest.parameters.items()})
    if entry.expected == "ok":
        norms = {"bert", "gpt", "vit", "subclassed"}  # their statistics and scales stay float32
        assert kinds["float16"] > 0.85 * kinds.total() if entry.name in norms else set(kinds) <= {"float16", "int64"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "worst"), [("digits_dense", 95.0), ("housing_batchnorm", 0.6)])
def test_what_is_trained_needs_hardly_any_float32(name: str, worst: float, tmp_path: Path) -> None:
    entry = next(entry for entry in zoo_trained.ENTRIES if entry.name == name)
    if name.startswith("housing") and not (zoo_trained.DATASETS / "housing").is_dir():
        pytest.skip(f"{zoo_trained.DATASETS}: holds no folder housing; TFHALF_DATASETS says where it is")
    model, data, score = zoo_trained.train(entry, epochs=10, limit=5_000)
    assert score > worst if entry.score == "accuracy" else score < worst
    model.save(tmp_path / f"{name}.keras")
    np.savez(tmp_path / "test.npz", **{key: x[:64] for key, x in data.x_test.items()})
    made = export_file(tmp_path / f"{name}.keras", verify_with=tmp_path / "test.npz")
    assert all(c.passed for c in made.comparisons)
    assert len(made.manifest.islands) <= 1


def test_the_table(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("export_zoo", zoo.CUSTOM.parent.parent / "benchmarks/export_zoo.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    output = {"agreement": 99.5, "max_difference": 0.001}
    made = {
        "source": {"parameters": 1000},
        "islands": [{"path": f"layer{k}"} for k in range(6)],
        "artifacts": [
            {"format": "savedmodel", "bytes": 2400},
            {"format": "litert", "bytes": 2000, "details": {"batch": 1}},
        ],
        "refused": {"onnx": "a | b"},
        "comparisons": [
            {"artifact": "savedmodel", "runtime": "TensorFlow", "outputs": [output]},
            {"artifact": "litert-int8", "runtime": "LiteRT", "outputs": [{**output, "max_difference": 0.02}]},
        ],
        "versions": {"keras": "3"},
    }
    results = {
        "one": {"outcome": "ok", "seconds": 3.2, "casts": None, "manifest": made},
        "two": {"outcome": "refused: because", "seconds": 1.0},
    }
    path = tmp_path / "export.md"
    path.write_text(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n")
    for _ in range(2):
        script.write(path, results)
        text = path.read_text()
        assert text.startswith(f"before\n{script.BEGIN}\n")
        assert text.endswith(f"{script.END}\nafter\n")
        assert "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert (
        "| one | ok | refused: a / b | ok, batch 1 | layer0, layer1, layer2, layer3 and 2 more | 0.60, -, 0.50 | "
        "1.0e-03 | 2.0e-02 | - | " in "".join(lines[-2:])
    )
    assert len({line.count("|") for line in lines}) == 1
