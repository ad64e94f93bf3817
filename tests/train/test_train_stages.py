"""``train.stages``: what stands still in each, BatchNormalization too, how fast it learns, and how it is taken up."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from train_helpers import quiet, splits
from train_loops import Stopped, run_folder, trainer, values

from tfhalf import config
from tfhalf.config import Train
from tfhalf.errors import ConfigError
from tfhalf.progress import Progress
from tfhalf.train.loop import run_training
from tfhalf.train.stages import PLAIN, Stage, Stages, lines, norms
from tfhalf.train.trainer import Trainer

pytestmark = pytest.mark.slow  # it trains

PATHS = ("block/conv/kernel", "block/conv/bias", "block/norm/gamma", "head/kernel")
NORMS = (("block/norm", "block/norm/gamma", "block/norm/moving_mean"),)
TWO = [{"epochs": 2, "freeze": ["^conv", "^norm"]}, {"epochs": 2}]


def stages(*parts: dict[str, Any], shape: tuple[int, ...] = (8, 8, 1), epochs: int = 0, peak: float = 0.1) -> Stages:
    read = Train.model_validate({"stages": parts}).stages
    total = epochs or sum(part.epochs for part in read)
    return Stages((), total, shape, None, PATHS, read, NORMS, peak)


def test_every_epoch_has_its_stage() -> None:
    made = stages(
        {"epochs": 2, "freeze": ["^block"], "learning_rate": 0.05, "size": 6}, {"epochs": 1}, {"epochs": 1, "size": 8}
    )
    assert [made.of(epoch) for epoch in range(4)] == [Stage(6, (0, 1, 2), (0,), 0.5)] * 2 + [PLAIN, PLAIN]
    assert made.all == (Stage(6, (0, 1, 2), (0,), 0.5), PLAIN)
    assert made.sizes == (6,)
    assert stages({"epochs": 4, "freeze": ["head"]}, {"epochs": 2}, epochs=1).all == (Stage(None, (3,)),)  # --smoke


@pytest.mark.parametrize(
    ("pattern", "frozen", "still"),
    [("gamma", (2,), ()), ("norm$", (2,), (0,)), ("norm/", (2,), (0,)), ("conv$", (0, 1), ()), ("moving_mean|gamma",
     (2,), (0,))],
)  # fmt: skip
def test_a_norm_stands_still_whole_or_not_at_all(pattern: str, frozen: tuple[int, ...], still: tuple[int, ...]) -> None:
    stage = stages({"epochs": 1, "freeze": [pattern]}).of(0)
    assert (stage.frozen, stage.still) == (frozen, still)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"freeze": ["tail"]}, "train.stages[0].freeze: 'tail' matches no variable that is trained; there are block/"),
        ({"freeze": ["."]}, "train.stages[0].freeze: ['.'] leaves nothing to train; narrow it"),
        ({"size": 9}, "train.stages: 9 is larger than the images"),
    ],
)
def test_stages_that_do_not_fit(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        stages({"epochs": 1, **part})


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"epochs": 3, "stages": [{"epochs": 2}]}, "epochs is 3 and the epochs of the stages add up to 2"),
        ({"sizes": (4,), "stages": [{"epochs": 2}]}, "stages and sizes exclude each other"),
        ({"freeze_after": {"a": 1}, "stages": [{"epochs": 2}]}, "stages and freeze_after exclude each other"),
        ({"stages": [{"epochs": 2, "freeze": ["("]}]}, "is not a regular expression"),
    ],
)
def test_stages_that_contradict_the_section(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Train.model_validate(train)


def test_epochs_may_be_left_out() -> None:
    assert Train.model_validate({"stages": [{"epochs": 2}, {"epochs": 3}]}).epochs == 5
    made = config.Pipeline.model_validate(
        {"name": "a", "model": {"build": "a.py:b"}, "data": {"source": "sklearn:digits"},
         "train": {"stages": [{"epochs": 2, "freeze": ["a"]}]}}
    )  # fmt: skip
    assert config.Pipeline.model_validate_json(made.model_dump_json()) == made


def epoch_of(one: Trainer, epoch: int) -> set[str]:
    """Train ``epoch``; the paths of the variables that it moved, of moving statistics too."""
    before = {v.path: v.numpy() for v in one.state.model.variables if "seed" not in v.path}
    stage = one.program.stages.of(epoch)
    one.program.feed(one.program.order(epoch), epoch, epoch * one.program.steps_per_epoch, stage)
    moved = [v for v in one.state.model.variables if v.path in before]
    return {v.path for v in moved if not np.array_equal(v.numpy(), before[v.path])}


@pytest.mark.parametrize(
    ("policy", "feed", "extra"),
    [
        ("float32", "resident", {"lookahead": {"every": 2}}),
        ("float32", "streamed", {}),
        ("mixed_float16", "resident", {"name": "adamw"}),
        ("mixed_float16", "streamed", {"ema_momentum": 0.5}),
    ],
)
def test_what_is_frozen_stands_still_and_trains_again(
    folder: Path, policy: str, feed: str, extra: dict[str, Any]
) -> None:
    one = trainer(
        folder,
        train__stages=TWO,
        train__feed=feed,
        train__accumulate=2,
        train__optimizer={"learning_rate": 0.05, "weight_decay": 0.01, "clip_norm": 5.0, **extra},
        precision__policy=policy,
    )
    one.program.compile()
    paths = {v.path for v in one.state.model.variables if "seed" not in v.path}
    free = {path for path in paths if path.startswith("head")}
    assert [epoch_of(one, epoch) for epoch in range(4)] == [free, free, paths, paths]
    assert all(layer.trainable for layer in norms(one.state.model))


def test_a_frozen_norm_answers_by_its_moving_statistics(folder: Path) -> None:
    one = trainer(folder, train__stages=TWO, precision__policy="float32")
    (norm,) = norms(one.state.model)
    norm.moving_mean.assign([0.3, -0.2, 0.1, 0.0])
    norm.moving_variance.assign([2.0, 3.0, 0.5, 1.0])
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 4)).astype(np.float32)
    with one.program.step.staged(one.program.stages.of(0)):
        np.testing.assert_array_equal(norm(x, training=True), norm(x, training=False))
    assert not np.array_equal(keras.ops.convert_to_numpy(norm(x, training=True)), norm(x, training=False))


def test_norms_of_a_smaller_twin_stand_still_too(folder: Path) -> None:
    side = splits().input_shape[0]
    parts = [{**TWO[0], "size": side - 2}, TWO[1]]
    one = trainer(folder, train__stages=parts, precision__policy="float32")
    one.program.compile()
    assert not {path for path in epoch_of(one, 0) if not path.startswith("head")}
    assert "norm/moving_mean" in epoch_of(one, 2)


@pytest.mark.parametrize("policy", ["mixed_float16"])
@pytest.mark.parametrize(
    ("optimizer", "halved"),
    [
        ({"momentum": 0.9, "weight_decay": 0.125}, {}),
        ({"name": "adamw", "weight_decay": 0.25, "ema_momentum": 0.5}, {}),
        ({"name": "lion", "lookahead": {"every": 2}}, {}),
        ({"lr_multipliers": {"bias": 4.0}}, {}),
        ({"muon": {"match": ["conv/kernel"], "learning_rate": 0.25, "normalize": False}, "weight_decay": 0.125},
         {"muon": {"match": ["conv/kernel"], "learning_rate": 0.125, "normalize": False}}),
    ],
)  # fmt: skip
def test_a_stages_rate_is_that_of_an_optimizer_that_has_it(
    folder: Path, policy: str, optimizer: dict[str, Any], halved: dict[str, Any]
) -> None:
    """Rates of powers of two: their ratio rounds nothing."""
    common: dict[str, Any] = {"train__accumulate": 2, "train__schedule": {"name": "step", "milestones": [1]}}
    common["precision__policy"] = policy
    common["train__epochs"] = 2
    staged = trainer(
        folder,
        **common,
        train__stages=[{"epochs": 2, "learning_rate": 0.03125}],
        train__optimizer={**optimizer, "learning_rate": 0.0625},
    )
    plain = trainer(folder, **common, train__optimizer={**optimizer, **halved, "learning_rate": 0.03125})
    results = [run_training(one, run_folder(folder, name), quiet()) for one, name in ((staged, "a"), (plain, "b"))]
    for one, other in zip(staged.state.model.variables, plain.state.model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.path)
    assert [row.learning_rate for row in results[0].epochs] == [row.learning_rate for row in results[1].epochs]


class StopAt(Progress):
    """Ends the run at the chunk ``number``, as a kill may."""

    def __init__(self, number: int) -> None:
        super().__init__(io.StringIO())
        self.left = number

    def status(self, text: str) -> None:
        self.left -= text.startswith("epoch ")
        if self.left <= 0:
            raise Stopped


@pytest.mark.parametrize(  # of three chunks an epoch: within an epoch of each stage, and at the first of the second
    ("number", "policy"), [(2, "mixed_float16"), (7, "mixed_float16"), (11, "float32")]
)
def test_a_run_is_taken_up_within_each_stage(folder: Path, number: int, policy: str) -> None:
    def ended(name: str, stop: bool) -> list[np.ndarray]:
        parts = [{**TWO[0], "learning_rate": 0.02}, TWO[1]]
        one = trainer(folder, train__stages=parts, precision__policy=policy)
        run = run_folder(folder, name)
        one.program.rows = 2
        if stop:
            with pytest.raises(Stopped):
                run_training(one, run, StopAt(number))
            one = trainer(folder, train__stages=parts, precision__policy=policy)
            one.program.rows = 2
        run_training(one, run, quiet(), resume=stop)
        return values(one)

    for whole, resumed in zip(ended("whole", False), ended("resumed", True), strict=True):
        np.testing.assert_array_equal(whole, resumed)


def test_a_line_for_each_stage(folder: Path) -> None:
    parts = [{**TWO[0], "learning_rate": 0.02}, {"epochs": 1, "size": 4}]
    one = trainer(folder, train__stages=parts, train__epochs=3)
    assert lines(one.job, one.program.stages, one.state.trained) == [
        "stage 1: 2 epochs, 15 of 63 parameters train, 1 BatchNormalization standing still, learning rate 0.02",
        "stage 2: 1 epoch, 63 of 63 parameters train, learning rate 0.05, images of 4x4",
    ]
