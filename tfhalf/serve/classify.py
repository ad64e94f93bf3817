"""POST /v2/models/M[/versions/V]/classify: image files in, names and probabilities out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf.data.image_formats import FORMATS, WORDS
from tfhalf.errors import RequestError
from tfhalf.serve.infer import Inference
from tfhalf.serve.job import Arrays
from tfhalf.serve.version import Loaded
from tfhalf.serve.web import answer, engine_of, run, timeout_of

PROBABILITIES = "probabilities"
TOP = 5
MOST_IMAGES = 256

_IMAGES = tuple(f"image/{kind.lower()}" for kind in FORMATS)
_RAW = (*_IMAGES, "image/x-ms-bmp", "application/octet-stream", "application/x-www-form-urlencoded", "")


@dataclass(frozen=True)
class Files:
    """Image files of a request, with the names that they came under."""

    names: tuple[str | None, ...]
    contents: tuple[bytes, ...]


async def classify(request: Request) -> Response:
    """One image as the body, or several as the files of a form; ``?top=5`` names for each."""
    engine = engine_of(request)
    top, seconds = _top(request.query_params.get("top")), timeout_of(request)

    def read(body: bytes, loaded: Loaded) -> object:
        _check_model(loaded)
        return _read(body, request.headers)

    def inference_of(files: Files, loaded: Loaded) -> Inference:
        name = next(iter(loaded.signature.inputs))
        deadline = engine.deadline(seconds)
        return Inference(loaded, None, len(files.contents), {}, deadline, {name: list(files.contents)})

    def write(files: Files, outputs: Arrays, loaded: Loaded) -> Response:
        rows = [
            {"image": name, "classes": _ranked(row, top, loaded.labels)}
            for name, row in zip(files.names, outputs[PROBABILITIES], strict=True)
        ]
        return answer(request, {"model_name": loaded.model, "model_version": str(loaded.version), "predictions": rows})

    return await run(request, read, inference_of, write)


def _check_model(loaded: Loaded) -> None:
    inputs = list(loaded.signature.inputs.values())
    if len(inputs) != 1 or inputs[0].image is None or PROBABILITIES not in loaded.signature.outputs:
        raise RequestError(400, f"model {loaded.model!r} is no classifier of images; use infer")


def _top(told: str | None) -> int:
    if told is None:
        return TOP
    if not (told.isascii() and told.isdigit() and 0 < int(told[:9]) <= 1000):
        raise RequestError(400, f"top is {told[:30]!r}; accepted: 1 to 1000")
    return int(told[:9])


async def _read(body: bytes, headers: Headers) -> Files:
    """The files of ``body``.

    Raises:
        RequestError: 400, 415, there are none.
    """
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        # Beside the event loop: the parser takes its time over a body that is full of line ends.
        return await asyncio.to_thread(asyncio.run, _form(body, headers))
    if kind not in _RAW:
        raise RequestError(415, f"Content-Type {kind[:60]!r}; accepted: {', '.join(_IMAGES)}, multipart/form-data")
    if not body:
        raise RequestError(400, f"the body is empty; send an image file: {WORDS} are read")
    return Files((None,), (body,))


async def _form(body: bytes, headers: Headers) -> Files:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    try:
        parser = MultiPartParser(headers, stream(), max_files=MOST_IMAGES, max_fields=16, max_part_size=1 << 16)  # type: ignore[arg-type]
        parser.spool_max_size = len(body)  # in memory, as the body is: no disk is asked for room
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestError(400, f"the form cannot be read: {error.message[:150]}") from None
    except (KeyError, ValueError, UnicodeDecodeError) as error:  # a boundary that is missing or unreadable
        raise RequestError(400, f"the form cannot be read: {str(error)[:150]}") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise RequestError(400, "the form holds no file; send each image as one")
        return Files(tuple(file.filename for file in files), tuple([await file.read() for file in files]))
    finally:
        await form.close()


def _ranked(row: np.ndarray, top: int, labels: list[str]) -> list[dict[str, object]]:
    finite = np.where(np.isfinite(row), row, -1.0)
    best = np.argsort(-finite, kind="stable")[: min(top, len(row))]
    return [
        {"index": int(k), "label": labels[k] if k < len(labels) else str(k), "probability": _probability(row[k])}
        for k in best
    ]


def _probability(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def routes() -> list[Route]:
    """Both of them."""
    return [
        Route("/v2/models/{name}/classify", classify, methods=["POST"]),
        Route("/v2/models/{name}/versions/{version}/classify", classify, methods=["POST"]),
    ]
