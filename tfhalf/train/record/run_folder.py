"""Run folders, ``runs/NAME/STAMP``: what they say of themselves, which is unfinished, and that one process at a time
works in one."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfhalf import config
from tfhalf.errors import ConfigError, ResumeError
from tfhalf.files import open_lock, read_bytes
from tfhalf.train.record.outcome import published_version

FACTS, PIPELINE = "run.json", "pipeline.yaml"
_LOCK = ".lock"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Origin:
    """A run that another one begins from, as it was at the end of ``epoch``; None is its newest state."""

    run: Path
    epoch: Literal["best", "last"] | int | None = None


def facts(run: Path) -> dict[str, Any]:
    """What ``run/run.json`` says: ``pipeline_file`` at least.

    Raises:
        ConfigError: this is not a run folder.
        ResumeError: the file cannot be read.
    """
    try:
        recorded: dict[str, Any] = json.loads(read_bytes(run / FACTS, _MAX_BYTES).decode("utf-8"))
        Path(recorded["pipeline_file"])
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{run}: is not a run folder (it has no {FACTS}); runs/NAME holds them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResumeError(f"{run / FACTS}: cannot be read: {error}; start the run anew") from None
    return recorded


def exports_of(run: Path, exports: Path, *, smoke: bool) -> Path:
    """The folder that ``run`` publishes below: of a ``smoke`` run its own, where no server looks, not ``exports``."""
    return run / "exports" if smoke else exports


def run_of(version: Path, identity: str) -> Path | None:
    """The run folder with the id ``identity``, which made ``version``, among those that lie beside its exports, or
    around them, as of a smoke run; None where it is not there.

    Raises:
        ResumeError: another run's file cannot be read.
    """
    name, home = version.resolve().parent.name, version.resolve().parent.parent.parent
    runs = [run for run in (*sorted((home / "runs" / name).glob("*")), home) if (run / FACTS).is_file()]
    return next((run for run in runs if facts(run).get("id") == identity), None)


def newest_unfinished(runs: Path, name: str) -> Path:
    """The newest of ``runs/name`` that published nothing yet; smoke runs do not count.

    Raises:
        ConfigError: there is none.
    """
    folder = runs / name
    candidates = [run for run in folder.glob("*") if (run / FACTS).is_file() and (run / PIPELINE).is_file()]
    for run in sorted(candidates, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], reverse=True):
        if published_version(run) is None and not facts(run).get("smoke"):
            return run
    raise ConfigError(f"{folder}: holds no unfinished run; leave --resume out to start one, or name RUN")


def keep_epochs(run: Path, epochs: int) -> None:
    """Write ``train.epochs`` into the ``pipeline.yaml`` of a run that is lengthened or shortened."""
    path = run / PIPELINE
    if not path.is_file() or (pipeline := config.load_pipeline(path)).train.epochs == epochs:
        return
    train = pipeline.train.model_copy(update={"epochs": epochs})
    beside = run / f".{PIPELINE}"
    beside.write_text(pipeline.model_copy(update={"train": train}).to_yaml(), encoding="utf-8")
    beside.rename(path)


def check_own(run: Path) -> None:
    """Refuse a run folder in which files would be written, or removed, elsewhere.

    Raises:
        ResumeError: it holds a link.
    """
    for entry in sorted(run.iterdir()):
        if entry.is_symlink():
            raise ResumeError(f"{entry}: is a link; a run folder holds its own files: put a copy in its place")


@contextmanager
def held(run: Path) -> Iterator[None]:
    """No other process works in ``run`` within the block; the kernel ends that when this one dies.

    Raises:
        ResumeError: another does; or the folder holds links, through which other files would be written.
    """
    with held_if_free(run) as alone:
        if not alone:
            raise ResumeError(f"{run}: another process is training it; wait for its end, or stop it")
        yield


@contextmanager
def held_if_free(run: Path) -> Iterator[bool]:
    """As `held`, and where another process works in ``run``, False: nothing may be written there then.

    Raises:
        ResumeError: the folder holds links, through which other files would be written.
    """
    check_own(run)
    with open_lock(run / _LOCK) as lock:
        alone = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            pass  # a file system without locks
        yield alone
