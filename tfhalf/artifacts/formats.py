"""The formats that a version can hold: `FORMATS`, the one table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class NumberFormat:
    """The numbers that weights are kept in. ``bits``: of the significand, the leading one among them."""

    name: str
    bits: int

    @property
    def tolerance(self) -> float:
        """How many times as much as float16 it may differ from float32: as many times as coarse as it is."""
        return float(2.0 ** (FLOAT16.bits - self.bits))


FLOAT16 = NumberFormat("float16", 11)
INT8 = NumberFormat("int8", 8)
"""Of the largest number of a channel 8 bits are kept."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        name: as options, pipelines and manifests call it.
        file: what it is opened by, in the version directory.
        container: what kind of file that is.
        numbers: what most of its weights are kept in.
        runtimes: what opens it, as `tfhalf.runtimes` calls them; its own first, which must run it.
        needs: the runtime, as `tfhalf.runtimes.child.lacking` knows it, that has to be installed for it; None: none.
        by_default: whether it is written where nobody names a format.
    """

    name: str
    file: str
    container: Literal["savedmodel", "onnx", "litert"]
    numbers: NumberFormat
    runtimes: tuple[str, ...]
    needs: str | None = None
    by_default: bool = False

    @property
    def is_litert(self) -> bool:
        """Whether it is a LiteRT file. One may be fixed to the size that it was converted with."""
        return self.container == "litert"

    @property
    def float32_layers_help(self) -> bool:
        """Whether it can come nearer to float32 by layers in float32: what int8 rounds away, these do not give back."""
        return self.numbers is FLOAT16


FORMATS = {
    one.name: one
    for one in (
        Format("savedmodel", "saved_model.pb", "savedmodel", FLOAT16, ("savedmodel",), by_default=True),
        Format(
            "onnx", "model.onnx", "onnx", FLOAT16, ("onnx", "onnx-openvino", "onnx-float16"), "onnx", True
        ),
        Format("litert", "model.tflite", "litert", FLOAT16, ("litert",), "litert"),
        Format("litert-int8", "model-int8.tflite", "litert", INT8, ("litert-int8",), "litert"),
    )
}  # fmt: skip

BY_DEFAULT = tuple(one.name for one in FORMATS.values() if one.by_default)
