"""``tfhalf bench``: what is refused before anything is measured, and a row that fails says so in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_helpers import DIGITS, HALF, call, refused, version_of

from tfhalf.bench import run
from tfhalf.bench.watch import Watch
from tfhalf.errors import InputError, MemoryShortfall, ShortfallError
from tfhalf.progress import Progress


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.yaml"], "absent.yaml: does not exist; give a pipeline file, exports/NAME or exports/NAME/VERSION"),
        (["exports/absent"], "exports/absent: does not exist"),
        (
            [DIGITS, "--policies", "fp16"],
            "--policies: 'fp16' is not one of mixed_float16, mixed_bfloat16, float32, float16",
        ),
        ([DIGITS, "--policies", "float32,"], "--policies: '' is not one of"),
        ([DIGITS, "--policies", "float32,float32"], "--policies: float32, float32 holds a name twice"),
        ([DIGITS, "--batch-sizes", "1,x"], "--batch-sizes: 'x' is not a batch size; accepted: whole numbers from 1 to"),
        ([DIGITS, "--batch-sizes", "0"], "with commas: 1,8,32, or auto"),
        (
            ["empty", "--batch-sizes", "auto"],
            "--batch-sizes: 'auto' is not a batch size; accepted: whole numbers from 1",
        ),
        ([DIGITS, "--set", "precision.policy=float32"], "give --policies instead"),
        ([DIGITS, "--set", "train.epocs=3"], "did you mean 'epochs'?"),
        ([DIGITS, "--seconds", "nan"], "--seconds: received nan; accepted: above 0, up to 3600"),
        ([DIGITS, "--seconds", "0"], "--seconds: received 0; accepted"),
        (["empty", "--seconds", "4000"], "--seconds: received 4000; accepted"),
        (["empty"], "holds no exported version"),
        (["empty", "--policies", "float32", "--repeats", "3"], "is an export, which takes no --policies, --repeats"),
        (["empty", "--set", "seed=1", "--data-dir", "x"], "takes no --set, --data-dir"),
        (["empty", "--feed"], "is an export, which takes no --feed; leave that out"),
        (["empty", "--devices", "2"], "is an export, which takes no --devices; leave that out"),
        ([DIGITS, "--devices", "some"], "--devices is 'some'; accepted: all, a number of devices, or GPUs by their"),
        (
            ["empty", "--batch-sizes", "1,0"],
            "--batch-sizes: '0' is not a batch size; accepted: whole numbers from 1 to 65536",
        ),
        (["empty", "--batch-sizes", "1,x"], "--batch-sizes: 'x' is not a batch size"),
        (["empty", "--batch-sizes", ""], "--batch-sizes: '' is not a batch size"),
    ],
)
def test_bad_arguments(arguments: list[Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()

    def never(*_: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(run, "measure_row", never)
    assert words in refused(call(*arguments))


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--seconds", "x"], ["--repeats", "x"]])
def test_usage_errors(arguments: list[str]) -> None:
    result = call(DIGITS, *arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_one_policy_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        assert request["kind"] == "training"
        if request["policy"] == "float32":
            raise ShortfallError("float32: out of memory")
        return {**HALF.__dict__, "policy": name, "samples": [1.0], "input_shape": [8], "uncounted": []}

    monkeypatch.setattr(run, "measure_row", measure_row)
    result = call(DIGITS, "--json", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "error: float32: out of memory\n"
    told = json.loads(result.stdout)
    assert [row["policy"] for row in told["policies"]] == ["mixed_float16", "mixed_bfloat16"]
    assert told["failed"] == [{"name": "float32", "error": "float32: out of memory"}]
    assert told["policies"][0]["ratio_to_float32"] is None
    assert refused(call(DIGITS, "--policies", "float32", "--quiet"), 1) == "float32: out of memory"


ITEMS = 5000


class Memory:
    """Stands for the processes that measure: ``base`` bytes, ``each`` for an item, of ``limit``, and 5,000 items."""

    def __init__(self, base: int = 1000, each: int = 10, limit: int = 20_000, **trouble: Exception) -> None:
        self.base, self.each, self.limit, self.trouble, self.asked = base, each, limit, trouble, list[tuple[str, int]]()

    def __call__(self, request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        batch = int(request["overrides"][-1].removeprefix("train.batch_size="))
        self.asked.append((request["policy"], batch))
        if request["policy"] in self.trouble:
            raise self.trouble[request["policy"]]
        needed = self.base + self.each * batch
        if needed > self.limit:
            raise MemoryShortfall(f"{name}: out of memory")
        batch = min(batch, ITEMS)
        own = {"policy": request["policy"], "batch_size": batch, "memory_bytes": needed, "memory_limit": self.limit}
        return {**HALF.__dict__, **own, "images": ITEMS, "samples": [1.0], "input_shape": [8], "uncounted": []}


def test_listed_batches_have_a_row_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_row", Memory())
    result = call(DIGITS, "--json", "--quiet", "--batch-sizes", "64,4000,32", "--policies", "float32,mixed_float16")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [(row["policy"], row["batch_size"]) for row in told["policies"]] == [
        *(("float32", 32), ("float32", 64), ("mixed_float16", 32), ("mixed_float16", 64)),
    ]
    assert [row["ratio_to_float32"] for row in told["policies"]] == [1.0] * 4
    assert [one["name"] for one in told["failed"]] == ["float32, batch 4,000", "mixed_float16, batch 4,000"]
    assert "largest_batches" not in told


def test_the_largest_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    monkeypatch.setattr(run, "measure_row", memory)
    result = call(DIGITS, "--policies", "float32", "--batch-sizes", "auto")
    assert result.exit_code == 0
    assert [batch for _, batch in memory.asked] == [64, 128, 1024, 1696]  # 90 % of 20,000 bytes are 1,700 items
    assert "float32: the largest batch that fits is about 1,696: 17.96 kB of 20.00 kB" in result.stdout
    lines = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("float32 ")]
    assert lines == ["64", "128", "1,024", "1,696"]
    told = json.loads(call(DIGITS, "--policies", "float32", "--batch-sizes", "auto", "--json", "--quiet").stdout)
    assert told["largest_batches"] == {"float32": 1696}


@pytest.mark.parametrize(
    ("memory", "largest"),
    [
        (Memory(each=1), 5000),  # all that there are
        (Memory(base=0, each=700), 25),
        (Memory(base=19_000, each=100), 4),  # less than the pipeline's own
        (Memory(base=19_900, each=100), 1),
        (Memory(base=0, each=40_000), None),
    ],
)
def test_every_way_to_the_largest_batch(memory: Memory, largest: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_row", memory)
    result = call(DIGITS, "--policies", "float32", "--batch-sizes", "auto", "--json", "--quiet")
    if largest is None:
        assert refused(result, 1) == "float32: not one item fits into the memory; take a smaller net, or smaller items"
        return
    assert json.loads(result.stdout)["largest_batches"] == {"float32": largest}
    assert len(memory.asked) <= 10
    assert len(set(memory.asked)) == len(memory.asked)


def test_no_batch_has_more_items_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_row", Memory(each=1))
    options = (DIGITS, "--policies", "float32", "--json", "--quiet")
    told = json.loads(call(*options, "--batch-sizes", "auto", "--set", "train.batch_size=8192").stdout)
    assert told["largest_batches"] == {"float32": ITEMS}
    told = json.loads(call(*options, "--batch-sizes", "64,8000,9000").stdout)
    assert [row["batch_size"] for row in told["policies"]] == [64, ITEMS]
    assert "does not divide into 2 equal parts" in refused(call(*options, "--batch-sizes", "64,65", "--devices", "2"))


def test_a_batch_that_fails_for_another_reason_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(float32=ShortfallError("float32: no such layer"))
    monkeypatch.setattr(run, "measure_row", memory)
    result = call(DIGITS, "--policies", "float32,mixed_float16", "--batch-sizes", "auto", "--json", "--quiet")
    assert result.stderr == "error: float32: no such layer\n"
    assert [policy for policy, _ in memory.asked].count("float32") == 1
    assert list(json.loads(result.stdout)["largest_batches"]) == ["mixed_float16"]


def test_one_runtime_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cell = {"batch_size": 1, "calls": 30, "p50_ms": 1.0, "p99_ms": 2.0, "images_per_s": 900.0, "warm_up_seconds": 0.1}

    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        runtime = request["runtime"]
        if runtime == "savedmodel":
            raise ShortfallError(f"{name}: it died")
        row = {"runtime": runtime, "computed_by": "x", "device": "y", "note": "", "error": ""}
        return {**row, "cells": [cell], "error": "batch 8: no" if runtime == "onnx-cpu" else ""}

    monkeypatch.setattr(run, "measure_row", measure_row)
    monkeypatch.setattr(run.manifests, "open_version", lambda path: version_of())
    result = call(tmp_path, "--json", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "error: SavedModel: it died; ONNX Runtime, CPU: batch 8: no\n"
    told = json.loads(result.stdout)
    assert [row["runtime"] for row in told["runtimes"]] == [
        "savedmodel-xla",
        "onnx-cpu",
        "onnx-cuda",
        "openvino",
        "litert",
        "litert-int8",
    ]
    assert [one["name"] for one in told["failed"]] == ["savedmodel", "onnx-cpu"]


def test_versions_take_turns_in_each_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else the machine does weighs on all of them alike."""
    asked = []

    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        asked.append(name)
        row = {"runtime": request["runtime"], "computed_by": name, "device": "y", "note": "", "error": "", "cells": []}
        if "OpenVINO, b" in name:
            raise ShortfallError("it died")
        return row

    monkeypatch.setattr(run, "measure_row", measure_row)
    versions = {"a": version_of(artifacts=[{"format": "savedmodel"}, {"format": "onnx"}]), "b": version_of()}
    options = run.Options(runtimes=("savedmodel", "onnx-cpu", "openvino"))
    tables = run.bench_side_by_side(versions, options, Progress(quiet=True))
    assert asked == [
        "SavedModel, a",
        "ONNX Runtime, CPU, a",
        "ONNX Runtime, CPU, b",
        "OpenVINO, a",
        "OpenVINO, b",
    ]
    assert [row.runtime for row in tables["a"].rows] == ["savedmodel", "onnx-cpu", "openvino"]
    assert ([row.runtime for row in tables["b"].rows], len(tables["b"].failed)) == (["onnx-cpu"], 1)


def test_a_fixed_batch_is_the_only_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = []

    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        sizes.append(request["batch_sizes"])
        raise ShortfallError(f"{name}: it died")

    port = {"name": "image", "dtype": "float32", "shape": [4, 4, 4, 3]}
    monkeypatch.setattr(run, "measure_row", measure_row)
    monkeypatch.setattr(run.manifests, "open_version", lambda path: version_of(inputs=[port]))
    refused(call(tmp_path, "--quiet"), 1)
    assert {tuple(one) for one in sizes} == {(4,)}
    assert "takes 4 samples at a time; leave that out" in refused(call(tmp_path, "--batch-sizes", "1,8"))


def test_an_input_at_fault_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        asked.append(name)
        raise InputError(f"{name}: npz:absent.npz does not exist")

    monkeypatch.setattr(run, "measure_row", measure_row)
    assert refused(call(DIGITS)) == "mixed_float16: npz:absent.npz does not exist"
    assert asked == ["mixed_float16"]


def test_what_is_said_while_rows_fail_and_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        watch.hear("compiling the step")
        watch.hear("\trepeat 1 of 3")
        if name == "mixed_float16":
            raise ShortfallError(f"{name}: out of memory")
        return {**HALF.__dict__, "policy": name, "input_shape": [8], "uncounted": []}

    monkeypatch.setattr(run, "measure_row", measure_row)
    progress = call(DIGITS).stdout.partition("\npipeline ")[0].splitlines()
    assert [line.split("s  ", 1)[1].split(";")[0] for line in progress] == [
        "1/3 mixed_float16   compiling the step",
        "1/3 mixed_float16   could not be measured",
        "2/3 float32         compiling the step",
        "2/3 float32         250 images/s",
        "3/3 mixed_bfloat16  compiling the step",
        "3/3 mixed_bfloat16  250 images/s",
    ]
    assert call(DIGITS, "--quiet").stdout.startswith("policy ")


def test_sizes_of_images_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of images is one of images of one size."""
    asked = []

    def measure_row(request: dict[str, Any], name: str, watch: Watch) -> dict[str, Any]:
        asked.append(request["overrides"])
        return {**HALF.__dict__, "policy": name, "input_shape": [8], "uncounted": []}

    monkeypatch.setattr(run, "measure_row", measure_row)
    told = json.loads(call(DIGITS, "--set", "train.sizes=[4, 8]", "--policies", "float32", "--json", "--quiet").stdout)
    assert asked == [["train.sizes=[4, 8]", "train.sizes=[]"]]
    assert told["settings"]["sizes_left_out"] == [4, 8]
    call(DIGITS, "--policies", "float32", "--quiet")
    assert asked[-1] == []
