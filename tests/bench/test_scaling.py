"""The model of a step's time on many devices: `benchmarks/scaling.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bench_helpers import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "benchmarks"))
import scaling

BYTES = 100e6


def rates(compute: float, within: float, *counts: int) -> dict[int, float]:
    """Items a second of a batch of 256 each, where the model holds."""
    return {n: n * 256 / (compute + 2 * (1 - 1 / n) * BYTES / within) for n in counts}


def test_what_was_measured_is_fitted_and_predicted() -> None:
    measured = rates(0.04, 80e9, 1, 2, 4)
    model = scaling.Model.fitted(measured, 256, BYTES)
    assert model.compute == pytest.approx(0.04)
    assert model.within == pytest.approx(80e9)
    for n, rate in rates(0.04, 80e9, 2, 4, 8).items():
        assert model.efficiency(n, 50e9) == pytest.approx(rate / n / measured[1])


def test_a_slower_network_and_reading_bound_it() -> None:
    model = scaling.Model.fitted(rates(0.04, 80e9, 1, 2), 256, BYTES)
    fast, slow = (model.efficiency(16, between) for between in (50e9, 12.5e9))
    assert model.efficiency(8, 12.5e9) > fast > slow
    assert fast == pytest.approx(0.04 / (0.04 + 2 * 15 / 16 * BYTES / 50e9 + 2 * 4 * scaling.LATENCY))
    assert model.efficiency(1024, 400e9) < model.efficiency(8, 400e9)  # no faster than within a machine
    assert model.efficiency(16, 12.5e9, read=10.0) == 1.0  # one device waits for its data as long


def test_devices_that_are_no_slower_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="nothing is left to fit"):
        scaling.Model.fitted({1: 100.0, 2: 200.0}, 256, BYTES)


def test_the_script_takes_rates() -> None:
    command = [sys.executable, "benchmarks/scaling.py", "--rates", "1:7008,2:13603", "--parameters", "25.6e6"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=True, timeout=60)
    assert "a step of one 36.53 ms; 102.4 MB of gradients at 92.3 GB/s within a machine" in done.stdout
    done = subprocess.run([*command, "--predict-bytes", "2"], capture_output=True, text=True, cwd=CHECKOUT, check=True)
    assert "51.2 MB of gradients at 92.3 GB/s within a machine" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a pipeline, or --rates, one of them"),
        (["x.yaml", "--rates", "1:2"], "give a pipeline, or --rates, one of them"),
        (["x.yaml", "--devices", "2"], "a rate of one device is needed: begin with 1"),
        (["--rates", "1:7"], "--rates needs --parameters of the net"),
    ],
)
def test_what_the_script_does_not_take(arguments: list[str], words: str) -> None:
    command = [sys.executable, "benchmarks/scaling.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, check=False, timeout=60)
    assert done.returncode == 2
    assert words in done.stderr
