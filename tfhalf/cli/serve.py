"""``tfhalf serve``: exported models behind HTTP and gRPC."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tfhalf.cli.options import PATH, QUIET
from tfhalf.errors import InputError
from tfhalf.progress import Progress
from tfhalf.system.programs import keep_programs


@click.command("serve", short_help="Answer inference requests over HTTP and gRPC.")
@click.argument("exports", type=PATH, nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="HTTP port; 0 takes a free one."
)
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port to answer gRPC on too; 0 takes a free one.")
@click.option(
    "--runtime",
    type=click.Choice(["onnx", "savedmodel", "auto"]),
    help="Runtime to compute with; auto measures both. [default: onnx where it was exported, else savedmodel]",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Number of processes that serve."
)
@click.option("--threads", type=click.IntRange(1), help="Number of cores that the models compute on. [default: all]")
@click.option(
    "--max-batch",
    type=click.IntRange(1, 65536),
    default=64,
    show_default=True,
    help="Largest number of rows to compute together.",
)
@click.option(
    "--max-delay-ms",
    type=click.FloatRange(0, 10_000),
    default=2.0,
    show_default=True,
    help="Longest time that a row waits for others to join it.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    help="Largest number of rows that wait; more get 429. [default: by how fast the model answers]",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="NAME:LABEL=VERSION[@PERCENT]",
    help="Name a version, and send it a share of the requests: cifar10:canary=4@10.",
)
@click.option(
    "--pin", "pins", multiple=True, metavar="NAME=VERSION", help="Serve only this version of NAME; may be repeated."
)
@click.option(
    "--latest",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of newest versions of each model to serve.",
)
@click.option(
    "--poll-seconds",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="Time between looks for new versions; 0 never looks again.",
)
@click.option("--allow-repository-control", is_flag=True, help="Let clients load and unload models.")
@click.option(
    "--token-file",
    type=PATH,
    help="File with the token that requests must carry: Authorization: Bearer TOKEN. [TFHALF_TOKEN]",
)
@click.option("--tls-certificate", type=PATH, help="PEM file of the certificate to answer HTTPS with.")
@click.option("--tls-key", type=PATH, help="PEM file of the certificate's private key.")
@click.option(
    "--max-body-mib",
    type=click.FloatRange(0, min_open=True),
    default=64.0,
    show_default=True,
    help="Largest body of a request.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=32_000_000,
    show_default=True,
    help="Largest number of pixels of an image.",
)
@click.option(
    "--max-size", type=click.IntRange(1), default=8192, show_default=True, help="Largest size of an open dimension."
)
@click.option(
    "--request-seconds",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Longest time that a request may take, unless it names another.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Longest time to finish accepted requests after SIGTERM.",
)
@click.option("--allow-nan", is_flag=True, help="Read and write NaN and Infinity in JSON.")
@click.option(
    "--access-log/--no-access-log", default=True, help="Write a line of JSON for each request to standard error."
)
@QUIET
def serve(
    exports: tuple[Path, ...],
    host: str,
    port: int,
    grpc_port: int | None,
    workers: int,
    drain_seconds: float,
    tls_certificate: Path | None,
    tls_key: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Serve EXPORTS: exports/, exports/NAME or exports/NAME/VERSION, as many as you like.

    Speaks the Open Inference Protocol (v2) and TensorFlow Serving's REST dialect on --port; / is a page for people.
    SIGTERM finishes what was accepted, then ends with exit code 0.
    """
    from tfhalf.serve.models import scan

    settings = _settings(exports, workers, **options)
    scan.check(exports)
    from tfhalf.serve.listen import Endpoint, check, listen

    endpoint = Endpoint(host, port, grpc_port, tls_certificate, tls_key, drain_seconds)
    check(endpoint)
    progress = Progress(quiet=quiet)
    keep_programs(progress.line)
    with listen(endpoint) as listener:
        url = f"{'https' if tls_certificate else 'http'}://{_shown(host)}:{listener.getsockname()[1]}"
        if workers > 1:
            click.get_current_context().exit(_serve_many(settings, endpoint, listener, workers, progress, url))
        from tfhalf.serve.server import run

        run(settings, endpoint, listener, say=lambda app, grpc: _say(app, grpc, progress, url))


def _serve_many(settings: Any, endpoint: Any, listener: Any, workers: int, progress: Progress, url: str) -> int:
    from tfhalf.serve.workers import serve as serve_many

    if endpoint.grpc_port == 0:
        raise InputError("--grpc-port 0 with --workers: the workers must share a port; give its number")

    def work(own: Any, shared: Any, parent: int, ready: Callable[[], None]) -> None:
        from tfhalf.serve.server import run

        def say(app: Any, grpc: int | None) -> None:
            _say(app, grpc, progress, None)
            ready()

        run(own, endpoint, shared, say=say, parent=parent, share_grpc=True)

    return serve_many(
        settings, workers, listener, work, lambda: progress.line(f"ready      {url} ({workers} workers)", always=True)
    )


def _say(app: Any, grpc: int | None, progress: Progress, url: str | None) -> None:
    for model in app.state.engine.repository.models.values():
        for number, loaded in sorted(model.loaded.items()):
            progress.line(f"model      {model.name}/{number}: {loaded.runtime.about}; ready in {loaded.seconds:.1f} s")
            progress.line(f"           compared with the float32 model {loaded.opened.verified}")
            for engine, reason in loaded.opened.refused.items():
                progress.line(f"REFUSED    {model.name}/{number} in {engine}: {reason}", always=True)
        for number, failure in sorted(model.failures.items()):
            progress.line(f"FAILED     {model.name}/{number}: {failure.message}", always=True)
    if grpc is not None:
        progress.line(f"grpc       port {grpc}")
    if url is not None:
        progress.line(f"ready      {url}", always=True)


def _settings(exports: tuple[Path, ...], workers: int, **options: Any) -> Any:
    from tfhalf.serve.settings import Batching, Limits, Settings, parse_labels, parse_pins

    if workers > 1 and options["allow_repository_control"]:
        raise InputError("--allow-repository-control: loads and unloads in one process; leave --workers at 1")
    threads = {} if options["threads"] is None else {"threads": options["threads"]}
    return Settings(
        exports,
        runtime=options["runtime"],
        batching=Batching(options["max_batch"], options["max_delay_ms"], options["max_queue"]),
        limits=Limits(
            max_body=int(options["max_body_mib"] * 2**20),
            max_pixels=options["max_pixels"],
            max_size=options["max_size"],
            allow_nan=options["allow_nan"],
            request_seconds=options["request_seconds"],
        ),
        pins=parse_pins(options["pins"]),
        labels=parse_labels(options["labels"]),
        latest=options["latest"],
        poll_seconds=options["poll_seconds"],
        repository_control=options["allow_repository_control"],
        token=_token(options["token_file"]),
        access_log=options["access_log"],
        **threads,
    )


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("TFHALF_TOKEN") or None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {path}: cannot be read: {error}") from None
    if not token or not token.isascii() or not token.isprintable():
        raise InputError(f"--token-file {path}: holds no token; it needs one line of printable ASCII")
    return token


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
