"""Processes of one's own: messages, bounds, last words, and no orphan."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from orphans import assert_gone, assert_no_orphan, runs

from tfhalf.system.child import ERROR, JSON, Channel, Child

MODULE = """
import ctypes, json, os, signal, sys, time

def main(channel, *words):
    print("a library prints")
    if words == ("speaks",):
        print("first\\n", file=sys.stderr)
        print("I0000 00:00 port.cc:153] oneDNN", file=sys.stderr)
        os._exit(3)
    if words == ("leaves",):
        return
    if words == ("native",):
        channel.send_json("here")
        ctypes.PyDLL(None).sleep(100)  # which keeps Python's lock
    while True:
        tag, content = channel.receive()
        if content == b"wait":
            time.sleep(0.5)
        if content == b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        channel.send(tag, content[::-1])
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of this content, which a new process can import."""
    (tmp_path / "speaking.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "speaking"


def test_messages_come_back_whole(module: str) -> None:
    child = Child(module)
    for tag, content in ((b"A", b""), (JSON, b"abc"), (ERROR, bytes(range(256)) * 20_000)):
        child.send(tag, content)
        assert child.receive() == (tag, content[::-1])
    child.end()
    assert not child.alive


def test_a_message_that_takes_longer_is_not_lost(module: str) -> None:
    child = Child(module)
    child.send(b"A", b"wait")
    with pytest.raises(TimeoutError):
        child.receive(timeout=0.01)
    assert child.receive(timeout=20) == (b"A", b"tiaw")
    child.end()


def test_a_message_that_is_too_large_is_refused(module: str) -> None:
    child = Child(module)
    child.send(b"A", b"x" * 1001)
    with pytest.raises(ValueError, match="1,001 bytes; at most 1,000"):
        child.receive(largest=1000)
    child.end()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("die", "by signal 11 (Segmentation fault)"),
        ("speaks", "with code 3 (first)"),
        ("leaves", "with code 0 (no word)"),
    ],
)
def test_last_words(module: str, word: str, said: str) -> None:
    child = Child(module, word)
    if word == "die":
        child.send(b"A", b"die")
    with pytest.raises(EOFError):
        child.receive()
    assert child.last_words() == said
    assert not Path(f"/proc/{child.process.pid}").exists()  # no zombie


def test_it_is_killed_from_another_thread(module: str) -> None:
    child = Child(module)
    threading.Timer(0.3, child.kill).start()
    with pytest.raises(EOFError):
        child.receive()
    assert child.last_words() == "by signal 9 (Killed)"


def test_it_ends_with_its_object(module: str) -> None:
    child: Child | None = Child(module)
    assert child is not None
    pid = child.process.pid
    assert runs(pid)
    child = None
    assert not runs(pid)


def test_it_outlives_the_thread_that_started_it(module: str) -> None:
    """Which the kernel's own signal of a parent's death would not allow."""
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(Child(module)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    (child,) = children
    child.send(b"A", b"ab")
    assert child.receive(timeout=20) == (b"A", b"ba")
    child.end()


START = (
    "from tfhalf.system.child import Child; child = Child({module!r}, 'native'); {heard}"
    "print(child.process.pid, flush=True)"
)
THREAD = (
    "import threading; children = []\n"
    "def start():\n"
    "    from tfhalf.system.child import Child; children.append(Child({module!r}, 'native'))\n"
    "thread = threading.Thread(target=start); thread.start(); thread.join()\n"
    "children[0].receive(); print(children[0].process.pid, flush=True)"
)


@pytest.mark.parametrize("code", [START, THREAD], ids=["main thread", "another thread"])
def test_no_orphan_of_a_parent_that_is_killed(module: str, code: str) -> None:
    """While native code in it keeps Python's lock, so that no thread of it could look."""
    assert_no_orphan(code.format(module=module, heard="child.receive(); "), wait=0.2)


@pytest.mark.parametrize("wait", [0.0, 0.02, 0.05])
def test_no_orphan_that_is_just_starting(module: str, wait: float) -> None:
    assert_no_orphan(START.format(module=module, heard=""), wait=wait)


def test_it_ends_as_the_parent_ends(module: str, tmp_path: Path) -> None:
    """By itself, with nobody calling `end`."""
    read, write = os.pipe()
    if not (fork := os.fork()):
        child = Child(module, "native")
        child.receive()
        os.write(write, str(child.process.pid).encode())
        os._exit(0)
    os.waitpid(fork, 0)
    pid = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    assert_gone(pid)


def test_a_channel_whose_other_end_is_gone() -> None:
    one, other = (Channel(end) for end in socket.socketpair())
    other.connection.close()
    with pytest.raises(EOFError):
        one.receive()
    with pytest.raises(OSError, match="Broken pipe"):
        one.send(b"A", b"x")
    one.connection.close()
