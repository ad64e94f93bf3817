"""``lr_multipliers``: a rate by layer is exactly that rate, behind whatever lies around the optimizer's step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_helpers import quiet
from train_loops import run_folder, trainer

from tfhalf.train.loop import run_training

pytestmark = pytest.mark.slow  # it trains

MUON = {"match": ["kernel"], "learning_rate": 0.25}


@pytest.mark.parametrize(
    ("optimizer", "plain"),
    [
        ({"momentum": 0.9, "lookahead": {"every": 2}}, {}),
        ({"name": "adam", "ema_momentum": 0.5, "clip_norm": 1.0}, {}),
        ({"name": "lion"}, {}),
        ({"muon": MUON}, {"muon": {**MUON, "learning_rate": 0.5}}),
    ],
)
def test_a_factor_for_every_layer_is_another_rate(
    folder: Path, optimizer: dict[str, Any], plain: dict[str, Any]
) -> None:
    """Of two: it rounds nothing. Under loss scaling, with gradients accumulated."""
    trained = []
    for name, own in (
        ("factor", {**optimizer, "learning_rate": 0.0625, "lr_multipliers": {".": 2.0}}),
        ("plain", {**optimizer, **plain, "learning_rate": 0.125}),
    ):
        one = trainer(folder, train__optimizer=own, train__accumulate=2, train__epochs=2)
        run_training(one, run_folder(folder, name), quiet())
        trained.append([variable.numpy() for variable in one.state.model.variables])
    for mine, theirs in zip(*trained, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_factor_moves_its_own_layer_alone(folder: Path) -> None:
    def step(**optimizer: Any) -> dict[str, np.ndarray]:
        settings = {"learning_rate": 0.0625, "momentum": 0.0, "weight_decay": 0.25, **optimizer}
        one = trainer(folder, train__optimizer=settings, precision__policy="float32")
        before = [v.numpy() for v in one.state.model.trainable_variables]
        one.program.feed(one.program.order(0)[:1], 0, 0)
        after = one.state.model.trainable_variables
        return {v.path: v.numpy() - old for v, old in zip(after, before, strict=True)}

    plain, other, decay = step(), step(lr_multipliers={"^conv": 4.0}), step(lr_multipliers={"^conv": 1e-30})
    for path, moved in plain.items():
        expected = moved if not path.startswith("conv") else decay[path] + 4 * (moved - decay[path])
        np.testing.assert_allclose(other[path], expected, rtol=1e-4, atol=1e-6)
