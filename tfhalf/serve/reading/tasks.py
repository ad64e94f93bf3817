"""What bodies and images become, by name: called here for small ones, in another process for large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfhalf.serve.http import forms
from tfhalf.serve.http.body import decompress
from tfhalf.serve.models.images import decode_one
from tfhalf.serve.protocols import oip, tfserving_codec
from tfhalf.serve.protocols.json_codec import loads
from tfhalf.serve.settings import Limits
from tfhalf.serve.signature import Signature


def _infer(body: bytes, signature: Signature, limits: Limits, *, header: str | None) -> oip.Parsed:
    return oip.parse(body, header, signature, limits)


def _predict(body: bytes, signature: Signature, limits: Limits) -> tfserving_codec.Predict:
    return tfserving_codec.parse(loads(body, nan=limits.allow_nan), signature)


def _form(body: bytes, signature: Signature, limits: Limits, *, content_type: str) -> forms.Files:
    return forms.of_form(body, content_type)


def _file(body: bytes, signature: Signature, limits: Limits, *, content_type: str) -> forms.Files:
    return forms.of_body(body, content_type)


def _grpc(body: bytes, signature: Signature, model: str, version: str) -> oip.Parsed:
    from tfhalf.serve.protocols import grpc_codec  # not for those who serve HTTP alone

    return grpc_codec.parse_whole(body, signature, model, version)


def _encoded(
    body: bytes, signature: Signature, limits: Limits, *, encoding: str, task: str, named: dict[str, Any]
) -> Any:
    return READ[task](decompress(body, encoding, limits.max_body), signature, limits, **named)


READ: dict[str, Callable[..., Any]] = {
    "infer": _infer,
    "predict": _predict,
    "form": _form,
    "file": _file,
    "encoded": _encoded,
    "grpc": _grpc,
    "image": decode_one,
}
"""Each raises RequestError where its input is not what the protocol says."""
