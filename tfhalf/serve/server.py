"""One process that serves: sockets, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette

from tfhalf.errors import ShortfallError
from tfhalf.serve import create_app
from tfhalf.serve.http.uvicorn_protocol import protocol_class
from tfhalf.serve.listen import Endpoint
from tfhalf.serve.log import Lines, Log
from tfhalf.serve.models.repository import Repository
from tfhalf.serve.settings import Limits, Settings
from tfhalf.system import memory

if TYPE_CHECKING:
    from tfhalf.serve.protocols.oip_grpc import GrpcServer

# A thread that has computed a batch waits at most so long for Python's lock, and not five times as long.
_SWITCH_SECONDS = 0.001
_GC_THRESHOLDS = (10_000, 20, 20)  # hundreds of requests make no pause worth having every few milliseconds
_LAST_SECONDS = 2  # for answers that are being sent when all else is done
_FORCE_SECONDS = 10.0  # after `drain_seconds`
_OTHER_FILES = 128  # descriptors that are not connections
_LOGGERS = ("uvicorn.error", "grpc", "asyncio")
_MOST_WAITING = 2048  # connections that wait to be accepted
_SILENT_SECONDS = 2.0  # for those that have asked nothing yet
_ACCEPTED_SECONDS = 0.25  # for requests that are on their way over connections that were accepted


class _Server(uvicorn.Server):
    """Leaves signals to `run`, and loses no connection that the kernel has taken."""

    async def stop_listening(self, listener: socket.socket) -> None:
        """Listen no more; first take what has connected and waits to be accepted, which the kernel would reset."""
        waiting = listener.dup()  # the socket lives on in it while the event loop lets go of its own
        try:
            for listening in self.servers:
                listening.close()
            listener.close()
            await asyncio.sleep(0)
            waiting.setblocking(False)
            loop, config = asyncio.get_running_loop(), self.config
            kind: Any = config.http_protocol_class
            protocol = functools.partial(
                kind,
                config=config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                _loop=loop,
            )
            accepted: list[socket.socket] = []
            with contextlib.suppress(BlockingIOError):
                while len(accepted) < _MOST_WAITING:
                    accepted.append(waiting.accept()[0])
        finally:
            waiting.close()
        for connection in accepted:
            connection.setblocking(False)
        connections = [loop.connect_accepted_socket(protocol, one, ssl=config.ssl) for one in accepted]
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # one that takes its time over TLS
            await asyncio.wait_for(asyncio.gather(*connections, return_exceptions=True), _ACCEPTED_SECONDS)

    async def hear_out(self) -> None:
        """Wait for the requests of whoever has connected, who are told 503: a little, and longer for connections that
        have not asked anything yet."""
        began = time.monotonic()
        await asyncio.sleep(_ACCEPTED_SECONDS)
        while time.monotonic() < began + _SILENT_SECONDS and any(
            getattr(connection, "cycle", None) is None for connection in self.server_state.connections
        ):
            await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(
    settings: Settings,
    endpoint: Endpoint,
    listener: socket.socket,
    *,
    say: Callable[[Any, int | None], None] = lambda _app, _grpc: None,
    parent: int | None = None,
    share_grpc: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted.

    Args:
        say: told the app and the gRPC port once everything is ready.
        parent: a pipe's end to read; when the other end closes, its process is gone and this one stops too.
        share_grpc: several processes listen on the gRPC port.

    Raises:
        ArtifactError, InputError: nothing to serve there, or a setting that does not fit it.
        ShortfallError: no model loads; or the work was not finished within ``drain_seconds``.
    """
    config = uvicorn.Config(
        "",
        loop="auto",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(settings.limits.keep_alive_seconds),
        timeout_graceful_shutdown=_LAST_SECONDS,
        ssl_certfile=endpoint.certificate,
        ssl_keyfile=endpoint.key,
    )
    factory = config.get_loop_factory()
    loop = factory() if factory else asyncio.new_event_loop()
    settings = replace(settings, limits=replace(settings.limits, max_connections=_connections(settings.limits)))
    ended = threading.Event()
    try:
        asyncio.set_event_loop(loop)
        with memory.bounded():  # a request that asks for more than there is fails alone, and does not end the server
            loop.run_until_complete(_serve(settings, endpoint, listener, config, say, parent, share_grpc, ended))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        ended.set()


async def _serve(
    settings: Settings,
    endpoint: Endpoint,
    listener: socket.socket,
    config: uvicorn.Config,
    say: Callable[[Any, int | None], None],
    parent: int | None,
    share_grpc: bool,
    ended: threading.Event,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is not None:
        loop.add_reader(parent, stop.set)
    app = create_app(settings)
    access, log = app.state.access, app.state.log
    config.app, config.http = app, protocol_class(settings.limits, access.refusal, access.rejection)
    for name in _LOGGERS:
        logging.getLogger(name).handlers = [Lines(log)]
        logging.getLogger(name).propagate = False
    stopped = asyncio.ensure_future(stop.wait())
    if not await _load(app.state.engine.repository, stopped, lambda: _end_by_force(endpoint.drain_seconds, log, ended)):
        return
    grpc = None
    if endpoint.grpc_port is not None:
        from tfhalf.serve.protocols.oip_grpc import start

        grpc = await start(app, endpoint, share=share_grpc)
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.001)
    say(app, grpc.port if grpc else None)
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    finished = await _drain(app, endpoint, server, listener, grpc)
    await serving
    if parent is not None:
        loop.remove_reader(parent)
    log.event("stopped", finished=finished)
    if not finished:
        raise ShortfallError(
            f"work was left when --drain-seconds {endpoint.drain_seconds:g} were over; it got status 503"
        )


async def _load(repository: Repository, stopped: asyncio.Future[Any], on_stop: Callable[[], None]) -> bool:
    """Load the models, and have this process spend no time on looking through them for garbage; False where it is
    stopped before they are there.

    Raises:
        TfhalfError: what `Repository.start` raises.
    """
    starting = asyncio.ensure_future(repository.start())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.add_done_callback(lambda _: on_stop())
    if not starting.done():
        starting.cancel()
        return False
    if starting.exception() is not None:
        stopped.cancel()
        await asyncio.wait([stopped])
    starting.result()
    gc.collect()
    gc.freeze()  # models and modules stay; looking through them again and again would cost pauses
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)
    return True


async def _drain(
    app: Starlette, endpoint: Endpoint, server: _Server, listener: socket.socket, grpc: GrpcServer | None
) -> bool:
    """Finish what was accepted, then listen no more; whether it was finished in time."""
    engine = app.state.engine
    app.state.log.event("stopping", in_flight=engine.in_flight)
    finished: bool = await engine.drain(endpoint.drain_seconds)
    if grpc is not None:
        await grpc.stop()
    await server.stop_listening(listener)
    await server.hear_out()
    server.should_exit = True
    return finished


def _connections(limits: Limits) -> int:
    """As many as ``limits`` allow and file descriptors suffice for; their number is raised, where that is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.max_connections + _OTHER_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(limits.max_connections, soft - _OTHER_FILES))


def _end_by_force(drain_seconds: float, log: Log, ended: threading.Event) -> None:
    """End the process some seconds after it should have ended by itself, whatever a thread hangs on.

    A process that has gone on to other work since the server ``ended`` lives on: only one whose main thread is over,
    and which waits for another thread, is ended.
    """

    def end() -> None:
        if ended.is_set() and threading.main_thread().is_alive():
            return
        log.event("stopped", finished=False, forced=True)
        os._exit(1)

    timer = threading.Timer(drain_seconds + _FORCE_SECONDS, end)
    timer.daemon = True
    timer.start()
