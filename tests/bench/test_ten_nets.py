"""The script of ten nets beside PyTorch, with a measurement that stands in for both: `benchmarks/ten_nets.py`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from bench_helpers import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "benchmarks"))
import ten_nets
import ten_nets_keras
from ten_nets_list import NETS, Net
from ten_nets_results import Results, measure_all

from tfhalf.config import load_pipeline, refs

MODES = ["default", "default+graph", "reduce-overhead"]
SETTINGS = {"quick": True}
FEW = [NETS["resnet50"], NETS["gpt"]]
# What was published of each net: its parameters with a thousand classes, as timm and torchvision count them; GPT-2's
# 124,439,808 with a vocabulary of 47 words more; BERT base (109,482,240) with a layer for two classes.
PUBLISHED = {
    "resnet50": 25_557_032,
    "efficientnet_b0": 5_288_548,
    "efficientnet_v2_s": 21_458_488,
    "mobilenet_v2": 3_504_872,
    "convnext_tiny": 28_589_128,
    "densenet121": 7_978_856,
    "vit_s16": 22_050_664,
    "gpt": 124_439_808 + 47 * 768,
    "bert": 109_482_240 + 2 * 769,
}


def machine(uuid: str = "GPU-1") -> dict[str, Any]:
    gpu = {"name": "NVIDIA H200", "driver": "1", "memory": "2", "uuid": uuid}
    return {"gpu": gpu, "versions": {"torch": "2.11.0"}, "host": {"cpus": 2, "processor": "a CPU"}}


class Stub:
    """Rates by side, a clock that a row moves on, and what was measured in which limit."""

    def __init__(self, seconds: float = 50, **more: dict[str, Any]) -> None:
        self.now, self.seconds, self.more = 0.0, seconds, more
        self.limits: list[tuple[str, str, float]] = []

    def clock(self) -> float:
        return self.now

    def __call__(self, net: Net, side: str, limit: float) -> dict[str, Any]:
        self.limits.append((net.name, side, limit))
        if limit < self.seconds:
            self.now += limit
            return {"took": limit, "ended": True, "trouble": f"ended by its limit of {limit:.0f} s"}
        self.now += self.seconds
        if f"{net.name} {side}" in self.more:
            return {"took": self.seconds, **self.more[f"{net.name} {side}"]}
        rate = {"tfhalf": 120.0, "default": 90.0, "default+graph": 96.0, "reduce-overhead": 100.0}[side]
        memory = 3 * 2**30 if side == "tfhalf" else 4 * 2**30
        return {
            "took": self.seconds,
            "images_per_s": {"median": rate, "min": rate, "max": rate},
            "memory_bytes": memory,
            "compile_s": 20.0 if side == "tfhalf" else 40.0,
            "parameters": net.parameters + net.fixed * (side == "tfhalf"),
        }


def measured(folder: Path, stub: Stub, nets: list[Net] | None = None, uuid: str = "GPU-1", **more: Any) -> Results:
    results = Results(folder, SETTINGS, machine(uuid), "2026-12-01", nets or FEW)
    bounds = {"limit": 1e6, "budget": 1e6, **more}
    results.complete = measure_all(nets or FEW, MODES, results, stub, clock=stub.clock, **bounds)  # type: ignore[attr-defined]
    return results


def table(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["net"]: row for row in json.loads((folder / "ten_nets.json").read_text())["table"]}


def test_the_table_has_ratios_and_their_means(tmp_path: Path) -> None:
    results = measured(tmp_path, Stub(**{"gpt reduce-overhead": {"trouble": "code 1: out of memory"}}))
    row, gpt = table(tmp_path).values()
    assert (row["mode"], row["ratio"], row["graph_ratio"]) == ("reduce-overhead", 1.2, 1.25)
    assert (row["memory_ratio"], row["compile_ratio"]) == (0.75, 0.5)
    assert (gpt["mode"], gpt["ratio"]) == ("default+graph", 1.25)
    assert gpt["note"] == "reduce-overhead: code 1: out of memory"
    assert results.report["means"]["ratio"] == {"mean": pytest.approx(math.sqrt(1.2 * 1.25)), "nets": 2}
    text = (tmp_path / "ten_nets.md").read_text()
    assert "| ResNet-50 | 256 | 120 images/s | 100 images/s (reduce-overhead) | 1.200 | 1.250 | 3.0 / 4.0 |" in text
    assert f"| {120 * 1024:,} tokens/s |" in text
    assert "geometric mean of 2 of 2 nets: 1.225" in text
    assert "ResNet-50 over PyTorch with a CUDA graph: 1.250" in text


def test_a_net_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    failing = {f"resnet50 {side}": {"trouble": "code 1: no"} for side in ("tfhalf", *MODES)}
    results = measured(tmp_path, Stub(**failing))
    assert results.complete  # type: ignore[attr-defined]
    row, gpt = table(tmp_path).values()
    assert row["note"] == "; ".join(f"{side}: code 1: no" for side in ("tfhalf", *MODES))
    assert "ratio" in gpt
    assert row["ratio"] is None
    again = Stub()
    measured(tmp_path, again)
    assert again.limits == []
    measured(tmp_path, again, retry=True)
    assert [(net, side) for net, side, _ in again.limits] == [("resnet50", side) for side in ("tfhalf", *MODES)]


def test_nets_of_other_sizes_are_not_compared(tmp_path: Path) -> None:
    row = Stub()(NETS["resnet50"], "default", 1e6)
    measured(tmp_path, Stub(**{"resnet50 default": {**row, "parameters": 7}}), [NETS["resnet50"]])
    (one,) = table(tmp_path).values()
    assert "ratio" not in one
    assert "default 7" in one["note"]
    assert "tfhalf 25,557,032 parameters, 25,557,032 expected" in one["note"]


def test_a_second_call_goes_on_where_the_limit_ended_the_first(tmp_path: Path) -> None:
    first = Stub()
    results = measured(tmp_path, first, limit=140)
    assert not results.complete  # type: ignore[attr-defined]
    assert first.limits == [("resnet50", "tfhalf", 140), ("resnet50", "default", 90), ("resnet50", "default+graph", 40)]
    assert table(tmp_path)["resnet50"]["note"] == "default+graph: cut short: measured by the next call"
    assert table(tmp_path)["gpt"]["note"] == "not measured"
    second = Stub()
    assert measured(tmp_path, second).complete  # type: ignore[attr-defined]
    sides = [(net, side) for net, side, _ in second.limits]
    assert sides == [("resnet50", side) for side in MODES[1:]] + [("gpt", side) for side in ("tfhalf", *MODES)]
    assert table(tmp_path)["resnet50"]["note"] == ""


def test_what_another_machine_began_is_begun_again(tmp_path: Path) -> None:
    measured(tmp_path, Stub(), limit=260)  # resnet50 whole, gpt without PyTorch
    other = Stub()
    results = measured(tmp_path, other, uuid="GPU-2")
    assert [(net, side) for net, side, _ in other.limits] == [("gpt", side) for side in ("tfhalf", *MODES)]
    assert {name: net["machine"] for name, net in results.nets.items()} == {"resnet50": "GPU-1", "gpt": "GPU-2"}
    assert (tmp_path / "ten_nets.md").read_text().count("NVIDIA H200") == 2


def test_modes_end_with_their_budget(tmp_path: Path) -> None:
    stub = Stub()
    measured(tmp_path, stub, [NETS["resnet50"]], budget=120)
    # Not all of it for one mode, so that the others have some; what is left then is too little for a third.
    assert [(side, round(limit)) for _, side, limit in stub.limits] == [
        ("tfhalf", 300),
        ("default", 84),
        ("default+graph", 49),
    ]
    assert table(tmp_path)["resnet50"]["note"] == (
        "default+graph: ended by its limit of 49 s; reduce-overhead: not tried: the 120 s for PyTorch were over"
    )
    measured(tmp_path, stub, [NETS["resnet50"]], budget=300, retry=True)
    assert table(tmp_path)["resnet50"]["note"] == ""


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    measured(tmp_path, Stub())
    with pytest.raises(ValueError, match="is of other settings"):
        Results(tmp_path, {"quick": False}, machine(), "", FEW)


def test_what_tfhalf_prints_becomes_a_row() -> None:
    rate = {"median": 1.0, "min": 1.0, "max": 1.0}
    printed = {"policies": [{"images_per_s": rate, "compile_seconds": 1.26}], "versions": {"keras": "3"}}
    row = ten_nets._row(printed, "tfhalf")
    assert row == {"images_per_s": rate, "compile_s": 1.3, "versions": {"keras": "3"}}
    assert ten_nets._row({"policies": [], "failed": [{"name": "x", "error": "no"}]}, "tfhalf") == {"trouble": "no"}


def test_the_script_refuses_a_net_that_is_not_listed(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/ten_nets.py", "--out", str(tmp_path), "--nets", "vgg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False, timeout=60)
    assert done.returncode == 2
    assert "--nets: vgg; accepted: resnet50, efficientnet_b0" in done.stderr


@pytest.mark.parametrize("net", [*NETS.values(), *(net.small() for net in NETS.values())], ids=lambda net: net.name)
def test_pipelines_are_read(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(json.dumps(net.pipeline()))
    pipeline = load_pipeline(path, [])
    assert callable(refs.resolve(pipeline.model.build, tmp_path))


def test_words_are_followed_by_the_next() -> None:
    arrays = ten_nets_keras.tokens(length=5, words=7, train=3, test=2, next_word=True)
    np.testing.assert_array_equal(arrays["x_train"][:, 1:], arrays["y_train"][:, :-1])
    assert arrays["class_names"] == list("0123456")
    assert ten_nets_keras.tokens(length=5, words=7, train=3, test=2, next_word=False)["y_test"].tolist() == [0, 1]


def built(net: Net) -> keras.Model:
    extra = {"words": net.words} if net.words and net.task == "classification" else {}
    build = refs.resolve(net.build, CHECKOUT)
    return build(input_shape=net.item, num_classes=net.classes, **net.args, **extra)


@pytest.mark.parametrize("name", ["vit_s16", "gpt", "bert"])
def test_small_nets_have_as_many_parameters_as_their_sizes_say(name: str) -> None:
    net = NETS[name].small()
    width = net.args.get("width", 384)
    block = 12 * width**2 + 13 * width  # attention 4 w (w + 1), 4 w wide and back, two norms
    model = built(net)
    rest = {
        "vit_s16": 16 * 16 * 3 * width + width + width + 5 * width + 2 * width + 10 * (width + 1),
        "gpt": (10 + 32 + 2) * width,
        "bert": (10 + 32 + 2 + 2) * width + width * (width + 1) + 2 * (width + 1),
    }[name]
    assert model.count_params() == 2 * block + rest


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS.values(), ids=lambda net: net.name)
def test_nets_have_as_many_parameters_as_published(net: Net) -> None:
    model = built(net)
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    assert trained == net.parameters == PUBLISHED.get(net.name, net.parameters)
    assert model.count_params() == net.parameters + net.fixed
