"""What training starts from in place of drawn weights: `load`, from a file, a run or a version, and `from_run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfhalf.errors import ConfigError, TfhalfError
from tfhalf.files import sha256
from tfhalf.precision.cast import MAX, OVERFLOWS_FROM, cast
from tfhalf.text import one_line, printable
from tfhalf.train.initial.match import paired, targets
from tfhalf.train.initial.stored import Stored, file_of, of_checkpoint, opened
from tfhalf.train.record import checkpoint, run_folder

_LISTED = 6
# Slots that begin anew with the weights, and what belongs to a run's own course.
_OWN_COURSE = ("_average", "_slow", "_gradient_accumulator", "learning_rate", "rate_factor")
_LOSS_SCALE = "dynamic_scale"


@dataclass(frozen=True)
class Initial:
    """Weights to start from.

    ``values`` by the index of a variable among the model's; ``of`` how many it has; ``new`` and ``unused`` name what
    the file lacks, and what the model does. ``slots`` are the optimizer's, by name, of a run that is taken further.
    """

    source: str
    sha256: str
    values: dict[int, np.ndarray]
    of: int
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    slots: dict[str, np.ndarray] = field(default_factory=dict)

    def fill(self, model: keras.Model) -> None:
        """Give ``model``, which the same builder made, its values.

        Raises:
            ConfigError: one is beyond what a float16 variable holds.
        """
        for index, value in self.values.items():
            variable = model.variables[index]
            largest = float(np.abs(value.astype(np.float64)).max(initial=0)) if variable.dtype == "float16" else 0.0
            if largest >= OVERFLOWS_FROM:
                raise ConfigError(
                    f"model.weights: {self.source}: {variable.path} holds {largest:g}, and precision.policy float16 "
                    f"keeps weights up to {MAX:g}; take mixed_float16"
                )
            variable.assign(value)

    def fill_slots(self, optimizer: Any, bounds: tuple[float, float] | None) -> None:
        """Give ``optimizer`` the slots of the run, of the same name and shape; and the loss scale within ``bounds``,
        None to leave it. Slots that are float16 get the nearest number that float16 has."""
        for variable in optimizer.variables:
            value = self.slots.get(_slot_name(variable.path))
            if value is None or tuple(variable.shape) != value.shape:
                continue
            if variable.path.endswith(_LOSS_SCALE):
                if bounds and bounds[0] <= float(value) <= bounds[1]:
                    variable.assign(value)
            elif keras.backend.is_float_dtype(variable.dtype):
                narrow = variable.dtype == "float16" and bool(np.isfinite(value).all())
                variable.assign(cast(value)[0] if narrow else value)

    def line(self) -> str:
        """``44 of 46 taken from runs/...; new: head/kernel (64, 10) beside (64, 5)``."""
        new = f"; new: {_listed(self.new)}" if self.new else ""
        unused = f"; not used: {_listed(self.unused)}" if self.unused else ""
        return f"{len(self.values)} of {self.of} taken from {self.source}{new}{unused}"

    def facts(self) -> dict[str, Any]:
        """For the run folder and the manifest."""
        return {"source": self.source, "sha256": self.sha256, "taken": len(self.values), "of": self.of,
                "new": list(self.new)}  # fmt: skip


def load(ref: str, base: Path, model: keras.Model) -> Initial:
    """The weights that ``model.weights: ref`` names, as far as they fit ``model``.

    Args:
        base: the folder that a relative path starts from.

    Raises:
        ConfigError: there is no such file, it is damaged or not of these kinds, or nothing in it fits.
    """
    path = base / ref
    if not path.exists():
        raise ConfigError(
            f"model.weights: {ref}: {path} does not exist; the path starts from the pipeline file's folder"
        )
    try:
        file = file_of(path, ref)
        if file.is_dir():
            held = checkpoint.read(file)
            return _fitted(ref, sha256(file / checkpoint.ARRAYS), model, of_checkpoint(held, model, ref))
        with opened(file) as stored:
            return _fitted(ref, sha256(file), model, stored)
    except TfhalfError as error:
        said = str(error)
        raise ConfigError(said if said.startswith("model.weights") else f"model.weights: {said}") from error
    except OSError as error:
        raise ConfigError(f"model.weights: {ref}: cannot be read: {error.strerror or one_line(error)}") from error


def from_run(run: Path, epoch: Literal["best", "last"] | int | None, model: keras.Model) -> Initial:
    """Weights, slots and loss scale of ``run`` at the end of ``epoch``; its newest state by default.

    Raises:
        ConfigError: this is not a run folder, or its weights do not fit ``model``.
        ResumeError: there is no such checkpoint.
    """
    run_folder.facts(run)
    held = checkpoint.load(run) if epoch is None or epoch == "last" else checkpoint.load_epoch(run, epoch)
    if held is None:
        raise ConfigError(f"--from {run}: holds no checkpoint yet; go on with: tfhalf train --resume {run}")
    stored = of_checkpoint(held, model, str(run))
    at = f"{run}, after epoch {held.record['epochs_done']}" + (
        f" and {held.record['done']} steps" if held.record["done"] else ""
    )
    fitted = _fitted(at, sha256(held.path / checkpoint.ARRAYS), model, stored)
    names = held.record.get("names", {}).get("other", [])
    rest = held.arrays[len(held.arrays) - len(names) :] if names else []
    slots = {_slot_name(name): array for name, array in zip(names, rest, strict=True)
             if not name.endswith(_OWN_COURSE)}  # fmt: skip
    return replace(fitted, slots=slots)


def _slot_name(path: str) -> str:
    """``sgd/conv_kernel_momentum``, the loss scale without its optimizer's name, which Keras numbers."""
    return _LOSS_SCALE if path.endswith(f"/{_LOSS_SCALE}") else path


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _fitted(ref: str, digest: str, model: keras.Model, stored: list[Stored]) -> Initial:
    params = targets(model)
    pairs, beside = paired(params, stored)
    if not pairs:
        there = _listed([_shaped(one.name, one.shape) for one in stored])
        here = _listed([_shaped(target.path, target.shape) for target in params])
        raise ConfigError(
            f"model.weights: {ref}: none of its {len(stored)} weights fits the model; it holds {there}; the model has "
            f"{here}; build the model that they are of, or leave model.weights out"
        )
    taken, used = {t.number for t, _ in pairs}, {id(s) for _, s in pairs} | {id(s) for s in beside.values()}
    new = [_shaped(t.path, t.shape) + (f" beside {beside[t.number].shape}" if t.number in beside else "")
           for t in params if t.number not in taken]  # fmt: skip
    return Initial(
        ref,
        digest,
        {target.number: _value(ref, one) for target, one in pairs},
        len(params),
        tuple(new),
        tuple(printable(s.name, 80) for s in stored if id(s) not in used),
    )


def _value(ref: str, one: Stored) -> np.ndarray:
    try:
        value = one.read()
    except ValueError as error:
        raise ConfigError(f"{ref}: {printable(str(error))}; it is damaged, make it again") from None
    if value.dtype.kind == "V" and value.dtype.itemsize == 2:  # bfloat16, which numpy lacks: the upper half of float32
        value = (value.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if value.dtype.kind not in "biuf":
        raise ConfigError(f"{ref}: {printable(one.name, 80)} holds {value.dtype}, not numbers")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ConfigError(f"{ref}: {printable(one.name, 80)} holds numbers that are not finite; take an earlier epoch")
    return value


def _shaped(name: str, shape: tuple[int, ...]) -> str:
    return f"{printable(name, 80)} {shape}"
