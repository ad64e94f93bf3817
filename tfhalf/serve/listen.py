"""Where a server listens."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from tfhalf.errors import InputError


@dataclass(frozen=True)
class Endpoint:
    """Where and how a server listens. ``grpc_port`` None is no gRPC, 0 any free port; so is ``port`` 0."""

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    drain_seconds: float = 30.0


def listen(endpoint: Endpoint) -> socket.socket:
    """A socket that listens there.

    Raises:
        InputError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise InputError(
            f"{endpoint.host}:{endpoint.port} cannot be listened on: {error.strerror or error}; "
            "give another --host or --port"
        ) from None
    listener.setblocking(False)
    listener.set_inheritable(True)
    return listener


def check(endpoint: Endpoint) -> None:
    """Refuse TLS files that cannot be used.

    Raises:
        InputError: one without the other, or not a certificate and its key.
    """
    if (endpoint.certificate is None) != (endpoint.key is None):
        raise InputError("--tls-certificate and --tls-key go together; give both")
    if endpoint.certificate is not None and endpoint.key is not None:
        import ssl

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(endpoint.certificate, endpoint.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"{endpoint.certificate}, {endpoint.key}: are not a certificate and its key: {error}"
            ) from None
