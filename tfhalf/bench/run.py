"""`tfhalf bench`: each row asked of a process of its own, and what came of it put together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tfhalf import config
from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.manifest import Version
from tfhalf.bench import batches
from tfhalf.bench.fresh import measure_row
from tfhalf.bench.results import Cell, Failed, Inference, InferenceBench, Training, TrainingBench, row_name
from tfhalf.bench.runtimes import RUNTIMES
from tfhalf.bench.tables import number
from tfhalf.bench.watch import Watch
from tfhalf.errors import ConfigError, MemoryShortfall, ShortfallError
from tfhalf.progress import Progress
from tfhalf.system.processes import devices_of, visible_gpus

POLICIES: tuple[str, ...] = get_args(config.Precision.model_fields["policy"].annotation)
BATCH_SIZES = (1, 8, 32, 128, 512)
REPEATS, SECONDS = 5, 2.0
_LONGEST = 3600
_ORDER = ("mixed_float16", "float32", "mixed_bfloat16")  # of the rows, where --policies does not say another


@dataclass(frozen=True)
class Options:
    """What the command line says; None and empty where it says nothing. Some options belong to one kind only."""

    overrides: tuple[str, ...] = ()
    data_dir: str | None = None
    policies: str | None = None
    repeats: int | None = None
    feed: bool = False
    devices: str | None = None
    batch_sizes: str | None = None
    seconds: float = SECONDS
    runtimes: tuple[str, ...] = tuple(RUNTIMES)


def bench(target: Path, options: Options, progress: Progress) -> TrainingBench | InferenceBench:
    """Benchmark ``target``: the training of a pipeline file, or the answers of ``exports/NAME[/VERSION]``.

    Raises:
        ConfigError, ArtifactError: it is neither, or an option is malformed or belongs to the other.
        InputError: the pipeline, its data or the export cannot be used.
        ShortfallError: no row could be measured.
    """
    if not 0 < options.seconds <= _LONGEST:  # nan is not either
        raise ConfigError(f"--seconds: received {options.seconds:g}; accepted: above 0, up to {_LONGEST}")
    if not target.exists():
        raise ConfigError(f"{target}: does not exist; give a pipeline file, exports/NAME or exports/NAME/VERSION")
    if not target.is_dir():
        return _bench_pipeline(target, options, progress)
    of_pipelines: dict[str, Any] = {"--set": options.overrides, "--data-dir": options.data_dir}
    of_pipelines |= {"--policies": options.policies, "--repeats": options.repeats, "--feed": options.feed}
    of_pipelines |= {"--devices": options.devices}
    refuse(f"{target} is an export", of_pipelines)
    return _bench_export(target, options, progress)


def check(results: TrainingBench | InferenceBench) -> None:
    """Refuse rows that failed, once what was measured is shown.

    Raises:
        ShortfallError: rows that could not be measured, each named.
    """
    if results.failed:
        raise ShortfallError("; ".join(one.error for one in results.failed))


def refuse(what: str, options: dict[str, Any]) -> None:
    """Raise ConfigError, which names them, where ``options`` that ``what`` does not take have values."""
    wrong = [option for option, value in options.items() if value]
    if wrong:
        raise ConfigError(f"{what}, which takes no {', '.join(wrong)}; leave that out")


def _bench_pipeline(path: Path, options: Options, progress: Progress) -> TrainingBench:
    policies = _policies(options)
    devices = [None] if options.devices is None else devices_of(options.devices, visible_gpus(os.environ))
    pipeline = config.load_pipeline(path, options.overrides)  # before a process starts: bad input is reported at once
    settings = {"repeats": options.repeats or REPEATS, "seconds": options.seconds, "feed": options.feed}
    overrides = list(options.overrides)
    if pipeline.train.sizes:  # a rate is one of images of one size
        overrides.append("train.sizes=[]")
    if pipeline.train.freeze_after:  # nor of one net
        overrides.append("train.freeze_after={}")
    if pipeline.train.stages:
        overrides.append("train.stages=[]")
    if pipeline.train.schedule.max_batch_size is not None:  # nor of one batch
        overrides += ["train.schedule.decay=rate", "train.schedule.max_batch_size=null"]
    sizes = batches.sizes_of(options.batch_sizes, (0,), or_auto=True)
    odd = [size for size in sizes or () if size % len(devices)]
    if odd:
        raise ConfigError(f"--batch-sizes: {odd[0]} does not divide into {len(devices)} equal parts; leave it out")
    names = [row_name(policy, size) for policy in policies for size in sizes or ()]
    request = {"pipeline": str(path), "overrides": overrides, "data_dir": options.data_dir}
    watch, rows = Watch(progress, names), _Rows({"kind": "training", **request, "devices": devices, **settings})
    largest: dict[str, int] = {}
    for policy in policies:
        for size in sizes or ():
            rows.measure(policy, size, watch)
        fits = _largest(rows, policy, watch, pipeline.train.batch_size, len(devices)) if sizes is None else None
        if fits is not None:
            largest[policy] = fits
    progress.line()
    check_measured(rows.rows, rows.failed)
    recorded = {**request, **settings, "sizes_left_out": list(pipeline.train.sizes)}
    all_rows, failed = tuple(rows.rows), tuple(rows.failed)
    largest_batches = largest if sizes is None else None
    return TrainingBench(pipeline.name, recorded, manifests.versions(), all_rows, failed, largest_batches)


class _Rows:
    """Rows of a pipeline, as they are measured; ``request`` is what all of them ask for."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request, self.rows, self.failed = request, list[Training](), list[Failed]()

    def measure(self, policy: str, size: int, watch: Watch, *, may_lack: bool = False) -> Training | None:
        """The row of batches of ``size``, 0 for the pipeline's own; None where it could not be measured, which is a
        failure unless ``may_lack`` and the memory did not suffice."""
        name = row_name(policy, size)
        watch.begin(name)
        overrides = [*self.request["overrides"], *([f"train.batch_size={size}"] if size else [])]
        try:
            row = _training(measure_row({**self.request, "overrides": overrides, "policy": policy}, name, watch))
        except ShortfallError as error:  # another policy may well do: this one's row is missing
            if may_lack and isinstance(error, MemoryShortfall):
                watch.end("does not fit")
            else:
                self.failed.append(Failed(name, str(error)))
                watch.end("could not be measured")
            return None
        if all((one.policy, one.batch_size) != (policy, row.batch_size) for one in self.rows):
            self.rows.append(row)  # else there are not as many items, and it is another row's batch
        watch.end(f"{number(row.images_per_s)} {row.noun}/s")
        return row


def _largest(rows: _Rows, policy: str, watch: Watch, first: int, devices: int) -> int | None:
    """The largest batch that fits; every batch on the way to it has a row."""
    before, own = len(rows.failed), len(rows.rows)

    def measure(size: int) -> batches.Taken | None:
        row = rows.measure(policy, size, watch, may_lack=True) if len(rows.failed) == before else None
        return None if row is None else batches.Taken(row.batch_size, row.memory_bytes, row.memory_limit, row.images)

    size = batches.largest(measure, first, devices)
    rows.rows[own:] = sorted(rows.rows[own:], key=lambda row: row.batch_size)
    if len(rows.failed) > before:  # for another reason than memory
        return None
    if size is None:
        why = f"{policy}: not one item fits into the memory; take a smaller net, or smaller items"
        rows.failed.append(Failed(policy, why))
    return size


def _bench_export(path: Path, options: Options, progress: Progress) -> InferenceBench:
    batches.sizes_of(options.batch_sizes)  # before files are hashed, which may take long
    return bench_version(manifests.open_version(path), options, progress)


def bench_version(version: Version, options: Options, progress: Progress) -> InferenceBench:
    """`bench` of a version whose files are checked, in the ``runtimes`` of ``options``.

    Raises:
        ConfigError: the version takes another number of samples at a time than ``batch_sizes``.
        InputError: it cannot be used.
        ShortfallError: no row could be measured.
    """
    table = bench_side_by_side({"": version}, options, progress)[""]
    check_measured([row for row in table.rows if row.cells], table.failed)
    return table


def bench_side_by_side(
    versions: Mapping[str, Version], options: Options, progress: Progress
) -> dict[str, InferenceBench]:
    """Versions by what they are called, whose files are checked, in the ``runtimes`` of ``options``. One runtime after
    another takes all of them, so that what else the machine does weighs on each alike; of several versions a runtime
    takes those that hold its format.

    Raises:
        ConfigError, InputError: as `bench_version`.
    """
    settings = {name: _settings(version, options) for name, version in versions.items()}
    rows: dict[str, list[Inference]] = {name: [] for name in versions}
    failed: dict[str, list[Failed]] = {name: [] for name in versions}
    turns = [
        (runtime, name, ", ".join(filter(None, (RUNTIMES[runtime][0], name))))
        for runtime in options.runtimes
        for name, version in versions.items()
        if len(versions) == 1 or any(one.format == RUNTIMES[runtime][1].format for one in version.manifest.artifacts)
    ]
    watch = Watch(progress, [label for _, _, label in turns])
    for runtime, name, label in turns:
        watch.begin(label)
        directory = str(versions[name].directory)
        request = {"kind": "inference", "directory": directory, "runtime": runtime, **settings[name]}
        try:
            row = _inference(measure_row(request, label, watch))
        except ShortfallError as error:
            failed[name].append(Failed(runtime, str(error)))
            watch.end("could not be measured")
            continue
        rows[name].append(row)
        watch.end(_best(row))
        if row.error:
            failed[name].append(Failed(runtime, f"{label}: {row.error}"))
    progress.line()
    return {
        name: InferenceBench(
            str(version.directory),
            {port.name: tuple(port.dims()[1:]) for port in version.manifest.inputs},
            settings[name],
            manifests.versions(),
            tuple(rows[name]),
            tuple(failed[name]),
        )
        for name, version in versions.items()
    }


def _settings(version: Version, options: Options) -> dict[str, Any]:
    """What is measured of a version: the batch sizes, of one that takes a fixed number that, and for how long."""
    sizes, fixed = batches.sizes_of(options.batch_sizes, BATCH_SIZES) or (), version.manifest.batch
    if fixed is not None and options.batch_sizes is not None and sizes != (fixed,):
        raise ConfigError(f"--batch-sizes: {version.directory} takes {fixed} samples at a time; leave that out")
    return {"batch_sizes": list(sizes if fixed is None else (fixed,)), "seconds": options.seconds}


def _best(row: Inference) -> str:
    if not row.cells:
        return "could not be measured" if row.error else "not available"
    return f"up to {number(max(cell.images_per_s for cell in row.cells))} samples/s"


def check_measured(rows: Sequence[Any], failed: Sequence[Failed]) -> None:
    """Raise ShortfallError, with why each ``failed``, where there are no ``rows``."""
    if not rows:
        raise ShortfallError("; ".join(one.error for one in failed) or "no runtime could be measured")


def _policies(options: Options) -> list[str]:
    if any(text.replace(" ", "").startswith("precision.policy=") for text in options.overrides):
        raise ConfigError("--set precision.policy is what --policies chooses; give --policies instead")
    names = options.policies.split(",") if options.policies is not None else list(_ORDER)
    return each_once([name.strip() for name in names], "--policies", POLICIES)


def each_once(names: list[str], option: str, accepted: Sequence[str]) -> list[str]:
    """``names``, each of which is ``accepted`` and there once.

    Raises:
        ConfigError: one is not, which names ``option``.
    """
    wrong = next((name for name in names if name not in accepted), None)
    if wrong is not None:
        raise ConfigError(f"{option}: {wrong!r} is not one of {', '.join(accepted)}; give some of them, with commas")
    if len(set(names)) < len(names):
        raise ConfigError(f"{option}: {', '.join(names)} holds a name twice; give each once")
    return names


def _training(answer: dict[str, Any]) -> Training:
    lists = ("samples", "uncounted", "input_shape")
    return Training(**{**answer, **{key: tuple(answer[key]) for key in lists}})


def _inference(answer: dict[str, Any]) -> Inference:
    return Inference(**{**answer, "cells": tuple(Cell(**cell) for cell in answer["cells"])})
