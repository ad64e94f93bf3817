"""Work that may never come back, such as reading from a file system that hangs: in threads that hold up nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any, TypeVar

from tfhalf.errors import ArtifactError

T = TypeVar("T")


class StillBusyError(ArtifactError):
    """The last work under the same key has not come back yet."""


class Threads:
    """Runs work in threads that the end of the process does not wait for; one at a time for each key."""

    def __init__(self) -> None:
        self._late: set[Hashable] = set()

    def late(self, key: Hashable) -> bool:
        """Whether work of ``key`` did not come back in time, nor since."""
        return key in self._late

    async def run(
        self, key: Hashable, seconds: float, work: Callable[..., T], *arguments: Any, dispose: Callable[[T], Any] = id
    ) -> T:
        """What ``work`` returns or raises within ``seconds``.

        Args:
            dispose: takes what it returns later.

        Raises:
            ArtifactError: it did not come back.
            StillBusyError: nor did earlier work of ``key``; nothing was started.
        """
        if key in self._late:
            raise StillBusyError(f"{key}: is still being read")
        future = _start(work, arguments)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            if not future.done():
                self._late.add(key)
                future.add_done_callback(lambda late: self._came(key, late, dispose))
        if future.done():
            return future.result()
        raise ArtifactError(
            f"{key}: was not read within {seconds:.0f} s; it is tried again when the file system has answered"
        )

    def _came(self, key: Hashable, late: asyncio.Future[T], dispose: Callable[[T], Any]) -> None:
        self._late.discard(key)
        if not late.cancelled() and late.exception() is None:
            dispose(late.result())


def _start(work: Callable[..., T], arguments: tuple[Any, ...]) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def post(tell: Callable[[Any], None], value: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(lambda: None if future.done() else tell(value))

    def run() -> None:
        try:
            result = work(*arguments)
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is waited for
            post(future.set_exception, error)
        else:
            post(future.set_result, result)

    threading.Thread(target=run, name="reader", daemon=True).start()
    return future
