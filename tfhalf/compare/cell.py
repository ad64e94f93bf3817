"""One cell of a comparison, in a process of its own: an ordinary run, exported, verified, and benched.

It goes on with a run that an earlier process left, and leaves ``result.json``, whole or not at all.
"""

from __future__ import annotations

import io
import json
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from tfhalf.bench.watch import STAGE
from tfhalf.compare.records import Latency, MetricFacts, Result
from tfhalf.config.refs import raised
from tfhalf.errors import (
    ArtifactError,
    ConfigError,
    ExportError,
    InputError,
    Interrupted,
    ParityError,
    ShortfallError,
)
from tfhalf.files import read_bytes, replacing
from tfhalf.progress import Progress
from tfhalf.system.child import Channel
from tfhalf.system.programs import trim_programs
from tfhalf.system.tensorflow import import_tensorflow
from tfhalf.text import clean, one_line

RESULT, LOG = "result.json", "log.txt"
_RUNS, _EXPORTS = "runs", "exports"
_FLOAT32 = "float32 model"
_MAX_BYTES = 256 << 20


class _Log(io.TextIOBase):
    """A text file whose lines are also sent to the process that waits."""

    def __init__(self, file: TextIO, channel: Channel) -> None:
        self._file, self._channel = file, channel

    def write(self, text: str) -> int:
        self._file.write(text)
        self._file.flush()
        if text.strip():
            with suppress(OSError):
                self._channel.send(STAGE, clean(text.strip())[:150].encode())
        return len(text)


def main(channel: Channel) -> None:
    """Run the cell that the first message describes, and answer with its result, or with ``error`` and ``exit_code``
    where the same would come of every cell."""
    request = json.loads(channel.receive()[1])
    folder = Path(request["folder"])
    with (folder / LOG).open("a", encoding="utf-8") as file:
        progress = Progress(_Log(file, channel))  # type: ignore[arg-type]  # what Progress needs of a stream
        answer = _answer(request, folder, progress)
        trim_programs(progress.line)
        channel.send_json(answer)


def _answer(request: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    try:
        import_tensorflow(progress.line)
        result = _run(request, folder, progress)
    except (InputError, Interrupted) as error:
        return {"error": str(error), "exit_code": error.exit_code}
    except SystemExit as error:  # a model that ends the process would leave no answer
        return {"error": f"the code that was given fails: {raised(error)}", "exit_code": InputError.exit_code}
    write_result(folder, result)
    return result.to_dict()


def write_result(folder: Path, result: Result) -> None:
    """Leave ``result`` in a cell's folder, which has ended with it."""
    with replacing(folder / RESULT) as beside:
        beside.write_text(json.dumps(result.to_dict()) + "\n", encoding="utf-8")


def read_result(folder: Path) -> Result | None:
    """What a cell's folder holds; None where it has not ended, or what is there cannot be read: it is run again."""
    try:
        return Result.from_dict(json.loads(read_bytes(folder / RESULT, _MAX_BYTES)))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _run(request: dict[str, Any], folder: Path, progress: Progress) -> Result:
    """Train, export, verify and bench.

    Raises:
        InputError: pipeline or data are at fault: no other cell would do better.
    """
    from tfhalf.train.job import Places
    from tfhalf.train.record.run_folder import newest_unfinished
    from tfhalf.workflows.train import train_and_export
    from tfhalf.workflows.train_request import check, published, resumed

    source, runs, exports = Path(request["source"]), folder / _RUNS, folder / _EXPORTS
    asked = check(source, request["overrides"], resume=None, runs_folder=runs, data_dir=request["data_dir"])
    name = asked.pipeline.name
    try:
        run = newest_unfinished(runs, name)
        asked = resumed(asked.pipeline, run, source, data_dir=request["data_dir"], deterministic=False)
    except ConfigError:  # none was begun
        run = None
    version, problem = (published(run, exports, name) if run is not None else None), ""
    if version is None:
        places = Places(source, runs, exports, request["data_dir"])
        try:
            version = train_and_export(asked.pipeline, places, progress, resume=run).version
        except (InputError, Interrupted):
            raise
        except (ExportError, ParityError) as error:
            problem = str(error)
        except ShortfallError as error:
            return Result(error=str(error), device=_device(), history=_history(_newest(runs / name)))
        except Exception as error:  # noqa: BLE001  # TensorFlow, XLA, out of memory: the table says so
            return Result(error=f"{type(error).__name__}: {one_line(error, 300)}", device=_device())
    return _result(runs / name, version, problem, request, progress)


def _device() -> str:
    from tfhalf.system.device import detect

    return detect().describe()


def _newest(runs: Path) -> Path | None:
    from tfhalf.train.record.run_folder import FACTS

    folders = [run for run in runs.glob("*") if (run / FACTS).is_file()]
    return max(folders, key=lambda run: run.stat().st_mtime, default=None)


def _history(run: Path | None) -> tuple[dict[str, Any], ...]:
    """The epochs of ``run``, each with the seconds since training began."""
    rows, elapsed = [], 0.0
    if run is None or not (run / "history.jsonl").is_file():
        return ()
    for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        elapsed += row["seconds"]
        rows.append({**row, "elapsed": elapsed})
    return tuple(rows)


def _result(runs: Path, version: Path | None, problem: str, request: dict[str, Any], progress: Progress) -> Result:
    from tfhalf.artifacts import manifest as manifests
    from tfhalf.bench.timed import memory_peak
    from tfhalf.compare.shipped import artifacts_of
    from tfhalf.system.device import detect
    from tfhalf.train.record.outcome import read_outcome

    device = detect()
    memory, memory_of = memory_peak(device)  # before anything else takes some
    run = _newest(runs)
    assert run is not None  # it was trained there
    outcome, history = read_outcome(run), _history(run)
    return Result(
        problem=problem,
        metrics=outcome["test_metrics"],
        classes=_classes(run),
        facts=tuple(MetricFacts(**one) for one in outcome["metric_facts"]),
        history=history,
        items_per_s=statistics.median(row["images_per_s"] for row in history) if history else 0.0,
        noun=outcome["noun"],
        skipped=outcome["skipped"],
        loss_scale=outcome["loss_scale"],
        seconds=outcome["seconds"],
        memory_bytes=memory,
        memory_of=memory_of,
        artifacts=() if version is None else artifacts_of(manifests.read(version)),
        latency=_latency(version, request["bench"], progress) if version is not None and request["bench"] else (),
        version=None if version is None else str(version),
        device=device.describe(),
        versions=manifests.versions(),
        at_once=request["at_once"],
    )


def _classes(run: Path) -> dict[str, float]:
    """Which share of each class the float32 net found; nothing of other tasks."""
    try:
        facts = json.loads(read_bytes(run / "classes.json", _MAX_BYTES))
        return dict(zip(facts["labels"], facts["models"][_FLOAT32]["recall"], strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _latency(version: Path, settings: dict[str, Any], progress: Progress) -> tuple[Latency, ...]:
    from tfhalf.artifacts.manifest import open_version
    from tfhalf.compare.shipped import latency_of

    try:
        return latency_of(open_version(version), progress, **settings)
    except (ShortfallError, ArtifactError) as error:
        progress.line(f"bench      {error}")
        return ()
