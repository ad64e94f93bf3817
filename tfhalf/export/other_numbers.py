"""The model of a version in other numbers than it ships in, as real files to compare with: `OtherNumbers`.

A version's float16 artifacts are weighed against the same model in float32 and in bfloat16, written in the same formats
by the same rules: layers made anew under another policy, BatchNormalization folded alike. Nothing of it is published.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.formats import FLOAT16, Format
from tfhalf.artifacts.lookups import Lookups
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Artifact, Manifest
from tfhalf.artifacts.reference import REFERENCE, Reference
from tfhalf.data.preprocess import from_dict
from tfhalf.errors import ArtifactError, ExportError, TfhalfError
from tfhalf.export import savedmodel
from tfhalf.export.interface import interface_of
from tfhalf.export.islands.open import simulator_of
from tfhalf.export.islands.search import FEW
from tfhalf.export.islands.simulator import Simulator
from tfhalf.export.litert import to_litert
from tfhalf.export.load.model import Source
from tfhalf.export.onnx import to_onnx
from tfhalf.export.program import Program, make_program, named_program
from tfhalf.export.rebuild import grouped_conv
from tfhalf.export.rebuild.rebuild import rebuild
from tfhalf.export.write import litert_artifact, parameters
from tfhalf.precision.keras_graph import reason
from tfhalf.tasks import Classification, Task
from tfhalf.tasks.facts import of_facts
from tfhalf.tasks.several import Several

Numbers = Literal["float32", "bfloat16"]
NUMBERS: tuple[Numbers, ...] = ("float32", "bfloat16")


def formats_of(manifest: Manifest) -> tuple[Format, ...]:
    """The formats that a version's model is written in again: those that keep float16."""
    return tuple(kind for kind in manifest.formats if kind.numbers is FLOAT16)


@dataclass
class OtherNumbers:
    """``source``, the float32 model of ``version``, written in other numbers.

    A model of the caller's own may be changed by that, and is of no use afterwards.
    """

    source: Source
    version: Version
    _simulator: Simulator | None = field(default=None, repr=False)
    _programs: dict[Numbers, tuple[Program, bool]] = field(default_factory=dict, repr=False)

    def write(self, numbers: Numbers, kind: Format, folder: Path) -> Manifest:
        """Write the format ``kind`` into the empty ``folder``, with what a fresh process needs to compare it: the
        version's reference, lookups and manifest, which it is a version by.

        Raises:
            ArtifactError: the model is not such as the version says, or its task is code of somebody's own.
            ExportError: the model cannot be made so, or the format cannot hold it.
        """
        program = self._program(numbers, plain=kind.container == "onnx")
        lookups = Lookups.read(self.version.directory)
        metadata = {"precision": numbers}
        details: dict[str, Any] = {}
        if kind.container == "savedmodel":
            files = savedmodel.write(program, folder, lookups)
        elif kind.container == "onnx":
            files = to_onnx.write(program, folder / kind.file, opset=self._opset, metadata=metadata)
        else:
            written = to_litert.write(program, folder, [kind.name], metadata=metadata)
            details, files = litert_artifact(kind.name, written[kind.name]).details, [folder / kind.file]
        names = tuple(path.relative_to(folder).as_posix() for path in files)
        artifact = Artifact(
            format=kind.name, files=names, bytes=sum(path.stat().st_size for path in files), details=details
        )
        shutil.copyfile(self.version.directory / REFERENCE, folder / REFERENCE)
        lookups.write(folder)
        manifest = self._manifest(artifact, program, folder)
        manifests.write(folder, manifest)
        return manifest

    @property
    def _opset(self) -> int:
        return int(_settings(self.version.manifest, "export").get("opset", 18))

    @property
    def _fold(self) -> bool:
        return bool(_settings(self.version.manifest, "export").get("fold_batchnorm", True))

    def _manifest(self, artifact: Artifact, program: Program, folder: Path) -> Manifest:
        own = self.version.manifest
        changes: dict[str, Any] = {
            "version": None,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "artifacts": (artifact,),
            "comparisons": (),
            "refused": {},
            "not_covered": (),
            "cast": None,
            "limits": replace(own.limits, true_float16_samples=0),  # nothing of it is float16
            "parameters": parameters(program.weights),
            "versions": manifests.versions(),
            "files": manifests.file_hashes(folder),
        }
        return own.model_copy(update=changes)

    def _program(self, numbers: Numbers, *, plain: bool) -> Program:
        """The function to write; ``plain``: traced as ONNX needs it."""
        try:
            if numbers not in self._programs:
                self._programs = {numbers: self._traced(numbers)}  # a model that is changed in place has one at a time
            program, grouped = self._programs[numbers]
            if plain and grouped:
                with grouped_conv.for_onnx():
                    program, _ = self._traced(numbers)
        except TfhalfError:
            raise
        except Exception as error:  # whatever a layer's code raises when it is made again, or traced
            raise ExportError(f"the model cannot be made in {numbers}: {reason(error)}") from error
        inputs, outputs = ({port.name for port in ports} for ports in (program.inputs, program.outputs))
        own = self.version.manifest
        if inputs != {port.name for port in own.inputs} or outputs != {port.name for port in own.outputs}:
            raise ArtifactError(
                f"{self.source.name}: takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}; the "
                f"model of {self.version.directory} does not"
            )
        return program

    def _traced(self, numbers: Numbers) -> tuple[Program, bool]:
        """The model's function, and whether ONNX needs a trace of its own."""
        pair = self._of_run(numbers) if self.version.manifest.data is not None else self._of_model(numbers)
        pair[0].function.get_concrete_function()
        return pair

    def _of_run(self, numbers: Numbers) -> tuple[Program, bool]:
        """Of a trained net what is around it is in the manifest: the normalisation, and the task."""
        manifest = self.version.manifest
        assert manifest.data is not None
        kept = [f"^{re.escape(path)}$" for path in manifest.kept_float32] if numbers != "float32" else []
        model = rebuild(self.source.model, keep_float32=kept, fold_batchnorm=self._fold, target=numbers).model
        preprocess = from_dict(manifest.data.preprocess.to_dict())
        return make_program(model, preprocess, manifest.inputs, task_of(manifest)), grouped_conv.any_grouped(model)

    def _of_model(self, numbers: Numbers) -> tuple[Program, bool]:
        if self._simulator is None:
            samples = Reference.load(self.version.directory).usual.inputs
            interface = interface_of(self.source, samples)
            few = interface.few(samples, FEW)
            self._simulator = simulator_of(self.source.model, interface, few, fold=self._fold)
        simulator = self._simulator
        kept = {island.path for island in self.version.manifest.islands} if numbers != "float32" else set()
        shipped = simulator.ship([name for name in simulator.names if name in kept], numbers)
        interface = simulator.interface
        about = f"{self.source.name}: {numbers} within; half-precision inputs and outputs are float32 for callers."
        call = partial(interface.answer, shipped.call)
        return named_program(call, interface.inputs, shipped.weights, shipped.state, about), shipped.grouped


def task_of(manifest: Manifest) -> Task:
    """What a run's version was trained for.

    Raises:
        ArtifactError: that is code of somebody's own, which the manifest does not hold.
    """
    tasks = {name: of_facts(facts) for name, facts in manifest.tasks.items()}
    own = [name for name, task in tasks.items() if task is None]
    if own:
        raise ArtifactError(f"the task of {', '.join(own)} is code of the pipeline's own, which is in no version")
    known = {name: task for name, task in tasks.items() if task is not None}
    if manifest.config.outputs:
        return Several(known)
    return next(iter(known.values()), None) or Classification(list(manifest.labels))


def _settings(manifest: Manifest, section: str) -> Mapping[str, Any]:
    """A section of what was asked for when the version was made."""
    settings = (manifest.config.model_extra or {}).get(section)
    return settings if isinstance(settings, Mapping) else {}
