"""A web server over loopback for files of a folder: range requests, index pages, the lists of objects of S3 and Google,
and whatever a bad network or a hostile server does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape


class Loopback:
    """A server of ``handler``'s answers at ``url``, in a thread, until `close`."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # clients go away

        self.http = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop, and free the port."""
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


class FileServer(Loopback):
    """Serves ``root``. ``fault`` is called with each request's path and may answer for it: a status, or a text:
    ``hang``, ``gone`` (no answer), ``cut`` (half of the body), ``whole`` (no ranges), ``endless``,
    ``elsewhere`` (another range)."""

    def __init__(self, root: Path) -> None:
        self.root, self.requests = root, []  # type: tuple[Path, list[tuple[str, str | None]]]
        self.fault: Callable[[str], int | str | None] = lambda path: None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                server._answer(self, body=False)

            def do_GET(self) -> None:
                server._answer(self, body=True)

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(Handler)

    def _answer(self, request: Any, body: bool) -> None:
        parts = urlsplit(request.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        self.requests.append((path, request.headers.get("Range")))
        fault = self.fault(path)
        if fault in ("hang", "gone"):
            time.sleep(1.5 * (fault == "hang"))
            request.close_connection = True
            return
        file = self.root / path.lstrip("/")
        if isinstance(fault, int):
            self._send(request, fault, b"", body)
        elif "/storage/v1/b/" in path:
            self._gcs(request, path.partition("/storage/v1/b/")[2], query, body)
        elif "list-type" in query:
            self._send(request, 200, self._objects(file, query.get("prefix", [""])[0]), body, "application/xml")
        elif file.is_dir():
            links = "".join(f'<a href="{quote(one.name)}{"/" * one.is_dir()}">x</a>' for one in sorted(file.iterdir()))
            self._send(request, 200, f'<a href="../">up</a><a href="?C=N">sort</a>{links}'.encode(), body, "text/html")
        elif not file.is_file():
            self._send(request, 404, b"", body)
        else:
            self._file(request, file, fault, body)

    def _file(self, request: Any, file: Path, fault: Any, body: bool) -> None:
        content, header = file.read_bytes(), request.headers.get("Range")
        more = {"ETag": f'"{file.stat().st_mtime_ns}"', "Accept-Ranges": "bytes"}
        if header is None or fault == "whole":
            self._send(request, 200, content, body, **more)
            return
        first, last = header.removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last or len(content)) + 1, len(content))
        if start >= len(content):
            self._send(request, 416, b"", body)
            return
        more["Content-Range"] = f"bytes {start + (fault == 'elsewhere')}-{end - 1}/{len(content)}"
        if fault == "endless":
            request.send_response(206)
            for name, value in more.items():
                request.send_header(name, value)
            request.send_header("Connection", "close")
            request.end_headers()
            for _ in range(2000):
                request.wfile.write(content[start:end] + bytes(1 << 16))
            request.close_connection = True
            return
        self._send(request, 206, content[start:end], body, cut=fault == "cut", **more)

    def _send(
        self,
        request: Any,
        status: int,
        content: bytes,
        body: bool,
        kind: str = "application/octet-stream",
        cut: bool = False,
        **more: str,
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **more}.items():
            request.send_header(name, value)
        if cut:
            request.send_header("Connection", "close")
        request.end_headers()
        if body:
            request.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            request.close_connection = True

    def _gcs(self, request: Any, path: str, query: dict[str, list[str]], body: bool) -> None:
        """Google's interface: ``BUCKET/o?prefix=``; ``BUCKET/o/NAME`` for what a file is, or its bytes."""
        bucket, _, name = path.partition("/o")
        root, file = self.root / bucket, self.root / bucket / name.lstrip("/")

        def described(one: Path) -> dict[str, str]:
            stamp = str(one.stat().st_mtime_ns)
            return {
                "name": one.relative_to(root).as_posix(),
                "bucket": bucket,
                "size": str(one.stat().st_size),
                "etag": stamp,
                "generation": stamp,
                "updated": "2026-01-01T00:00:00.000Z",
            }

        if not name.lstrip("/"):
            prefix = query.get("prefix", [""])[0]
            files = [one for one in sorted(root.rglob("*")) if one.is_file()]
            items = [each for one in files if (each := described(one))["name"].startswith(prefix)]
            self._send(request, 200, json.dumps({"items": items}).encode(), body, "application/json")
        elif not file.is_file():
            self._send(request, 404, b"{}", body)
        elif query.get("alt") == ["media"]:
            self._file(request, file, None, body)
        else:
            self._send(request, 200, json.dumps(described(file)).encode(), body, "application/json")

    def _objects(self, bucket: Path, prefix: str) -> bytes:
        rows = ""
        for file in sorted(bucket.rglob("*")):
            key = file.relative_to(bucket).as_posix()
            if file.is_file() and key.startswith(prefix):
                rows += (
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"
                    f"&quot;{file.stat().st_mtime_ns}&quot;</ETag><Size>{file.stat().st_size}</Size>"
                    "<StorageClass>STANDARD</StorageClass></Contents>"
                )
        head = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        return f"{head}<IsTruncated>false</IsTruncated><KeyCount>9</KeyCount>{rows}</ListBucketResult>".encode()
