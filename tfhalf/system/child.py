"""A Python process of its own for work that must not share this one: `Child`, and `Channel` to speak with it.

Native code may end its process; a verifier must know nothing of what trained; a measurement must begin from nothing.
All of them are started here, by one door, `tfhalf.system.child_main`: with the environment that TensorFlow's start
needs, what they write to standard error kept for their last words, and an end when this process ends, however it does.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

JSON, ERROR = b"J", b"E"
LARGEST = 16 << 30  # bytes of one message
_HEAD = struct.Struct("<cQ")
_ENDING = 5.0  # seconds that a process has to end by itself once it has closed its channel
# What TensorFlow's libraries say of themselves, warnings included, before they read any setting.
_CHATTER = re.compile(r"[IWE]\d{4} |WARNING: All log messages before absl")
_LAST_BYTES = 1 << 16  # of standard error, that the last words are looked for in


def fresh_environment() -> dict[str, str]:
    """Of a Python process that is started for TensorFlow: this one's, quiet, and with this very package put first,
    since the process may stand in another folder's."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}


class Channel:
    """Messages, each a tag of one byte and a content, over a connected ``socket``."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, tag: bytes, content: bytes) -> None:
        """One message.

        Raises:
            OSError: the other side has ended, or takes nothing within the connection's timeout.
        """
        self.connection.sendall(_HEAD.pack(tag, len(content)))
        self.connection.sendall(content)

    def receive(self, timeout: float | None = None, largest: int = LARGEST) -> tuple[bytes, bytes]:
        """The next message's tag and content.

        Args:
            timeout: seconds that it may take to begin; nothing is lost where it comes later. None waits.
            largest: bytes that its content may have.

        Raises:
            EOFError: the other side has ended.
            TimeoutError: no message has begun.
            ValueError: it is too large.
        """
        if not select.select([self.connection], [], [], timeout)[0]:
            raise TimeoutError
        tag, length = _HEAD.unpack(self._exactly(_HEAD.size))
        if length > largest:
            raise ValueError(f"a message of {length:,} bytes; at most {largest:,} are taken")
        return tag, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        content = bytearray(size)
        view, done = memoryview(content), 0
        while done < size:
            try:
                count = self.connection.recv_into(view[done:])
            except ConnectionResetError:
                count = 0
            if not count:
                raise EOFError
            done += count
        return bytes(content)

    def send_json(self, value: Any, tag: bytes = JSON) -> None:
        """`send` what JSON can hold."""
        self.send(tag, json.dumps(value).encode())


class Child(Channel):
    """A process that runs ``main(channel, *arguments)`` of a module of tfhalf, with the other end of this channel.

    It ends with this object, and when this process ends, even by SIGKILL: see `end_with_parent`.

    Args:
        environment: variables beside those of `fresh_environment`.
        stdout: where what it prints goes; nowhere by default.
        keeps_words: keep its standard error for `last_words`; else that goes nowhere too.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        stdout: IO[Any] | int = subprocess.DEVNULL,
        keeps_words: bool = True,
    ) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        lifeline, held = os.pipe()
        # A file, since a pipe that nobody reads would fill.
        self._words = tempfile.TemporaryFile() if keeps_words else None  # noqa: SIM115  # closed by _end
        # The kernel tells a child of the end of the thread that started it, which only the main one shares with us.
        by_main = threading.current_thread() is threading.main_thread()
        facts = f"{theirs.fileno()},{lifeline},{os.getpid() if by_main else 0}"
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tfhalf.system.child_main", facts, module, *arguments],
                env={**fresh_environment(), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=self._words or subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), lifeline),
            )
        except BaseException:
            os.close(held)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._finish = weakref.finalize(self, _end, self.process, ours, self._words, held)

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def wait(self, timeout: float) -> tuple[bytes, bytes] | None:
        """The next message's tag and content; None where none has begun within ``timeout`` seconds.

        Raises:
            EOFError: the process has ended, though one that it started may hold the channel still.
        """
        try:
            return self.receive(timeout)
        except TimeoutError:
            if not self.alive:
                raise EOFError from None
            return None

    def kill(self) -> None:
        """Have the process end; who waits for its message gets EOFError. May be called from any thread."""
        self.process.kill()

    def end(self) -> None:
        """Kill the process where it has not ended, and put everything away."""
        self._finish()

    def words_from(self, start: int, most: int) -> bytes:
        """Of what the process has written to standard error, at most ``most`` bytes from ``start`` on."""
        # By its own offset: the process shares that of the file, and goes on writing there.
        return os.pread(self._words.fileno(), most, start) if self._words else b""

    def last_words(self) -> str:
        """How the process ended, ``by signal 11 (Segmentation fault)`` or ``with code 1 (its last line of standard
        error)``; one that closed its channel and goes on is killed. Then everything is put away."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_ENDING)
        self.process.kill()
        code = self.process.wait()
        line = _last_line(self._words) if self._words and not self._words.closed else ""
        self.end()
        return (
            f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with code {code} ({line or 'no word'})"
        )


def _last_line(words: IO[bytes]) -> str:
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - _LAST_BYTES))
    lines = [" ".join(line.split()) for line in words.read().decode(errors="replace").split("\n")]
    said = [line for line in lines if line and not _CHATTER.match(line)]
    return said[-1][:300] if said else ""


def _end(process: subprocess.Popen[bytes], connection: socket.socket, words: IO[bytes] | None, held: int) -> None:
    process.kill()
    process.wait()  # so that no zombie is left
    connection.close()
    os.close(held)
    if words is not None:
        words.close()
