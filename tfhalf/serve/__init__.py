"""Exported models behind HTTP and gRPC: `create_app` is the whole of it as an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from tfhalf.serve.settings import Settings


def create_app(settings: Settings, **parts: Any) -> Starlette:
    """The app that `tfhalf serve` runs, for any ASGI host; it loads its models at the host's startup event.

    ``parts`` are those of `tfhalf.serve.app.create_app`, which says what they are. Nothing heavy is imported before
    this is called.
    """
    from tfhalf.serve.app import create_app as create

    return create(settings, **parts)
