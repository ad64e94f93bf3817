"""``tfhalf numerics``: what it prints, gives to programs, draws, and refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import fork_server
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numerics_helpers import NET

from tfhalf.cli import main
from tfhalf.numerics.histogram import BINS, HIGH, LOW

pytestmark = pytest.mark.slow  # it trains

KINDS = ["weights", "activations", "activation gradients", "weight gradients", "weight updates"]
PIPELINE = """
name: job
model: {build: "net.py:%s"}
data: {source: "npz:data.npz", test: 0.2}
train: {epochs: 3, batch_size: 16, optimizer: {name: adam, learning_rate: 0.01}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("numerics")
    (place / "net.py").write_text(NET)
    draw = np.random.default_rng(0)
    y = (np.arange(120) % 3).astype(np.int32)
    x = draw.integers(0, 128, (120, 6, 6, 1)).astype(np.uint8)
    x[np.arange(120), y] += 100
    np.savez(place / "data.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    for name in ("build", "build_large"):
        (place / f"{name}.yaml").write_text(PIPELINE % name)
    return place


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["numerics", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def facts(folder: Path) -> Any:
    result = call(folder / "build.yaml", "--steps", 6, "--every", 3, "--json", "--plot", folder / "a.png")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_json_has_everything(facts: Any) -> None:
    assert (facts["pipeline"], facts["policy"], facts["measured_in"]) == ("job", "mixed_float16", "float32")
    assert (facts["steps"], facts["every"], facts["measured_steps"], facts["batch_size"]) == (6, 3, 2, 16)
    assert list(facts["kinds"]) == KINDS
    assert facts["exponents"] == {"from": LOW, "to": HIGH}
    assert facts["overhead"]["factor"] == pytest.approx(
        facts["overhead"]["measured_step_seconds"] / facts["overhead"]["step_seconds"]
    )
    assert facts["overhead"]["factor_in_all"] == pytest.approx((2 + facts["overhead"]["factor"]) / 3)
    tensors = {(t["kind"], t["name"]): t for t in facts["tensors"]}
    assert ("activation gradients", "conv") in tensors
    for tensor in [*facts["tensors"], *facts["kinds"].values()]:
        assert len(tensor["histogram"]) == BINS - 2
        assert sum(tensor["histogram"]) + tensor["zeros"] == tensor["count"]
        for shares in tensor["shares"].values():
            whole = [shares[part] for part in ("zero", "below", "subnormal", "normal", "overflowed")]
            assert sum(whole) == pytest.approx(1)
    proposed = facts["proposal"]["loss_scale"]
    assert set(facts["kinds"]["weight gradients"]["shares"]) == {"1", "32768", f"{proposed:.0f}"}
    assert set(facts["kinds"]["weights"]["shares"]) == {"1"}
    assert facts["proposal"]["keep_float32"] == facts["proposal"]["evidence"] == []
    assert facts["proposal"]["bfloat16"]["range_fits"] is True
    lost = facts["updates"]
    assert 0 <= lost["lost_in_float16"] <= lost["lost_in_bfloat16"] < lost["updates"]
    assert sum(t["updates"] for t in facts["tensors"] if "updates" in t) == facts["updates"]["updates"]


def test_the_picture(folder: Path, facts: Any) -> None:
    from PIL import Image

    with Image.open(folder / "a.png") as image:
        assert image.format == "PNG"
        assert image.width > 900
        assert image.height > 900
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(226, 240, 217), (255, 242, 204), (248, 215, 218)} <= colours  # the three ranges are shaded


def test_what_a_person_reads(folder: Path) -> None:
    said = call(folder / "build_large.yaml", "--steps", 4, "--every", 2, "--batch-size", 8, "--all")
    assert said.exit_code == 0
    text = said.stdout
    assert re.search(r"^measuring  2 of 4 steps in float32: about ", text, re.MULTILINE)
    assert re.search(r"^steps      4 of 8 images, every 2nd measured \(2 in all\); loss ", text, re.MULTILINE)
    assert re.search(r"^overhead   a step takes .* ms, measured .* ms: .* times as long; .* in all", text, re.MULTILINE)
    for kind in KINDS:
        assert re.search(rf"^{kind} +\d|^{kind} +1 ", text, re.MULTILINE), kind
    assert "above 65504" in text
    assert "2^15 in force" in text
    assert "proposed" in text
    assert re.search(
        r"^updates    .* % of the weights' updates would change nothing in weights kept in float16", text, re.M
    )
    pasted = text[text.index("    precision:") : text.index("\nscale ")]
    assert re.search(r"    - '\^blow\$' +# .*gives up to [\d,]+\n", pasted)
    assert re.search(r"    - '\^norm\$' +# takes up to [\d,]+\n", pasted)
    assert re.search(r"loss_scale: \{initial: \d+\}", pasted)
    assert "bfloat16   its range would do where float16's does not" in text


def test_what_is_pasted_is_a_pipeline(folder: Path) -> None:
    text = call(folder / "build_large.yaml", "--steps", 2, "--every", 2, "--quiet").stdout
    assert "pipeline   job" not in text  # quiet: the tables and the proposal
    pasted = text[text.index("    precision:") : text.index("\nscale ")]
    lines = [line[4:] for line in pasted.splitlines()]
    path = folder / "pasted.yaml"
    path.write_text(PIPELINE % "build_large" + "\n".join(lines) + "\n")
    from tfhalf.config import load_pipeline

    assert load_pipeline(path).precision.keep_float32 == ("^blow$", "^norm$")


@pytest.mark.slow
def test_check_measures_what_auto_would_keep(folder: Path) -> None:
    """The same layers as the proposal of `tfhalf numerics`, before anything is trained; nothing is written."""
    there = sorted(folder.iterdir())
    arguments = ["check", str(folder / "build_large.yaml"), "--set", "precision.keep_float32=auto"]
    done = CliRunner().invoke(main, [*arguments, "--measure", "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert [island["pattern"] for island in told["islands"]] == ["^blow$", "^norm$"]
    assert told["islands"][0]["reasons"][0].startswith("gives up to ")
    said = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout.splitlines()
    assert said[-1].startswith("# keep_float32: auto is settled when training begins")
    assert sorted(folder.iterdir()) == there


def test_several_processes_count_what_one_counts(folder: Path, facts: Any) -> None:
    """The first command's numbers, but for sums in another order."""
    options = ["--steps", "6", "--every", "3", "--json", "--devices", "2", "--set", "train.sync_batch_norm=true"]
    command = [sys.executable, "-m", "tfhalf", "numerics", "build.yaml", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert shared["device"] == f"2 x {facts['device']}"
    assert [(t["kind"], t["name"]) for t in shared["tensors"]] == [(t["kind"], t["name"]) for t in facts["tensors"]]
    for one, other in zip(facts["tensors"], shared["tensors"], strict=True):
        assert other["count"] == one["count"], one["name"]
        if one["name"] != "conv/bias":  # its gradient is rounding alone, of which Adam makes steps like any other
            assert other["largest"] == pytest.approx(one["largest"], rel=0.01), one["name"]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_policies_without_a_scale(folder: Path, policy: str) -> None:
    told = call(folder / "build.yaml", "--set", f"precision.policy={policy}", "--steps", 1, "--every", 1, "--json")
    facts = json.loads(told.stdout)
    assert facts["scale"]["in_force"] == 1
    assert f"scale in force 2^0 (none under {policy})" in facts["state"]


WRONG = {
    "nothing to measure": ([], "give a PIPELINE file, or --run RUN, or both"),
    "no such file": (["none.yaml"], "none.yaml"),
    "every too large": (
        ["{0}/build.yaml", "--steps", "5", "--every", "6"],
        "--every 6: nothing is measured in --steps 5",
    ),
    "a run and overrides": (["--run", "{0}", "--set", "seed=1"], "--run takes the run's own settings"),
    "no run": (["--run", "{0}"], "is not a run folder"),
    "a picture of another kind": (["{0}/build.yaml", "--plot", "a.gif"], "a name that ends in .png or .svg"),
    "a picture nowhere": (["{0}/build.yaml", "--plot", "{0}/no/a.png"], "make the folder, or take another"),
    "an unknown key": (["{0}/build.yaml", "--set", "train.epoch=1"], "did you mean 'epochs'"),
    "steps after the end": (["{0}/build.yaml", "--every", "50"], "none of 15 steps would be measured"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_told_in_a_line(folder: Path, case: str) -> None:
    arguments, message = WRONG[case]
    result = call(*(argument.format(folder) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not [line for line in result.stdout.splitlines() if not line.startswith("loading ")]


def test_bad_input_is_told_before_tensorflow_is_imported(folder: Path) -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from tfhalf.cli import main\n"
        f"result = CliRunner().invoke(main, ['numerics', {str(folder / 'build.yaml')!r}, '--set', 'seed=x'])\n"
        "assert result.exit_code == 2 and 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_a_run_is_taken_up(folder: Path, tmp_path: Path) -> None:
    """Its weights, its loss scale, and its last epoch's learning rate; the run is left as it is."""
    path = folder / "build.yaml"
    changes = (
        *("precision.keep_float32=auto", "precision.loss_scale={initial: 1024}"),
        "verify={min_agreement: 0, max_accuracy_drop: 100}",
    )
    done = fork_server.run(tmp_path, "train", path, "--json", *(word for one in changes for word in ("--set", one)))
    assert done.returncode == 0, done.stderr
    run = tmp_path / json.loads(done.stdout)["run"]
    before = sorted((p.relative_to(run), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file())
    facts = json.loads(call(path, "--run", run, "--steps", 4, "--every", 2, "--json").stdout)
    assert facts["scale"]["in_force"] == 1024
    assert "after epoch 3 of 3, whose last epoch is trained once more; scale in force 2^10" in facts["state"]
    assert facts["first_step"] == 10  # five steps an epoch
    fresh = json.loads(call(path, "--steps", 4, "--every", 2, "--json").stdout)
    assert facts["loss"]["first"] < fresh["loss"]["first"]
    assert sorted((p.relative_to(run), p.stat().st_mtime_ns) for p in run.rglob("*") if p.is_file()) == before
    other = folder / "other.yaml"
    other.write_text((PIPELINE % "build").replace("name: job", "name: other"))
    wrong = call(other, "--run", run)
    assert wrong.exit_code == 2
    assert "is a run of 'job'" in wrong.stderr
