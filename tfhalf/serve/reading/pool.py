"""Processes that read what would hold Python's lock for long: `Readers`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tfhalf.errors import RequestError
from tfhalf.serve.reading import wire
from tfhalf.serve.settings import Limits
from tfhalf.system.child import Child
from tfhalf.system.device import cores

_SECONDS = 30.0  # for one body or image
# Of memory that a process may take: JSON becomes Python's objects, of which the smallest take this many bytes for each
# of the text's, and then an array.
_PER_BYTE = 16
_BASE = 256 << 20


class Readers:
    """Some processes of `tfhalf.serve.reading.process`, started when first needed, and anew after their end."""

    def __init__(self, limits: Limits) -> None:
        self._memory = _BASE + _PER_BYTE * max(limits.max_body, limits.max_pixels)
        count = max(2, min(4, cores() // 2))
        self._huge = asyncio.Semaphore(count - 1)
        self._threads = ThreadPoolExecutor(count, "reader")  # each waits for one process
        self._idle: list[_Reader] = []
        self._all: set[_Reader] = set()
        self._lock = threading.Lock()
        self._closed = False

    async def read(self, task: str, /, *arguments: Any, **named: Any) -> Any:
        """What the function called ``task`` in `tfhalf.serve.reading.tasks` gives.

        Raises:
            RequestError: as that function; 413, it takes too much memory or time; 503, the server stops.
        """
        return await asyncio.wrap_future(self._submit(task, arguments, named, lambda _: None))

    async def read_huge(self, task: str, /, *arguments: Any, **named: Any) -> Any:
        """As `read`, in all processes but one, which is left to what is read sooner."""
        await self._huge.acquire()
        loop = asyncio.get_running_loop()

        def release(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._huge.release)

        # A client that goes away leaves the process busy: it is counted until it has done.
        future = self._submit(task, arguments, named, release)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the processes. What is read now, or asked for later, is answered with 503."""
        with self._lock:
            self._closed = True
            idle, busy = self._idle, self._all.difference(self._idle)
            self._idle = []
        for reader in idle:
            reader.kill()
        for reader in busy:
            reader.end()  # the thread that waits for it does the rest
        self._threads.shutdown(wait=False)

    def _submit(
        self, task: str, arguments: tuple[Any, ...], named: dict[str, Any], done: Callable[[object], None]
    ) -> Future[Any]:
        """``done`` is called whatever comes of it."""
        if self._closed:
            done(None)
            raise RequestError(503, "the server is stopping; ask another one", 1)
        future = self._threads.submit(self._read, task, arguments, named)
        future.add_done_callback(done)
        return future

    def _read(self, task: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        reader = self._take()
        try:
            answer = reader.request(task, arguments, named)
        except (OSError, EOFError):
            self._drop(reader)
            if self._closed:
                raise RequestError(503, "the server is stopping; ask another one", 1) from None
            raise RequestError(
                413, f"to read it takes more memory than is set aside, or than {_SECONDS:.0f} s; send less at a time"
            ) from None
        except BaseException:
            self._drop(reader)
            raise
        with self._lock:
            self._idle.append(reader)
        if "fault" in answer:
            raise RuntimeError(answer["fault"])
        if "status" in answer:
            raise RequestError(answer["status"], answer["message"])
        return answer["value"]

    def _take(self) -> _Reader:
        with self._lock:
            if self._closed:
                raise RequestError(503, "the server is stopping; ask another one", 1)
            while self._idle:
                reader = self._idle.pop()
                if reader.alive:
                    return reader
                self._all.discard(reader)
                reader.kill()
        reader = _Reader(self._memory)
        with self._lock:
            self._all.add(reader)
        return reader

    def _drop(self, reader: _Reader) -> None:
        with self._lock:
            self._all.discard(reader)
        reader.kill()


class _Reader:
    def __init__(self, memory: int) -> None:
        # Standard error is kept by nobody: the server's own is its log.
        self._child = Child(
            "tfhalf.serve.reading.process", environment={"OPENBLAS_NUM_THREADS": "1"}, keeps_words=False
        )
        self._child.connection.settimeout(_SECONDS)
        wire.send(self._child.connection, memory)

    @property
    def alive(self) -> bool:
        return self._child.alive

    def request(self, task: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        wire.send(self._child.connection, [task, list(arguments), named])
        answer: dict[str, Any] = wire.receive(self._child.connection)
        return answer

    def end(self) -> None:
        self._child.kill()

    def kill(self) -> None:
        self._child.end()
