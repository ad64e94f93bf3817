"""Lines of JSON: one for each request, and one for each thing that happens to a model."""

from __future__ import annotations

import logging
import sys
import time
from datetime import datetime, timezone
from typing import Any, TextIO

import orjson


class Log:
    """Writes to ``stream`` (standard error unless given); ``access`` says whether requests are written."""

    def __init__(self, stream: TextIO | None = None, *, access: bool = True) -> None:
        self._stream = stream
        self.access = access

    def event(self, what: str, **facts: Any) -> None:
        """One line: the time, ``what``, and the facts."""
        self._write({"time": _now(), "event": what, **facts})

    def request(self, facts: dict[str, Any]) -> None:
        """One line for an answered request."""
        if self.access:
            self._write({"time": _now(), "event": "request", **facts})

    def _write(self, row: dict[str, Any]) -> None:
        stream = self._stream or sys.stderr
        stream.write(orjson.dumps(row, default=str, option=orjson.OPT_APPEND_NEWLINE).decode())
        stream.flush()


class Lines(logging.Handler):
    """Writes what libraries log to ``log``: a line each, the exception's name and words in the place of its trace."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        facts = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()[:500]}
        if record.exc_info and record.exc_info[1] is not None:
            facts["error"] = repr(record.exc_info[1])[:500]
        self._log.event("log", **facts)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="milliseconds")
