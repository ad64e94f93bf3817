"""A cell of a comparison that trains nothing: its figures come from its policy and seed, in a tenth of a second."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from tfhalf.compare.cell import RESULT
from tfhalf.compare.records import MetricFacts, Result
from tfhalf.files import replacing
from tfhalf.system.child import Channel

PIPELINE = """
name: small
model: {build: "net.py:build"}
data: {source: "digits"}
"""
"""Of which nothing is built."""


def result_of(policy: str, seed: int) -> Result:
    """Float16 is worse by a point, the other policies are as good."""
    accuracy = 0.9 + 0.001 * (seed % 5) - (0.01 if policy == "mixed_bfloat16" else 0.0)
    rows = [{"epoch": k + 1, "accuracy": accuracy, "val_accuracy": accuracy * k / 3, "images_per_s": 1000.0 + k,
             "loss_scale": 2.0**15, "skipped": 0, "seconds": 1.0, "elapsed": k + 1.0} for k in range(4)]  # fmt: skip
    facts = (MetricFacts("accuracy", True, True),)
    return Result(metrics={"accuracy": accuracy}, facts=facts, history=tuple(rows), items_per_s=1000.0, noun="images",
                  device="a CPU", versions={"tfhalf": "0"})  # fmt: skip


def main(channel: Channel) -> None:
    """As `tfhalf.compare.cell.main`; ``FAKE_CELL`` says what goes wrong, by policy: refused, failed or killed."""
    request = json.loads(channel.receive()[1])
    folder = Path(request["folder"])
    values = dict(override.split("=", 1) for override in request["overrides"])
    policy, seed = values["precision.policy"], int(values["seed"])
    with (folder.parent / "log.txt").open("a") as log:
        log.write(f"{'again' if (folder / RESULT).exists() else 'begun'} {folder.name}\n")
    fault = json.loads(os.environ.get("FAKE_CELL", "{}")).get(policy)
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "refused":
        channel.send_json({"error": "the data is not there", "exit_code": 2})
        return
    time.sleep(0.1)
    result = Result(error="step 3: the loss is nan", device="a CPU") if fault == "failed" else result_of(policy, seed)
    result = replace(result, at_once=request["at_once"])
    with replacing(folder / RESULT) as beside:
        beside.write_text(json.dumps(result.to_dict()))
    channel.send_json(result.to_dict())
