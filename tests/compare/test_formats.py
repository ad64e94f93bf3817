"""The formats of a version side by side, beside the model in other numbers, and which of them to deploy."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner, Result
from compare_helpers import run_at, version_at
from keras import layers
from seen_page import Seen

from tfhalf import export_model
from tfhalf.artifacts.comparison import Comparison, OutputParity
from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.manifest import open_version
from tfhalf.artifacts.version import find_version
from tfhalf.cli import main
from tfhalf.compare import numbers
from tfhalf.compare.float32_model import Sources
from tfhalf.compare.formats import alone_in, compare_formats
from tfhalf.compare.model import exported, formats_here
from tfhalf.compare.offers import Absent, Offer, Offers, advice
from tfhalf.compare.records import Latency
from tfhalf.compare.report.offers import html, lines, markdown
from tfhalf.errors import ConfigError
from tfhalf.export.request import Options, Request
from tfhalf.progress import Progress
from tfhalf.verify.process import Verifier

QUIET = Progress(quiet=True)


def latency(runtime: str, *milliseconds: float, by: str = "") -> tuple[Latency, ...]:
    return tuple(
        Latency(runtime, by or f"{runtime} 1.0", size, ms, 2 * ms, 1e3 * size / ms)
        for size, ms in zip((1, 32), milliseconds, strict=True)
    )


SAVED = Offer("savedmodel", "float16", 60_000, 1e-3, 100.0, {"accuracy": 0.93}, {"accuracy": 0.93})
ONNX = Offer("onnx", "float16", 50_000, 2e-3, 99.9, {"accuracy": 0.929}, {"accuracy": 0.93}, latency("ort", 0.2, 4))
SAVED_RUN = Offer(**{**vars(SAVED), "latency": (*latency("tf", 0.5, 3), *latency("xla", 0.4, 3.5))})
WIDE_SAVED = replace(SAVED, numbers="float32", bytes=110_000, shipped=False, latency=latency("tf", 0.45, 2.9))
WIDE_ONNX = replace(
    ONNX, numbers="float32", bytes=100_000, shipped=False, largest_difference=0.0, latency=latency("ort", 0.1, 3.5)
)
BRAIN = replace(SAVED, numbers="bfloat16", shipped=False, largest_difference=0.02, latency=latency("tf", 0.8, 12))
WHOLE = Offers(
    "exports/net/1",
    (SAVED_RUN, ONNX, WIDE_SAVED, WIDE_ONNX, BRAIN),
    100_000,
    "a CPU",
    (Absent("bfloat16 onnx", "no kernel"), Absent("litert", "no kernel")),
)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_what_to_deploy_for_what() -> None:
    table = Offers("exports/net/1", (SAVED_RUN, ONNX), 100_000, "a CPU")
    assert advice(table) == [
        "onnx: the smallest (50.00 kB), the fastest for one at a time (ort 1.0: 0.2 ms)",
        "savedmodel: the fastest for 32 at a time (tf 1.0: 3 ms)",
        "           onnx answers otherwise than float32: accuracy 0.929, float32 0.93",
    ]
    said = "\n".join(lines(table))
    for text in ("0.50", "99.90", "0.4 ms, xla 1.0", "on a CPU", "deploy     onnx: ", "100.00 kB of weights"):
        assert text in said
    assert max(map(len, lines(table))) <= 120


def test_a_metric_that_reads_alike_is_not_said_to_differ() -> None:
    near = replace(SAVED, metrics={"accuracy": 0.930001})
    assert len(advice(Offers("v", (near,), 1, ""))) == 1


def test_what_float16_saves_and_costs_beside_other_numbers() -> None:
    said = [line.strip() for line in advice(WHOLE)]
    assert said[0].startswith("onnx: the smallest (50.00 kB)")  # what does not ship is not advised
    assert said[3:] == [
        "savedmodel has 0.55 times the bytes of float32 savedmodel (110.00 kB)",
        "onnx has 0.50 times the bytes of float32 onnx (100.00 kB)",
        "one at a time, float32 is 2.0 times as fast here (onnx in ort 1.0: 0.1 ms; float16 onnx: 0.2 ms)",
        "32 at a time, float32 is as fast (savedmodel in tf 1.0: 2.9 ms; float16 savedmodel: 3 ms)",
        "one at a time, bfloat16 takes 2.0 times as long (savedmodel in tf 1.0: 0.8 ms; float16 savedmodel: 0.4 ms)",
        "32 at a time, bfloat16 takes 4.0 times as long (savedmodel in tf 1.0: 12 ms; float16 savedmodel: 3 ms)",
    ]


def test_where_float32_is_faster_on_a_cpu_a_server_is_too() -> None:
    def onnx(narrow: float, wide: float, by: str) -> list[str]:
        rows = (
            replace(ONNX, latency=latency("onnx-cpu", narrow, narrow, by=by)),
            replace(WIDE_ONNX, latency=latency("onnx-cpu", wide, wide, by=by)),
        )
        return [line for line in advice(Offers("v", rows, 1, "")) if "tfhalf serve brings onnx to float32" in line]

    assert onnx(0.2, 0.1, "onnxruntime 1.32.0, CPU")
    assert not onnx(0.2, 0.19, "onnxruntime 1.32.0, CPU")
    assert not onnx(0.2, 0.1, "onnxruntime 1.32.0, CUDA")


def test_int8_is_weighed_beside_the_float32_file_of_its_container() -> None:
    int8 = replace(ONNX, format="litert-int8", numbers="int8", bytes=10_000, latency=())
    wide = replace(WIDE_ONNX, format="litert", bytes=40_000, latency=())
    said = advice(Offers("v", (int8, wide), 1, ""))
    assert "           litert-int8 has 0.25 times the bytes of float32 litert (40.00 kB)" in said


def test_without_a_bench() -> None:
    table = Offers("exports/net/1", (SAVED,), 100_000, "")
    assert advice(table) == ["savedmodel: the smallest (60.00 kB)"]
    assert "batch of" not in "\n".join(lines(table))
    assert "How long an answer takes" not in html(table)


def test_reasons_are_said_once() -> None:
    said = lines(WHOLE)
    assert "not here   bfloat16 onnx, litert: no kernel" in said
    assert max(map(len, said)) <= 120


def test_the_reports() -> None:
    """One page and one text with the same figures; whatever names and reasons hold is text in them."""
    hostile = "<script>alert(1)</script>"
    table = replace(WHOLE, version=hostile, absent=(Absent("a|b", hostile),), command="tfhalf compare x", basis="drawn")
    seen = Seen(html(table))
    assert "script" not in seen.tags
    assert seen.tags.count("svg") > 4
    text = markdown(table)
    for content in (seen.said, text):
        for part in ("float32 savedmodel", "110.00 kB", "bfloat16", "12 ms", "tfhalf compare x", "nothing of them is"):
            assert part in content
    assert "<script" not in re.sub(r"`[^`\n]*`", "", text)  # in a span of code it is text
    assert html(table) == html(table)


# --- what is made -----------------------------------------------------------------------------------------------------


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((8,), name="x")
    y = layers.BatchNormalization()(layers.Dense(16, activation="relu")(x))
    return keras.Model(x, layers.Dense(3, name="y")(y), name="net")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


@pytest.mark.slow
def test_of_a_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_model().save(tmp_path / "net.keras")
    base = tmp_path / "exports" / "net"
    export_model(tmp_path / "net.keras", base, formats=["savedmodel", "onnx"])
    version, before = open_version(find_version(base)), sorted(base.rglob("*"))
    with alone_in(tmp_path / "out") as folder:
        table = compare_formats(version, folder, Sources(), QUIET, None)
    rows = {offer.name: offer for offer in table.offers}
    assert list(rows) == ["savedmodel", "onnx", "float32 savedmodel", "float32 onnx", "bfloat16 savedmodel"]
    assert [one.name for one in table.absent] == ["bfloat16 onnx"]
    assert table.absent[0].why
    assert table.float32_bytes == 4 * (8 * 16 + 16 + 2 * 16 + 16 * 3 + 3)
    wide, narrow, brain = rows["float32 savedmodel"], rows["savedmodel"], rows["bfloat16 savedmodel"]
    assert wide.largest_difference < 1e-5 < narrow.largest_difference < brain.largest_difference
    assert narrow.bytes < wide.bytes
    made = next((tmp_path / "out").glob("float32-savedmodel-*"))
    files = [made / "saved_model.pb", *(made / "variables").iterdir()]
    assert wide.bytes == sum(path.stat().st_size for path in files)
    assert sorted(base.rglob("*")) == before  # nothing of it is published

    def read(request: Request) -> None:
        raise AssertionError(f"{request}: is read again")

    with monkeypatch.context() as patched, alone_in(tmp_path / "out") as folder:
        patched.setattr(numbers, "open_source", read)
        again = compare_formats(version, folder, Sources(), QUIET, None)
    assert (again.offers, again.absent) == (table.offers, table.absent)

    done = call(base, "--no-bench", "--json", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["offers"]) == 5
    assert (tmp_path / "formats" / "report.html").is_file()

    (tmp_path / "net.keras").unlink()
    shutil.rmtree(tmp_path / "formats")
    done = call(base, "--no-bench", "--quiet", "--out", tmp_path)
    assert done.exit_code == 0
    assert "not here   float32 savedmodel, float32 onnx, bfloat16 savedmodel, bfloat16 onnx: net.keras" in done.output


@pytest.mark.parametrize(("difference", "lost"), [(0.3, 0), (0.0, 1)])
def test_another_model_than_the_versions(tmp_path: Path, difference: float, lost: int) -> None:
    """It is refused by its float32 answers, and then in all numbers."""
    version = version_at(tmp_path)
    (version.directory / "manifest.json").write_text("{}")
    with Verifier(QUIET) as verifier:  # starts no process here
        work = numbers._Work(version, tmp_path, Sources(), QUIET, verifier)
        near = OutputParity("y", 1.0, 1e-6, 1e-7, 0, None, 1.0, ())
        work._check_same([Comparison("onnx", "onnxruntime", 4, (near,), 0.1)])
        far = replace(near, max_difference=difference, non_finite=lost)
        with pytest.raises(numbers._NotHereError, match=r"answers otherwise than the float32 model of .*--model FILE"):
            work._check_same([Comparison("onnx", "onnxruntime", 4, (near, far), 0.1)])
        with pytest.raises(numbers._NotHereError, match="answers otherwise"):
            work.row("bfloat16", FORMATS["onnx"])


def test_what_could_not_be_made_is_not_tried_again(tmp_path: Path) -> None:
    numbers._keep_reason(tmp_path / "bfloat16-onnx-1", "no kernel")
    with pytest.raises(numbers._NotHereError, match="no kernel"):
        numbers._known(tmp_path / "bfloat16-onnx-1")
    assert numbers._known(tmp_path / "float32-onnx-1") is None
    (tmp_path / "float32-onnx-1").mkdir()  # damaged: made again
    assert numbers._known(tmp_path / "float32-onnx-1") is None
    assert not (tmp_path / "float32-onnx-1").exists()


@pytest.mark.slow
def test_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every format that is asked for, in the comparison's folder; what was made of the same file is not made again."""
    monkeypatch.chdir(tmp_path)
    small_model().save("net.keras")
    np.savez("in.npz", x=np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32))
    arguments = ("net.keras", "--no-bench", "--formats", "onnx", "--verify-with", "in.npz")
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "comparisons" / "net"
    versions = folder / "exports" / "net"
    assert [path.name for path in versions.iterdir() if path.is_dir()] == ["1"]
    assert open_version(versions / "1").manifest.reference.file == "in.npz"
    table = json.loads((folder / "formats" / "table.json").read_text())
    assert [(one["numbers"], one["format"]) for one in table["offers"]] == [("float16", "onnx"), ("float32", "onnx")]
    again = call(*arguments)
    assert "was made of the same file, and is not made again" in again.output
    assert [path.name for path in versions.iterdir() if path.is_dir()] == ["1"]
    small_model().save("net.keras")  # a .keras file holds the time at which it was written
    assert call(*arguments, "--quiet").exit_code == 0
    assert sorted(path.name for path in versions.iterdir() if path.is_dir()) == ["1", "2"]


def test_every_format_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from tfhalf.compare import model

    monkeypatch.setattr(model, "lacking", lambda needs: "" if needs == "onnx" else "is not installed")
    options, absent = formats_here(Options())
    assert options.tried == ("savedmodel", "onnx")
    assert absent == [Absent("litert", "is not installed"), Absent("litert-int8", "is not installed")]
    assert formats_here(Options(formats=("onnx",))) == (Options(formats=("onnx",)), [])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_one_process_at_a_time(tmp_path: Path) -> None:
    left = tmp_path / "net" / ".staged-old"
    left.mkdir(parents=True)
    with alone_in(tmp_path / "net"):
        assert not left.exists()
        with pytest.raises(ConfigError, match="another process compares in it"), alone_in(tmp_path / "net"):
            pass


def test_a_builder_needs_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"draws its weights anew each time.*--weights FILE"):
        exported(Request("keras.applications:MobileNetV2"), Options(), tmp_path, QUIET)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("net.keras", ("--policies", "float32"), "net.keras is a model, which takes no --policies; leave that out"),
        ("net.h5", ("--pipeline", "a.yaml"), "net.h5 is a model, which takes no --pipeline"),
        ("net.keras", (), "net.keras: does not exist; give a model file, exports/NAME or a pipeline"),
        ("net.yaml", ("--model", "a.keras"), "net.yaml is a pipeline, which takes no --model"),
        ("exports", ("--policies", "float32", "--vary", "train.epochs=1,2"), "takes no --policies, --vary; leave"),
        ("exports", ("--weights", "a.h5"), "--weights, --arg: go with --model file.py:build"),
        ("run", (), "is a run folder; compare what it exported: tfhalf compare exports/NAME"),
    ],
)
def test_refused(tmp_path: Path, name: str, options: tuple[str, ...], words: str) -> None:
    (tmp_path / "exports").mkdir()
    run_at(tmp_path / "run", "a")
    done = call(tmp_path / name, *options)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert words in done.output
