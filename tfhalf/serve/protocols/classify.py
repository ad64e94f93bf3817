"""POST /v2/models/M[/versions/V]/classify: image files in, names and probabilities (or scores) out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tfhalf.errors import RequestError
from tfhalf.serve.batching.request import Arrays
from tfhalf.serve.engine import Inference
from tfhalf.serve.http.forms import FORM, Files
from tfhalf.serve.http.headers import header
from tfhalf.serve.http.inference import Reading, answer, engine_of, run, timeout_of
from tfhalf.serve.models.version import Loaded

TOP = 5


async def classify(request: Request) -> Response:
    """One image as the body, or several as the files of a form; ``?top=5`` names for each."""
    engine = engine_of(request)
    top, seconds = _top(request.query_params.get("top")), timeout_of(request)

    def inference_of(files: Files, loaded: Loaded) -> Inference:
        _class_output(loaded)
        name = next(iter(loaded.signature.inputs))
        deadline = engine.deadline(seconds)
        return Inference(loaded, len(files.contents), {}, deadline, {name: list(files.contents)})

    def write(files: Files, outputs: Arrays, loaded: Loaded) -> Response:
        output = _class_output(loaded)
        rows = [
            {"image": name, "classes": _ranked(row, top, loaded.labels)}
            for name, row in zip(files.names, outputs[output], strict=True)
        ]
        return answer(request, {"model_name": loaded.model, "model_version": str(loaded.version), "predictions": rows})

    kind = header(request, b"content-type") or ""
    task = "form" if kind.split(";")[0].strip().lower() == FORM else "file"
    return await run(request, Reading(task, {"content_type": kind}, 0 if task == "file" else None), inference_of, write)


def _class_output(loaded: Loaded) -> str:
    """The output whose rows are classes, of a model that takes images.

    Raises:
        RequestError: 400, it is another model.
    """
    inputs, output = list(loaded.signature.inputs.values()), loaded.manifest.class_output
    if len(inputs) != 1 or inputs[0].image is None or output is None:
        raise RequestError(400, f"model {loaded.model!r} is not a classifier of images; use infer")
    return output.name


def _top(header: str | None) -> int:
    if header is None:
        return TOP
    if not (header.isascii() and header.isdigit() and 0 < int(header[:9]) <= 1000):
        raise RequestError(400, f"top is {header[:30]!r}; accepted: 1 to 1000")
    return int(header[:9])


def _ranked(row: np.ndarray, top: int, labels: Sequence[str]) -> list[dict[str, object]]:
    """The best classes; ``probability`` where the row is of those, else ``score``."""
    values = row[np.isfinite(row)].astype(np.float64)
    kind = "score" if values.size and (values.min() < -1e-6 or values.max() > 1 + 1e-6) else "probability"
    finite = np.where(np.isfinite(row), row, -np.inf)
    best = np.argsort(-finite, kind="stable")[: min(top, len(row))]
    return [{"index": int(k), "label": labels[k] if k < len(labels) else str(k), kind: _number(row[k])} for k in best]


def _number(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def routes() -> list[Route]:
    """Both of them."""
    return [
        Route("/v2/models/{name}/classify", classify, methods=["POST"]),
        Route("/v2/models/{name}/versions/{version}/classify", classify, methods=["POST"]),
    ]
