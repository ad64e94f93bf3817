"""The runtime that a version is served by: `open_version`.

Engines are tried from the fastest: onnxruntime on TensorRT, on CUDA, on the CPU; TensorFlow compiled by XLA (on a GPU),
or as it is. One may serve if the version's manifest holds a comparison that it has passed; where there is none, it is
compared here, on the samples that lie in the version. One that falls short, or does not start, is refused, and the next
one is tried.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tfhalf.artifacts.formats import FORMATS
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, ParityError, UnavailableError, UnsupportedError
from tfhalf.runtimes.base import ONNXRUNTIME, TENSORFLOW, Engine, Runtime, RuntimeSpec, Tuning
from tfhalf.runtimes.onnx_providers import gpu_devices
from tfhalf.runtimes.open import open_runtime
from tfhalf.serve.settings import Settings
from tfhalf.serve.signature import Signature
from tfhalf.text import one_line
from tfhalf.verify.at_load import Candidate, compare_at_load, passed_before, passed_elsewhere

TRIAL_SECONDS = 0.5
COMPARE_SECONDS = 30.0
"""No further batch of a comparison is begun after so long."""
PATIENCE = 180.0
"""Seconds within which a comparison has to end, what is compiled for it included; else its engine is refused."""
SERVED = ("onnx", "savedmodel")
"""Formats that are served, the first before the second."""


@dataclass(frozen=True)
class Source:
    """A version to open: its ``directory``, whose files match ``manifest``, and its ``signature``."""

    directory: Path
    manifest: Manifest
    signature: Signature

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each file by its name, as the manifest says."""
        return {name: file.sha256 for name, file in self.manifest.files.items()}


@dataclass(frozen=True)
class Opened:
    """A runtime that may serve. ``verified``: what says so, for people. ``refused``: engines that may not, and why."""

    runtime: Runtime
    verified: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


OpenVersion = Callable[[Source, Settings], Opened]


def open_version(source: Source, settings: Settings) -> Opened:
    """Open ``source`` in the fastest engine that may serve it, of the formats that the settings name.

    Raises:
        ArtifactError: it holds no such format, does not open, or no engine may serve it.
        IntegrityError: a file changed after it was checked.
    """
    there = [kind for kind in SERVED if (source.directory / FORMATS[kind].file).is_file()]
    kinds = there if settings.runtime in (None, "auto") else [settings.runtime]
    if not set(kinds) & set(there):
        needed = settings.runtime if settings.runtime in SERVED else " or ".join(SERVED)
        raise ArtifactError(f"{source.directory}: holds no {needed}; it has {', '.join(there) or 'no artifact'}")
    refused: dict[str, str] = {}
    opened: list[Opened] = []
    for kind in kinds:
        best = _first_that_may(source, specs(kind, source.signature), settings, refused)
        opened += [best] if best else []
        if best and settings.runtime != "auto":
            break
    if not opened:
        reasons = "; ".join(f"{engine}: {why}" for engine, why in refused.items())
        raise ArtifactError(f"{source.directory}: no engine here may serve it: {reasons}")
    chosen = opened[0] if len(opened) == 1 else _faster(opened, source, settings)
    return Opened(chosen.runtime, chosen.verified, refused)


def specs(kind: str, signature: Signature) -> tuple[RuntimeSpec, ...]:
    """What may serve the format ``kind`` on this machine, the fastest first.

    On a CPU float16 is brought to float32, which onnxruntime computes in anyway. XLA compiles for each size of an
    input, so it is left out where sizes are open; on a CPU it gains nothing.
    """
    if kind == "onnx":
        gpus = [RuntimeSpec(ONNXRUNTIME, "onnx", device) for device in gpu_devices()]
        return (*gpus, RuntimeSpec(ONNXRUNTIME, "onnx", "CPU", precision="float32"))
    plain = RuntimeSpec(TENSORFLOW, "savedmodel")
    return (RuntimeSpec(TENSORFLOW, "savedmodel", xla=None), plain) if signature.fixed else (plain,)


def _first_that_may(
    source: Source, candidates: Sequence[RuntimeSpec], settings: Settings, refused: dict[str, str]
) -> Opened | None:
    """The first of ``candidates`` that may serve, opened; why others may not goes to ``refused``, by engine."""
    # Threads that spin while they wait would take the cores from the process that answers requests.
    tuning = Tuning(settings.threads, spin=False, batch_sizes=settings.batching.ladder)
    for spec in candidates:
        try:
            runtime = open_runtime(source.directory, spec, tuning, source.digests)
        except (UnavailableError, UnsupportedError) as error:
            refused[f"{spec.library}{f' on {spec.device}' if spec.device else ''}"] = str(error)
            continue
        engine = str(runtime.engine)
        if engine in refused:  # the same again, under another spec
            runtime.close()
            continue
        _check_names(source.directory / FORMATS[spec.format].file, source.signature, runtime)
        try:
            return Opened(runtime, _verified(source, spec.format, runtime))
        except (ArtifactError, ParityError) as error:
            refused[engine] = str(error)
            runtime.close()
    return None


def _verified(source: Source, kind: str, runtime: Runtime) -> str:
    """What says that ``runtime`` answers like the float32 model: the manifest, or a comparison that is run now.

    Raises:
        ParityError: it does not.
        ArtifactError: it cannot be compared, fails, or is not done in time.
    """
    if record := passed_before(source.manifest, kind, runtime.engine):
        return f"when it was published, in {record}"
    start = time.perf_counter()
    candidate = Candidate(source.directory, source.manifest, kind, runtime, COMPARE_SECONDS, _passed(source))
    compared_on = _within(PATIENCE, partial(compare_at_load, candidate))
    if not compared_on:
        record = passed_elsewhere(source.manifest, kind, runtime.engine)
        if not record:
            raise ArtifactError("the version holds no inputs to compare it on: export again")
        return f"when it was published, in {record}; it holds no inputs to compare {runtime.engine} on: export again"
    return f"at load, on {compared_on}, in {time.perf_counter() - start:.1f} s"


def _passed(source: Source) -> Callable[[], Runtime] | None:
    """How to open onnxruntime on the CPU, which is everywhere, where the manifest says that it has passed."""
    there = (source.directory / FORMATS["onnx"].file).is_file()
    if not there or not passed_before(source.manifest, "onnx", Engine(ONNXRUNTIME, "CPU")):
        return None
    spec = RuntimeSpec(ONNXRUNTIME, "onnx", "CPU")
    return partial(open_runtime, source.directory, spec, Tuning(spin=False), source.digests)


def _within(seconds: float, work: Callable[[], str]) -> str:
    """What ``work`` gives or raises within ``seconds``, in a thread that is left behind where it hangs.

    Raises:
        ArtifactError: it does not end, or fails as no comparison should.
    """
    results: list[str] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, name="comparison", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not errors:
        raise ArtifactError(f"did not answer the samples of the version within {seconds:,.0f} s")
    if isinstance(errors[0], (ArtifactError, ParityError)):
        raise errors[0]
    raise ArtifactError(f"does not run: {one_line(errors[0])}") from errors[0]


def _faster(opened: Sequence[Opened], source: Source, settings: Settings) -> Opened:
    """Let each answer full batches for half a second, and keep the fastest."""
    rows = settings.batching.max_batch
    feeds = {name: tensor.zeros(rows) for name, tensor in source.signature.inputs.items()}
    rates: list[float] = []
    for one in opened:
        one.runtime(feeds)  # what is compiled or planned at first is not counted
        count, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < TRIAL_SECONDS:
            one.runtime(feeds)
            count += rows
        rates.append(count / passed)
    chosen = opened[rates.index(max(rates))]
    measured = ", ".join(f"{one.runtime.engine} {rate:,.0f}" for one, rate in zip(opened, rates, strict=True))
    chosen.runtime.about += f"; the faster at batch {rows} (rows/s: {measured})"
    for one in opened:
        if one is not chosen:
            one.runtime.close()
    return chosen


def _check_names(path: Path, signature: Signature, runtime: Runtime) -> None:
    """Hold what an artifact takes and gives against its manifest.

    Raises:
        ArtifactError: they differ.
    """
    if set(runtime.inputs) != set(signature.inputs) or set(runtime.outputs) != set(signature.outputs):
        raise ArtifactError(
            f"{path}: takes {', '.join(sorted(runtime.inputs))} and gives {', '.join(sorted(runtime.outputs))}; its "
            f"manifest says {', '.join(signature.inputs)} and {', '.join(signature.outputs)}"
        )
