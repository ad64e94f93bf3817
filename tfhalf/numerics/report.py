"""What ``tfhalf numerics`` reports, whole: figures for a program, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tfhalf.numerics.histogram import HIGH, LOW, Histogram
from tfhalf.numerics.islands import LIMIT, MARGIN
from tfhalf.numerics.measure import Measured, Tensor
from tfhalf.numerics.measured_step import KINDS
from tfhalf.numerics.scale_proposal import Loss, Proposal, loss, propose
from tfhalf.precision.islands import Island

GRADIENTS = ("activation gradients", "weight gradients")
"""The kinds that the loss scale multiplies."""
_FEW = 0.01  # flushed gradients that are no reason to leave float16


@dataclass(frozen=True)
class Report:
    """``scale_exponent``: of the scale in force, a power of two; 0 for policies without one. ``state``: where the
    weights come from, in words. ``order``: the layers' paths, from the input to the output. ``noun``: what a batch
    holds."""

    pipeline: str
    model: str
    parameters: int
    source: str
    device: str
    policy: str
    scale_exponent: int
    state: str
    every: int
    measured: Measured
    order: tuple[str, ...]
    islands: tuple[Island, ...]
    versions: dict[str, str]
    noun: str = "items"

    @cached_property
    def proposal(self) -> Proposal:
        """The loss scale for these gradients."""
        return propose([self.kinds[kind] for kind in GRADIENTS])

    def loss_at(self, exponent: int) -> Loss:
        """What a scale of 2^``exponent`` loses, whether or not it is among those of the proposal."""
        return loss([self.kinds[kind] for kind in GRADIENTS], exponent)

    @cached_property
    def kinds(self) -> dict[str, Histogram]:
        """All tensors of each kind together."""
        return {kind: self.measured.of(kind) for kind in KINDS}

    @property
    def overhead(self) -> float:
        """How many times longer a measured step takes."""
        return self.measured.timing.measured / self.measured.timing.plain

    @property
    def overhead_in_all(self) -> float:
        """How many times longer training takes with every so many steps measured."""
        return (self.every - 1 + self.overhead) / self.every

    def exponents(self, kind: str) -> dict[str, int]:
        """The scales, as exponents, that a kind is to be shown at; values that are not scaled have 1 only."""
        if kind not in GRADIENTS:
            return {"": 0}
        return {"": 0, "in force": self.scale_exponent, "proposed": self.proposal.exponent}

    @property
    def bfloat16(self) -> dict[str, Any]:
        """Whether bfloat16 would do: its range is float32's, and its 8 bits lose more of what is added to weights."""
        moved, in_float16, in_bfloat16 = self.measured.lost
        flushed = self.proposal.losses[self.proposal.exponent].flushed
        fits = not self.islands and flushed <= _FEW
        below = sum(int(histogram.exponents[0]) for histogram in self.kinds.values())
        if fits:
            verdict = (
                "its range would do, and so does float16's, with 3 bits more: bfloat16 gains nothing but a training "
                "without a loss scale"
            )
        else:
            verdict = (
                "its range would do where float16's does not: no loss scale, no layers in float32; each number is "
                "rounded 8 times as coarsely, so compare the accuracy"
            )
        return {
            "range_fits": True,
            "float16_fits": fits,
            "numbers_below_2^-64": below,
            "unit_roundoff": 2.0**-8,
            "float16_unit_roundoff": 2.0**-11,
            "updates_lost": in_bfloat16 / moved if moved else 0.0,
            "updates_lost_in_float16": in_float16 / moved if moved else 0.0,
            "verdict": verdict,
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = self.measured
        return {
            "pipeline": self.pipeline,
            "model": {"name": self.model, "parameters": self.parameters},
            "source": self.source,
            "device": self.device,
            "versions": self.versions,
            "policy": self.policy,
            "measured_in": "float32",
            "state": self.state,
            "first_step": measured.first,
            "steps": measured.steps,
            "every": self.every,
            "measured_steps": measured.measured_steps,
            "batch_size": measured.batch_size,
            "loss": {"first": float(measured.losses[0]), "last": float(measured.losses[-1])},
            "overhead": {
                "step_seconds": measured.timing.plain,
                "measured_step_seconds": measured.timing.measured,
                "factor": self.overhead,
                "factor_in_all": self.overhead_in_all,
                "compile_seconds": measured.timing.compile,
                "from_cache": measured.timing.from_cache,
            },
            "exponents": {"from": LOW, "to": HIGH},
            "scale": {"in_force": 2.0**self.scale_exponent, "proposed": 2.0**self.proposal.exponent},
            "kinds": {kind: self._numbers(kind, histogram) for kind, histogram in self.kinds.items()},
            "updates": self._updates(measured.lost),
            "tensors": [self._tensor(tensor) for tensor in measured.tensors],
            "proposal": {
                "loss_scale": 2.0**self.proposal.exponent,
                "flushes_no_more_from": 2.0**self.proposal.lowest,
                "losses": [{"scale": 2.0**loss.exponent, **asdict(loss)} for loss in self.proposal.losses],
                "keep_float32": [island.pattern for island in self.islands],
                "evidence": [{"layer": island.path, "reasons": list(island.reasons)} for island in self.islands],
                "limit": {"margin": MARGIN, "largest": LIMIT},
                "bfloat16": self.bfloat16,
            },
        }

    def _tensor(self, tensor: Tensor) -> dict[str, Any]:
        row = {"kind": tensor.kind, "name": tensor.name, **self._numbers(tensor.kind, tensor.histogram)}
        return {**row, **self._updates(tensor.lost)} if tensor.kind == "weight updates" else row

    def _numbers(self, kind: str, histogram: Histogram) -> dict[str, Any]:
        return {
            "count": histogram.finite,
            "zeros": histogram.zeros,
            "non_finite": histogram.non_finite,
            "largest": histogram.largest,
            "median_exponent": histogram.quantile(0.5),
            "histogram": histogram.exponents.tolist(),
            "shares": {
                f"{2**exponent}": asdict(histogram.shares(exponent))
                for exponent in dict.fromkeys(self.exponents(kind).values())
            },
        }

    @staticmethod
    def _updates(lost: tuple[int, int, int]) -> dict[str, Any]:
        moved, in_float16, in_bfloat16 = lost
        return {"updates": moved, "lost_in_float16": in_float16, "lost_in_bfloat16": in_bfloat16}
