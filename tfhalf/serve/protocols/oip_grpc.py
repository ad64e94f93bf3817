"""``GRPCInferenceService`` beside HTTP: the same engine and queues; health and reflection as usual."""

from __future__ import annotations

import asyncio
import functools
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health as health_names
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from starlette.applications import Starlette

from tfhalf._version import __version__
from tfhalf.errors import InputError, RequestError
from tfhalf.serve.engine import Engine, Inference
from tfhalf.serve.listen import Endpoint
from tfhalf.serve.log import Log
from tfhalf.serve.metrics import Metrics
from tfhalf.serve.models.version import Loaded
from tfhalf.serve.protocols import describe, grpc_codec, oip
from tfhalf.serve.protocols.grpc_messages import METHODS, POOL, SERVICE, STREAM, message
from tfhalf.serve.protocols.oip_http import EXTENSIONS, SERVER

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OPEN = ("ServerLive", "ServerReady")
_HEALTH_SECONDS = 0.5
_LARGE = 1 << 20  # a message above this is read beside the event loop
_HUGE = 1 << 22  # and an inference above this in a process of its own: Python's lock is held until it is read


@dataclass
class GrpcServer:
    """A server that listens on ``port``."""

    port: int
    _server: Any
    _watch: asyncio.Task[None]

    async def stop(self) -> None:
        """Take no more calls; those that run have a second left."""
        self._watch.cancel()
        await self._server.stop(1.0)


async def start(app: Starlette, endpoint: Endpoint, *, share: bool) -> GrpcServer:
    """Listen on ``endpoint.grpc_port``.

    Args:
        share: other processes listen on the same port.

    Raises:
        InputError: the port cannot be had.
    """
    engine: Engine = app.state.engine
    most = engine.settings.limits.max_body
    options = [
        ("grpc.so_reuseport", int(share)),
        ("grpc.max_receive_message_length", most),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", 1024),
    ]
    server = grpc.aio.server(options=options)
    service = _Service(engine, app.state.metrics, app.state.log)
    server.add_generic_rpc_handlers((service.handlers(),))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)  # for reflection; the same file again is no error
    names = (SERVICE, health_names.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=POOL)
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    address = f"{host}:{endpoint.grpc_port}"
    try:
        if endpoint.certificate is not None and endpoint.key is not None:
            pair = (endpoint.key.read_bytes(), endpoint.certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        raise InputError(f"{address} cannot be listened on for gRPC; give another --grpc-port") from None
    await server.start()
    return GrpcServer(port, server, asyncio.ensure_future(_tell_health(servicer, engine)))


async def _tell_health(servicer: health.HealthServicer, engine: Engine) -> None:
    status = health_pb2.HealthCheckResponse
    while True:
        now = status.SERVING if engine.ready else status.NOT_SERVING
        for name in ("", SERVICE):
            await servicer.set(name, now)
        await asyncio.sleep(_HEALTH_SECONDS)


class _Service:
    def __init__(self, engine: Engine, metrics: Metrics, log: Log) -> None:
        self._engine, self._metrics, self._log = engine, metrics, log

    def handlers(self) -> Any:
        """What grpc calls, by method."""
        calls: dict[str, Callable[[Any, Any, dict[str, Any]], Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server,
            "ModelMetadata": self._metadata,
            "ModelInfer": self._infer,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(name, calls[name]),  # it reads the bytes itself: grpc would answer UNKNOWN to foreign ones
                response_serializer=message(f"{name}Response").SerializeToString,
            )
            for name in METHODS
        }
        handlers[STREAM] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            response_serializer=message("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _unary(self, name: str, call: Callable[[Any, Any, dict[str, Any]], Awaitable[Any]]) -> Any:
        kind = message(f"{name}Request")

        async def answer(raw: bytes, context: Any) -> Any:
            started = time.perf_counter()
            facts: dict[str, Any] = {"method": name}
            self._engine.in_flight += 1
            code = grpc.StatusCode.OK
            try:
                if name not in _OPEN:
                    self._authorise(context)
                with self._engine.bodies.held() as held:
                    held.take(len(raw))
                    huge = name == "ModelInfer" and len(raw) > _HUGE
                    return await call(raw if huge else await _parsed(kind, raw), context, facts)
            except RequestError as error:
                code = _CODES.get(error.status, grpc.StatusCode.INTERNAL)
                await context.abort(code, str(error))
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001  # a fault of the server's: logged, and the client told no more than that
                code = grpc.StatusCode.INTERNAL
                self._log.event("fault", error=repr(error), method=name)
                await context.abort(code, "the server failed; its log says why")
            finally:
                self._engine.in_flight -= 1
                if self._log.access:
                    milliseconds = round((time.perf_counter() - started) * 1e3, 3)
                    self._log.request({**_facts(context), "status": code.name, "ms": milliseconds, **facts})

        return answer

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        kind = message("ModelStreamInferResponse")
        try:
            self._authorise(context)
        except RequestError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        async for raw in requests:
            self._engine.in_flight += 1
            identity = ""
            try:
                with self._engine.bodies.held() as held:
                    held.take(len(raw))
                    request = raw if len(raw) > _HUGE else await _parsed(message("ModelInferRequest"), raw)
                    identity = grpc_codec.head(raw)[2] if isinstance(request, bytes) else request.id
                    yield kind(infer_response=await self._infer(request, context, {}))
            except RequestError as error:
                yield kind(error_message=str(error), infer_response={"id": identity})
            finally:
                self._engine.in_flight -= 1

    def _authorise(self, context: Any) -> None:
        token = self._engine.settings.token
        if token is None:
            return
        header = dict(context.invocation_metadata() or ()).get("authorization", "")
        text = header if isinstance(header, str) else ""
        there = text[7:].strip() if text.lower().startswith("bearer ") else ""
        if not hmac.compare_digest(there.encode(), token.encode()):
            raise RequestError(401, "this server asks for a token: send the metadata authorization: Bearer TOKEN")

    async def _live(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        return message("ServerReadyResponse")(ready=self._engine.ready)

    async def _server(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        return message("ServerMetadataResponse")(name=SERVER, version=__version__, extensions=EXTENSIONS)

    async def _model_ready(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        model = self._engine.repository.model(request.name)
        try:
            model.choose(request.version or None)
            yes = not self._engine.draining
        except RequestError as error:
            if error.status == 404:
                raise
            yes = False
        return message("ModelReadyResponse")(ready=yes)

    async def _metadata(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        model = self._engine.repository.model(request.name)
        metadata = describe.metadata(model, model.choose(request.version or None))
        del metadata["parameters"]
        return message("ModelMetadataResponse")(**metadata)

    async def _config(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        loaded = self._engine.repository.model(request.name).choose(request.version or None)
        described = describe.config(loaded, self._engine.settings)
        kind = message("ModelConfig")
        config = {key: value for key, value in described.items() if key in kind.DESCRIPTOR.fields_by_name}
        for key in ("input", "output"):
            config[key] = [{k: row[k] for k in ("name", "data_type", "dims")} for row in config[key]]
        return message("ModelConfigResponse")(config=kind(**config))

    async def _statistics(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        repository, totals = self._engine.repository, self._metrics.totals()
        models = [repository.model(request.name)] if request.name else list(repository.models.values())
        chosen = [loaded for model in models for loaded in model.loaded.values()]
        if request.name and request.version:
            chosen = [models[0].choose(request.version)]
        rows = [describe.statistics(loaded, totals) for loaded in chosen]
        return message("ModelStatisticsResponse")(model_stats=rows)

    async def _index(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        rows = self._engine.repository.index()
        rows = [row for row in rows if row["state"] == "READY" or not request.ready]
        return message("RepositoryIndexResponse")(models=rows)

    async def _load(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        await self._control(request, True)
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        await self._control(request, False)
        return message("RepositoryModelUnloadResponse")()

    async def _control(self, request: Any, loaded: bool) -> None:
        if not self._engine.settings.repository_control:
            raise RequestError(403, "models are loaded by this server alone; start it with --allow-repository-control")
        if set(request.parameters) - {"unload_dependents"}:
            raise RequestError(400, "models come from the exports folders as they are; parameters are not taken")
        await self._engine.repository.set_loaded(request.model_name, loaded)

    async def _infer(self, request: Any, context: Any, facts: dict[str, Any]) -> Any:
        engine = self._engine
        if isinstance(request, bytes):
            name, version, _ = grpc_codec.head(request)
        else:
            name, version = request.model_name, request.model_version

        async def read(loaded: Loaded) -> oip.Parsed:
            if isinstance(request, bytes):
                huge: oip.Parsed = await engine.readers.read_huge("grpc", request, loaded.signature, name, version)
                return huge
            parse = functools.partial(grpc_codec.parse, request, loaded.signature)
            return await asyncio.to_thread(parse) if request.ByteSize() > _LARGE else parse()

        def inference_of(parsed: oip.Parsed, loaded: Loaded) -> Inference:
            seconds = parsed.timeout if parsed.timeout is not None else context.time_remaining()
            return Inference(loaded, parsed.rows, parsed.feeds, engine.deadline(seconds), parsed.encoded)

        return await engine.infer(
            name, version or None, facts, read=read, inference_of=inference_of, write=grpc_codec.respond
        )


async def _parsed(kind: Any, raw: bytes) -> Any:
    """The message of class ``kind`` in ``raw``; a large one is read beside the event loop.

    Raises:
        RequestError: 400, there is none.
    """
    try:
        return kind.FromString(raw) if len(raw) < _LARGE else await asyncio.to_thread(kind.FromString, raw)
    except DecodeError:
        raise RequestError(400, f"these {len(raw):,} bytes are not a {kind.DESCRIPTOR.name}") from None


def _facts(context: Any) -> dict[str, Any]:
    metadata = dict(context.invocation_metadata() or ())
    facts: dict[str, Any] = {"protocol": "grpc", "client": context.peer()}
    for key, name in (("x-request-id", "id"), ("traceparent", "traceparent")):
        if isinstance(metadata.get(key), str):
            facts[name] = metadata[key][:128]
    return facts
