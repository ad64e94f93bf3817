"""``tfhalf bench``: the table, the lines round it, and the picture."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_helpers import DIGITS, HALF, ROW, SERVED, TRAINED, call, refused

from tfhalf.bench import plots, tables
from tfhalf.bench.results import InferenceBench, TrainingBench
from tfhalf.progress import Progress


def text(found: TrainingBench | InferenceBench) -> list[list[str]]:
    """The table's cells."""
    return [list(row) for row in zip(*(column._cells for column in tables.table(found).columns), strict=True)]


def test_shares_and_ratios() -> None:
    assert ROW.images_per_s == 100
    assert ROW.steps_per_s == 5
    assert ROW.spread == pytest.approx(0.3)
    assert ROW.mfu == pytest.approx(10**12 * 5 / 25e12)
    assert replace(ROW, uncounted=("products within While",)).mfu is None
    assert replace(ROW, flops_step=0).mfu is None
    assert TRAINED.ratio(HALF) == 2.5
    assert replace(TRAINED, rows=(HALF,)).ratio(HALF) is None


def test_the_table_of_a_training() -> None:
    shared = ["12.3 s", "5.00 MB", "1,000"]
    assert text(TRAINED) == [
        ["mixed_float16", "250", "200", "260", "24.0 %", "12.5", "2.50", *shared, "50.0", "25.0 %"],
        ["float32", "100", "90.0", "120", "30.0 %", "5.00", "1.00", *shared, "25.0", "20.0 %"],
    ]
    said = "\n".join(tables.heading(TRAINED))
    for word in (
        "net: ../models/net.py:build, 1,234,567 parameters",
        "synthetic:224x224x3: 5,120 training images, 770.70 MB, normalised by 1,000 of them",
        "NVIDIA H200",
        "python 3.12",
        "20 images",
        "resident: 1 MB",
        "XLA is on",
        "float16 8192x8192, float32 8192x8192, TF32",
    ):
        assert word in said
    assert "emulated" not in said
    assert "train.sizes" not in said
    assert tables.notes(TRAINED) == []


def test_what_is_counted_is_called_by_its_name() -> None:
    rows = [replace(row, noun="rows", normalised_by=0, input_shape=()) for row in TRAINED.rows]
    found = replace(TRAINED, rows=tuple(rows))
    assert tables.table(found).columns[1].header == "rows/s"
    assert tables.table(TRAINED).columns[1].header == "images/s"
    said = "\n".join(tables.heading(found))
    assert "5,120 training rows, 770.70 MB, taken as they are" in said
    assert "batch      20 rows; " in said
    assert "augmentation" not in said
    assert "image" not in said.replace("../models", "")


@pytest.mark.parametrize("found", [TRAINED, SERVED], ids=["training", "inference"])
def test_a_narrow_terminal_cuts_no_figure(
    found: TrainingBench | InferenceBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    tables.show(found, Progress(quiet=True))
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [" ".join(row).strip() for row in text(found)]


APART = replace(
    TRAINED,
    rows=(
        replace(HALF, waited=0.351, feed_alone_per_s=255.0, step_alone_per_s=390.0),
        replace(ROW, waited=0.0, step_alone_per_s=101.0),
    ),
)


def test_feed_and_step_apart() -> None:
    heads = [column.header for column in tables.table(APART).columns]
    assert heads[:5] == ["policy", "images/s", "feed alone/s", "step alone/s", "waited"]
    assert [row[:6] for row in text(APART)] == [
        ["mixed_float16", "250", "255", "390", "35.1 %", "200"],
        ["float32", "100", "-", "101", "0.0 %", "90.0"],
    ]
    assert tables.notes(APART) == []
    (said,) = tables.notes(replace(TRAINED, rows=(replace(HALF, waited=0.351), replace(ROW, waited=0.004))))
    assert said.startswith("mixed_float16: the device waited for data 35.1 % of the time; --feed ")
    assert APART.to_dict()["policies"][0]["feed_alone_per_s"] == 255.0


def test_notes_of_a_training() -> None:
    odd = replace(HALF, emulated=True, skipped=4, samples=(1.0,), uncounted=("products within While",))
    odd = replace(odd, normalised_by=odd.images)
    found = replace(TRAINED, rows=(odd,), settings={**TRAINED.settings, "sizes_left_out": [24, 28]})
    *said, sizes, emulated = tables.heading(found)
    assert "train.sizes, [24, 28], is left out" in sizes
    assert "emulated" in emulated
    assert "normalised by all of them" in said[1]
    skipped, slow, uncounted = tables.notes(found)
    assert skipped == "mixed_float16: 4 of 300 steps were skipped for a non-finite gradient"
    assert "1 of 3 repeats" in slow
    assert "products within While" in uncounted
    assert text(found)[0][6] == text(found)[0][-1] == "-"


def test_whether_a_program_came_from_the_cache_is_said() -> None:
    rows = (replace(HALF, from_cache=True), replace(ROW, from_cache=False))
    assert tables.notes(replace(TRAINED, rows=rows)) == [
        "mixed_float16: compiled in 12.3 s, from the cache",
        "float32: compiled in 12.3 s, kept for the next time",
    ]


def test_the_table_of_an_export() -> None:
    assert text(SERVED) == [
        ["SavedModel", "1", "1.50", "2.50", "600", "100", "400"],
        ["", "8", "3.00", "5.00", "2,500", "50", "100"],
        ["ONNX Runtime, CUDA", *["-"] * 6],
    ]
    assert tables.notes(SERVED) == ["ONNX Runtime, CUDA: not available: no CUDA here"]
    export, device, versions = tables.heading(SERVED)
    assert "exports/net/3: input image [8, 8, 1]" in export
    assert device == f"device     {SERVED.rows[0].device}"
    assert versions == "versions   python 3.12"


def test_runtimes_on_several_devices() -> None:
    gpu, onnx = replace(SERVED.rows[0], device="NVIDIA H200"), replace(SERVED.rows[0], runtime="onnx-cpu")
    xla = replace(gpu, runtime="savedmodel-xla")
    _, first, second, _ = tables.heading(replace(SERVED, rows=(gpu, xla, onnx)))
    assert first == "device     NVIDIA H200: SavedModel; SavedModel, XLA"
    assert second == f"           {onnx.device}: ONNX Runtime, CPU"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.0005, "0.0005"),
        (0.0123, "0.012"),
        (0.5, "0.50"),
        (9.876, "9.88"),
        (98.76, "98.8"),
        (1234.5, "1,234"),
    ],
)
def test_numbers(value: float, words: str) -> None:
    assert tables.number(value) == words


def test_pictures_of_a_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.draw(TRAINED, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    plots.draw(TRAINED, tmp_path / "a.svg")
    said = (tmp_path / "a.svg").read_text()
    for word in ("mixed_float16", "float32", "images per second", "net: training throughput, batch 20", "NVIDIA H200",
                 "2.50 x float32", "MFU 25.0 %", "250 images/s"):  # fmt: skip
        assert f"<!-- {word} -->" in said, word
    plots.draw(replace(TRAINED, rows=(replace(ROW, samples=(5.0,), uncounted=("x",)),)), tmp_path / "one.png")


def test_a_picture_of_feed_and_step_apart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.draw(APART, tmp_path / "a.svg")
    said = (tmp_path / "a.svg").read_text()
    for word in ("feed alone", "step alone", "waited 35.1 %", "mixed_float16"):
        assert f"<!-- {word} -->" in said, word


def test_a_picture_of_an_export(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.draw(SERVED, tmp_path / "a.svg")
    said = (tmp_path / "a.svg").read_text()
    for word in (
        "SavedModel",
        "milliseconds",
        "samples per second",
        "samples in a call (batch size)",
        "AMD EPYC, 2 CPU cores",
    ):
        assert f"<!-- {word} -->" in said, word
    assert "exports/net/3" in said
    assert "CUDA" not in said


@pytest.mark.parametrize("name", ["a.gif", "a", "nowhere/a.png", "folder.png"])
def test_a_picture_that_cannot_be_made_is_told_before_anything_is_measured(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    message = refused(call(DIGITS, "--plot", tmp_path / name))
    assert message.startswith(f"--plot {tmp_path / name}: accepted: ")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "--plot needs matplotlib" in refused(call(DIGITS, "--plot", tmp_path / "a.png"))
