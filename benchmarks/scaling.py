"""How fast 1, 2, ... devices train as one, and what a model of the step's time says of more than there are.

    python benchmarks/scaling.py pipelines/resnet50_synthetic.yaml --batch 256 --devices 1,2
    python benchmarks/scaling.py --rates 1:7008,2:13603 --batch 256 --parameters 25.6e6

The batch grows with the devices: each has ``--batch`` of it. With ``--rates`` nothing is measured: they are images a
second of so many devices. A JSON line comes last.

The model. A step takes

    t(n) = max(compute + reduce(n), read(n))
    reduce(n) = 2 (1 - 1/n) B / w  +  2 log2(n) a        for n > 1

``compute`` is a step of one device; B are the bytes of the gradients; w what a device sends and receives a second,
within a machine fitted to the measured rates, and between machines as given; a the delay of one message.
2 (1 - 1/n) B is what each device of an all-reduce must send, whatever the algorithm (Patarasuk and Yuan, J. Parallel
Distrib. Comput. 69, 2009); the logarithm is that of trees (Sanders, Speck and Traeff, Parallel Comput. 35, 2009), which
NCCL takes for many devices. Nothing of the reduction overlaps the backward pass: that is how tfhalf's step is today.
``read`` is the time in which a device's share of the batch is decoded and brought.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

BETWEEN = {"400 Gb/s a device": 50e9, "100 Gb/s a device": 12.5e9}  # bytes a second
LATENCY = 20e-6  # seconds of one message between machines
A_MACHINE = 8  # devices
_COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Model:
    """``compute`` seconds of a step of one device, ``gradient_bytes``, and ``within``: bytes a second in a machine."""

    compute: float
    gradient_bytes: float
    within: float

    @classmethod
    def fitted(cls, rates: Mapping[int, float], batch: int, gradient_bytes: float) -> Model:
        """Of measured items a second by number of devices, one of which is 1: least squares through the origin of what
        a step takes longer than on one device.

        Raises:
            ValueError: nothing to fit, or more devices are no slower.
        """
        compute = batch / rates[1]
        longer = {n: n * batch / rate - compute for n, rate in rates.items() if n > 1}
        sent = {n: _sent(n) * gradient_bytes for n in longer}
        total = sum(sent[n] * longer[n] for n in longer)
        if total <= 0:
            raise ValueError("a step of several devices takes no longer than one's: nothing is left to fit")
        return cls(compute, gradient_bytes, sum(size**2 for size in sent.values()) / total)

    def efficiency(self, n: int, between: float, read: float = 0.0) -> float:
        """Items a second of ``n`` devices over ``n`` times those of one, where machines of `A_MACHINE` devices exchange
        ``between`` bytes a second and device, and a device's items of a step are read in ``read`` seconds."""
        within = n <= A_MACHINE
        bandwidth = self.within if within else min(self.within, between)
        latency = 0.0 if within else 2 * math.log2(n) * LATENCY
        reduce = _sent(n) * self.gradient_bytes / bandwidth + latency
        return max(self.compute, read) / max(self.compute + reduce, read)


def _sent(n: int) -> float:
    return 2 * (1 - 1 / n)


def measured(pipeline: str, batch: int, devices: int, policy: str, overrides: list[str]) -> tuple[float, int]:
    """Items a second and the net's parameters, by ``tfhalf bench``."""
    command = [sys.executable, "-m", "tfhalf", "bench", pipeline, "--policies", policy, "--devices", str(devices)]
    for override in (*overrides, f"train.batch_size={batch * devices}"):
        command += ["--set", override]
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    (row,) = json.loads(done.stdout)["policies"]
    return float(row["images_per_s"]["median"]), int(row["parameters"])


def main() -> None:
    """Measure, fit, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", nargs="?")
    parser.add_argument("--batch", type=int, default=256, help="items of each device")
    parser.add_argument("--devices", default="1,2")
    parser.add_argument("--policy", default="mixed_float16")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--rates", help="in place of a pipeline: DEVICES:RATE,...")
    parser.add_argument("--parameters", type=float, help="of the net, with --rates")
    parser.add_argument("--reduce-bytes", type=int, default=4, choices=(2, 4), help="of a gradient, when measured")
    parser.add_argument("--predict-bytes", type=int, choices=(2, 4), help="in the prediction; default: the same")
    parser.add_argument("--read", type=float, default=0.0, help="seconds in which a device's items of a step are read")
    options = parser.parse_args()
    parameters = options.parameters
    if (options.pipeline is None) == (options.rates is None):
        parser.error("give a pipeline, or --rates, one of them")
    if options.rates and options.parameters is None:
        parser.error("--rates needs --parameters of the net")
    pairs = (options.rates or options.devices).split(",")
    if 1 not in [int(pair.partition(":")[0]) for pair in pairs]:
        parser.error("a rate of one device is needed: begin with 1")
    if options.rates:
        rates = {int(n): float(rate) for n, rate in (pair.split(":") for pair in options.rates.split(","))}
    else:
        rates = {}
        for n in map(int, options.devices.split(",")):
            rates[n], parameters = measured(options.pipeline, options.batch, n, options.policy, options.overrides)
    print(f"{'devices':>8} {'items/s':>12} {'of n times one':>15}")
    for n, rate in rates.items():
        print(f"{n:>8} {rate:>12,.0f} {rate / n / rates[1]:>15.3f}")
    model = Model.fitted(rates, options.batch, options.reduce_bytes * parameters)
    model = replace(model, gradient_bytes=(options.predict_bytes or options.reduce_bytes) * parameters)
    print(f"\na step of one {model.compute * 1e3:.2f} ms; {model.gradient_bytes / 1e6:.1f} MB of gradients at "
          f"{model.within / 1e9:.1f} GB/s within a machine; more:")  # fmt: skip
    print(f"{'devices':>8} " + " ".join(f"{name:>18}" for name in BETWEEN))
    predicted = {n: {name: model.efficiency(n, rate, options.read) for name, rate in BETWEEN.items()} for n in _COUNTS}
    for n, row in predicted.items():
        print(f"{n:>8} " + " ".join(f"{value:>18.3f}" for value in row.values()))
    print(json.dumps({"rates": rates, "model": vars(model), "efficiency": predicted}))


if __name__ == "__main__":
    main()
