"""Published versions behind HTTP, for any ASGI server: `create_app`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette


def create_app(
    *exports: str | Path,
    runtime: str | None = None,
    pins: Sequence[str] = (),
    labels: Sequence[str] = (),
    latest: int = 1,
    max_batch: int = 64,
    max_delay_ms: float = 2.0,
    poll_seconds: float = 2.0,
    token: str | None = None,
    threads: int | None = None,
    access_log: bool = True,
) -> Starlette:
    """What `tfhalf serve` answers over HTTP, as an ASGI application; its models are loaded at the host's startup event.

    Args:
        exports: ``exports/``, ``exports/NAME`` or ``exports/NAME/VERSION``, as many as you like.
        runtime: ``onnx``, ``savedmodel``, or ``auto``, which measures both; None takes ONNX where it was exported.
        pins: ``NAME=VERSION``: serve these versions of NAME alone.
        labels: ``NAME:LABEL=VERSION[@PERCENT]``: names for versions, and shares of the requests that name none.
        latest: how many of the newest versions of each model to serve.
        max_batch: rows computed together at most.
        max_delay_ms: how long a row waits for others at most.
        poll_seconds: how often to look for new versions; 0 for never.
        token: what a request must carry (``Authorization: Bearer TOKEN``); None for nothing.
        threads: cores that the models compute on; None for all.
        access_log: write a line of JSON to standard error for each request.

    Raises:
        InputError: there is nothing to serve there, or an argument does not fit.
    """
    from tfhalf.api.host import python_words
    from tfhalf.errors import ConfigError
    from tfhalf.serve import create_app as create
    from tfhalf.serve.models import scan
    from tfhalf.serve.settings import RUNTIMES, Batching, Settings, parse_labels, parse_pins
    from tfhalf.system.device import cores

    with python_words(label="labels", pin="pins"):
        folders = tuple(map(Path, exports))
        if not folders:
            raise ConfigError("create_app() takes one export or more: exports/, exports/NAME or exports/NAME/VERSION")
        if runtime not in (None, *RUNTIMES):
            raise ConfigError(f"runtime {runtime!r}: {', '.join(RUNTIMES)} are accepted")
        scan.check(folders)
        settings = Settings(
            folders,
            runtime=runtime,
            batching=Batching(max_batch, max_delay_ms),
            pins=parse_pins(pins),
            labels=parse_labels(labels),
            latest=latest,
            poll_seconds=poll_seconds,
            token=token,
            access_log=access_log,
            threads=threads or cores(),
        )
        return create(settings)
