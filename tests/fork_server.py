"""``tfhalf``, or a script, in a process of its own that need not import TensorFlow: forked off a server that has.

Importing TensorFlow, Keras and ONNX takes 4 s of a core, most of a small job. The server, one a process of tests,
imports these and nothing of tfhalf, touches no device and starts no thread; each command is forked off it and then runs
as ``python -m tfhalf`` does: with arguments, folder, environment, files and signals of its own. The hash seed of
Python's strings is the server's: of processes that are to give the same bits, one is started with `subprocess`.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

LIBRARIES = ("click", "pydantic", "rich", "scipy.special", "yaml", "onnx", "onnx_ir", "onnxscript", "tensorboard")
_LARGEST = 1 << 20  # bytes of a request: arguments and environment
_server: socket.socket | None = None


class Process:
    """A command under way, with what tests need of `subprocess.Popen`."""

    def __init__(self, pid: int, arguments: tuple[str, ...], status: int) -> None:
        self.pid, self.args, self._status = pid, arguments, status
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._await(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: it runs for more than ``timeout`` seconds.
        """
        code = self._await(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing happens where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            text = os.read(self._status, 16)
            assert text, "the server of processes has died"
            self.returncode = int(text)
            os.close(self._status)
        return self.returncode


def start(
    where: Path,
    *arguments: object,
    stdout: IO[str],
    stderr: IO[str],
    environment: Mapping[str, str] | None = None,
    new_session: bool = False,
    script: Path | None = None,
) -> Process:
    """``tfhalf`` with ``arguments`` in the folder ``where``, writing to two files.

    Args:
        environment: all of it; None: this process's. ``PYTHON*`` come too late.
        new_session: make it the leader of a process group, as `subprocess.Popen` does.
        script: a Python file to run in place of ``tfhalf``.
    """
    global _server
    if _server is None:
        _server = _started()
    ended, status = os.pipe()
    words = tuple(map(str, arguments))
    request = {
        "arguments": words,
        "where": str(where),
        "environment": dict(os.environ if environment is None else environment),
        "new_session": new_session,
        "script": str(script or ""),
    }
    with open(os.devnull) as stdin:
        files = [stdin.fileno(), stdout.fileno(), stderr.fileno(), status]
        socket.send_fds(_server, [json.dumps(request).encode()], files)
    os.close(status)
    answer = _server.recv(16)
    assert answer, "the server of processes has died"
    return Process(int(answer), words, ended)


def run(
    where: Path, *arguments: object, timeout: float = 400, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``tfhalf`` run to its end, with what it wrote.

    Raises:
        subprocess.TimeoutExpired: it has not ended after ``timeout`` seconds, and was killed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        process = start(where, *arguments, stdout=out, stderr=err, environment=environment)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        said = [(file.seek(0), file.read())[1] for file in (out, err)]
        return subprocess.CompletedProcess(process.args, code, *said)


def _started() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in (ours, theirs):  # a request is one packet
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)
    with theirs:
        server = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    atexit.register(_end, ours, server)
    return ours


def _end(requests: socket.socket, server: subprocess.Popen[bytes]) -> None:
    requests.close()
    server.wait()


def _serve(requests: socket.socket) -> str:
    """Fork off what is requested; returns in the new process, ready to be the command, the script that it is to run.

    Raises:
        SystemExit: nobody is left who requests anything.
    """
    children: dict[int, int] = {}
    ended, wakeup = os.pipe()
    for end in (ended, wakeup):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests end, and then this does
    while True:
        readable, _, _ = select.select([requests, ended], [], [])
        if ended in readable:
            os.read(ended, 1 << 10)
            for pid in list(children):
                _report(pid, children)
        if requests in readable:
            content, files, _, _ = socket.recv_fds(requests, _LARGEST, 4)
            if not content:
                sys.exit()
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for file in (ended, wakeup, *children.values(), requests.detach()):
                    os.close(file)
                return _become(json.loads(content), files)
            children[pid] = files.pop()
            for file in files:
                os.close(file)
            requests.send(str(pid).encode())


def _report(pid: int, children: dict[int, int]) -> None:
    """Write the status of a child that has ended before anything else can take its number."""
    done = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if done is None:
        return
    code = done.si_status if done.si_code == os.CLD_EXITED else -done.si_status
    status = children.pop(pid)
    with suppress(BrokenPipeError):  # nobody waits for it
        os.write(status, str(code).encode())
    os.close(status)
    os.waitpid(pid, 0)


def _become(request: dict[str, Any], files: list[int]) -> str:
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    if request["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["where"])
    script: str = request["script"]
    sys.path[0] = str(Path(script).parent) if script else os.getcwd()
    sys.argv = [script or "tfhalf", *request["arguments"]]
    return script


def main() -> None:
    """The server, with the file descriptor of its socket as the first argument; and, forked off it, the command."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    from tfhalf.system.tensorflow import import_tensorflow

    import_tensorflow()
    for name in LIBRARIES:
        __import__(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tfhalf"]:
        del sys.modules[name]  # what a command imports of it, it imports itself
    if script := _serve(requests):
        runpy.run_path(script, run_name="__main__")
    else:
        runpy.run_module("tfhalf", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
