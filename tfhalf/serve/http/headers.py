"""The headers of a request by name: Starlette looks through the list of them for each that it is asked for."""

from __future__ import annotations

from starlette.requests import Request

HEADERS = "tfhalf.headers"  # the scope's key of the headers by lower-case name, both bytes


def header(request: Request, name: bytes) -> str | None:
    """The value of the header ``name`` (lower case), the last one where it comes twice; None where it is missing."""
    headers: dict[bytes, bytes] | None = request.scope.get(HEADERS)
    if headers is None:
        headers = request.scope[HEADERS] = dict(request.scope["headers"])
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
