"""What a run keeps of its steps and of its loss scale: a file of bounded size, a picture, words, and the settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from train_helpers import quiet
from train_loops import NET, StopAfter, Stopped, run_folder, trainer

from tfhalf.config import LossScale, Optimizer
from tfhalf.train.diagnose.scale_log import _in_row
from tfhalf.train.loop import run_training
from tfhalf.train.optim.optimizers import make_optimizer, wrap
from tfhalf.train.record import steps
from tfhalf.train.record.history import scale_words
from tfhalf.train.record.plot import draw
from tfhalf.train.record.steps import Steps

# --- steps ------------------------------------------------------------------------------------------------------------


def made(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    finite = draw.random(count) > 0.2
    loss = np.where(finite, draw.random(count), np.nan).astype(np.float32)
    return loss, (2.0 ** draw.integers(0, 10, count)).astype(np.float32), finite


def recorded(run: Path, parts: list[int], first: int = 0, all_of: Any = None) -> Steps:
    kept, (loss, scale, finite) = Steps(run, first), all_of or made(first + sum(parts))
    for part in parts:
        kept.add(first, loss[first : first + part], scale[first : first + part], finite[first : first + part])
        first += part
    return kept


@settings(max_examples=30)
@given(st.lists(st.integers(0, 60), max_size=6), st.sampled_from([4, 16, 64]))
def test_points_are_means_over_equal_widths(
    tmp_path_factory: pytest.TempPathFactory, parts: list[int], room: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "CAPACITY", room)
        found = recorded(Path("nowhere"), parts).arrays()
    loss, scale, finite = made(sum(parts))
    width = int(found["width"])
    assert len(found["step"]) == -(-len(loss) // width) <= room
    assert width == 1 or len(loss) > room * width // 2
    for i, step in enumerate(found["step"]):
        part = slice(step, step + width)
        assert found["applied"][i] == finite[part].sum()
        assert found["skipped"][i] == (~finite[part]).sum()
        assert found["scale"][i] == scale[part].min()
        mean = loss[part][finite[part]].mean() if finite[part].any() else np.nan
        np.testing.assert_allclose(found["loss"][i], mean, rtol=1e-5)


def test_what_was_saved_is_taken_up_up_to_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "CAPACITY", 16)
    everything = made(40)
    recorded(tmp_path, [25], all_of=everything).save()  # points of two steps each
    again = recorded(tmp_path, [20], first=20, all_of=everything).arrays()
    whole = recorded(tmp_path, [40], all_of=everything).arrays()
    for name, values in whole.items():
        np.testing.assert_allclose(again[name], values, rtol=1e-5, err_msg=name)
    odd = Steps(tmp_path, 21).arrays()
    assert odd["applied"].sum() + odd["skipped"].sum() == 20  # the point that goes on beyond it is left out
    assert len(Steps(tmp_path).arrays()["step"]) == 0  # a run that starts anew
    assert [path.name for path in tmp_path.iterdir()] == ["steps.npz"]


@pytest.mark.parametrize("damage", [b"", b"PK nothing", None])
def test_a_damaged_file_is_no_reason_to_fail(tmp_path: Path, damage: bytes | None) -> None:
    recorded(tmp_path, [25]).save()
    content = (tmp_path / "steps.npz").read_bytes()
    (tmp_path / "steps.npz").write_bytes(content[: len(content) // 2] if damage is None else damage)
    assert len(Steps(tmp_path, 20).arrays()["step"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("policy_name", ["mixed_float16", "float32"])
def test_a_run_taken_up_keeps_what_was_recorded(tmp_path: Path, policy_name: str) -> None:
    (tmp_path / "net.py").write_text(NET)
    changes = {"train__epochs": 3, "train__checkpoint_seconds": 0.0, "precision__policy": policy_name}
    run_training(trainer(tmp_path, **changes), run_folder(tmp_path, "whole"), quiet())
    with pytest.raises(Stopped):
        run_training(trainer(tmp_path, **changes), run_folder(tmp_path, "stopped"), StopAfter(1))
    run_training(trainer(tmp_path, **changes), tmp_path / "stopped", quiet(), resume=True)
    with np.load(tmp_path / "whole/steps.npz") as one, np.load(tmp_path / "stopped/steps.npz") as other:
        assert one["step"].tolist() == list(range(15))
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5))
def test_skipped_in_a_row(finite: list[bool], before: int) -> None:
    expected, row = [], before
    for one in finite:
        row = 0 if one else row + 1
        expected.append(row)
    assert _in_row(np.array(finite), before).tolist() == expected


# --- the picture ------------------------------------------------------------------------------------------------------


def is_picture(path: Path) -> bool:
    from PIL import Image

    with Image.open(path) as image:
        return image.size == (1170, 585) and len(image.convert("L").getcolors() or []) > 20


@pytest.mark.parametrize("count", [1, 5, 300])
def test_a_picture_of_any_run(tmp_path: Path, count: int) -> None:
    assert draw(recorded(tmp_path, [count]).arrays(), tmp_path / "a.png", "name") is None
    assert is_picture(tmp_path / "a.png")


def test_a_picture_of_a_run_that_applied_no_step(tmp_path: Path) -> None:
    kept = Steps(tmp_path)
    kept.add(0, np.float32([np.nan, np.inf]), np.float32([2.0**-20, 2.0**-21]), np.array([False, False]))
    assert draw(kept.arrays(), tmp_path / "a.png", "name") is None
    assert is_picture(tmp_path / "a.png")
    assert draw(Steps(tmp_path).arrays(), tmp_path / "b.png", "no step at all") is None


def test_what_is_in_the_way_of_a_picture_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recorded(tmp_path, [5]).arrays()
    said = draw(found, tmp_path / "missing" / "a.png", "name")
    assert said is not None
    assert said.endswith("a.png: No such file or directory")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw(found, tmp_path / "a.png", "name") == "matplotlib is not installed"


@pytest.mark.parametrize(
    ("scale", "words"),
    [(32768.0, "32,768"), (1.0, "1"), (2.0**24, "16,777,216"), (0.125, "0.125"), (2.0**-24, "5.96e-08")],
)
def test_scale_words(scale: float, words: str) -> None:
    assert scale_words(scale) == words


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [("initial", 1000.0, "512 or 1024"), ("growth_factor", 3.0, "2 or 4"), ("backoff_factor", 0.3, "0.25 or 0.5"),
     ("floor", 0.7, "0.5 or 1"), ("cap", 1e6, "524288 or 1048576")],
)  # fmt: skip
def test_what_is_no_power_of_two_is_refused(key: str, value: float, near: str) -> None:
    with pytest.raises(ValidationError, match=f"accepted: a power of two, which rounds no gradient; take {near}"):
        LossScale(**{key: value})


@pytest.mark.parametrize(
    "wrong",
    [{"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"hysteresis": 0}, {"mode": "off"}, {"growth_factor": 2.0**20},
     {"initial": 2.0**25}, {"initial": 1.0, "floor": 2.0}, {"consecutive_hysteresis": 1}],
)  # fmt: skip
def test_what_leads_nowhere_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LossScale(**wrong)


def test_settings_reach_the_rule() -> None:
    inner = make_optimizer(Optimizer(), 0.1)
    given = LossScale(growth_interval=10**20, growth_factor=4.0, backoff_factor=0.25, floor=2.0**-3, cap=2.0**20,
                      hysteresis=3, consecutive_hysteresis=True)  # fmt: skip
    assert wrap(inner, given).rule == (2**31 - 1, 4.0, 0.25, 2.0**-3, 2.0**20, 3, True)
    static = wrap(inner, LossScale(mode="static", initial=2.0**30))  # beyond the default cap, which is not for it
    assert (static.rule.floor, static.rule.cap, static.initial_scale) == (2.0**30,) * 3
