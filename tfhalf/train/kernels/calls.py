"""Layers that compute by another function for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def computed_by(functions: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Within the block each operation's ``call`` is its function, with the operation as the first argument."""
    for operation, function in functions.items():
        operation.call = partial(function, operation)
    try:
        yield
    finally:
        for operation in functions:
            del operation.call
