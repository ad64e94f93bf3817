"""Which cells a comparison has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfhalf.compare.plan import POLICIES, make_plan
from tfhalf.compare.records import Setting
from tfhalf.errors import ConfigError

PIPELINE = """
name: small
seed: 3
model: {build: "net.py:build"}
data: {source: "digits"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text("def build(**_):\n    return 1\n")
    path = tmp_path / "small.yaml"
    path.write_text(PIPELINE)
    return path


def test_every_policy_with_every_combination_and_seed(file: Path) -> None:
    vary = ["train.epochs=3,2", "train.sizes=[24, 32],[16]"]
    plan = make_plan(file, policies="mixed_float16,float32", seeds=2, vary=vary)
    assert plan.seeds == (3, 4)
    assert len(plan.settings) == 8
    assert len({cell.folder for cell in plan.cells}) == 16
    assert plan.settings[0] == Setting("mixed_float16", ("train.epochs=3", "train.sizes=[24, 32]"))
    assert [cell.seed for cell in plan.cells] == [3] * 8 + [4] * 8
    other = Setting("mixed_float16", ("train.epochs=2", "train.sizes=[16]"))
    assert plan.reference_of(other) == Setting("float32", other.changes)
    assert plan.reference_of(Setting("float32", other.changes)) is None
    assert plan.first_of(other) == plan.settings[0]
    assert plan.first_of(plan.settings[0]) is None


def test_all_policies_float32_first(file: Path) -> None:
    policies = [one.policy for one in make_plan(file).settings]
    assert sorted(policies) == sorted(POLICIES)
    assert policies[0] == "float32"


def test_one_policy_is_held_against_its_first_change(file: Path) -> None:
    plan = make_plan(file, policies="mixed_float16", vary=["train.epochs=1,2"])
    assert plan.reference_of(plan.settings[1]) == plan.settings[0]
    assert plan.reference_of(plan.settings[0]) is None
    assert plan.first_of(plan.settings[1]) is None  # the reference is that already


def test_a_cell_is_what_it_depends_on(file: Path) -> None:
    """The same of the same pipeline; another one of another pipeline, or other code."""
    keys = [cell.key for cell in make_plan(file).cells]
    assert keys == [cell.key for cell in make_plan(file).cells]
    more = make_plan(file, seeds=5)
    assert set(keys) <= {cell.key for cell in more.cells}
    assert not set(keys) & {cell.key for cell in make_plan(file, ["train.epochs=3"]).cells}
    (file.parent / "net.py").write_text("def build(**_):\n    return 2\n")
    assert not set(keys) & {cell.key for cell in make_plan(file).cells}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"policies": "float8"}, "--policies: 'float8' is not one of "),
        ({"policies": "float32,float32"}, "holds a name twice"),
        ({"seeds": 0}, "--seeds: received 0; accepted: 1 to 1000"),
        ({"vary": ["train.epochs"]}, "--vary: received 'train.epochs'; accepted: KEY=A,B"),
        ({"vary": ["train.epochs=1"]}, "give two values or more"),
        ({"vary": ["train.epochs=1,"]}, "give two values or more"),
        ({"vary": ["train.epochs=1,1"]}, "holds a value twice"),
        ({"vary": ["train.optimizer.learning_rate=0.1,1e-1"]}, "two combinations come to the same pipeline"),
        ({"vary": ["train.epochs=1,2", "train.epochs=3,4"]}, "names a key twice"),
        ({"vary": ["precision.policy=float32,mixed_float16"]}, "give --policies instead"),
        ({"vary": ["seed=1,2"]}, "give --seeds instead"),
        ({"vary": ["export.formats=[onnx],[savedmodel]"]}, "give --formats instead"),
        ({"vary": ["train.epoch=1,2"]}, "train.epoch"),
        ({"vary": ["train.epochs=1,-2"]}, "--vary train.epochs: received -2"),
        ({"formats": "onxx"}, "export.formats"),
    ],
)  # fmt: skip
def test_what_is_malformed(file: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(file, **arguments)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_set_leaves_policies_alone(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set precision\.policy: is what --policies chooses"):
        make_plan(file, ["precision.policy=float32"])
