"""``tfhalf``, or a script, in a process of its own that need not import TensorFlow: forked off a server that has.

Importing TensorFlow, Keras and ONNX takes 4 s of a core, most of a small job. The server, one a process of tests,
imports these and nothing of tfhalf, touches no device and starts no thread; each command is forked off it and then runs
as ``python -m tfhalf`` does: with arguments, folder, environment, files and signals of its own. So do the processes
that tfhalf itself starts (`tfhalf.system.child`), where `fork_children` has been called, as it is for each command. The
hash seed of Python's strings is the server's: of processes that are to give the same bits, one is started with
`subprocess`.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

LIBRARIES = ("click", "pydantic", "rich", "scipy.special", "yaml", "onnx", "onnx_ir", "onnxscript", "tensorboard")
_LARGEST = 1 << 20  # bytes of a request: arguments and environment
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
_PYTHON, _CHILD_MAIN = sys.executable, "tfhalf.system.child_main"
_address = b""
"""Where the server listens; '' where there is none yet."""


class Process:
    """A command under way, with what is needed of `subprocess.Popen`."""

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
    words = tuple(map(str, arguments))
    request = {
        "arguments": words,
        "where": str(where),
        "environment": dict(os.environ if environment is None else environment),
        "new_session": new_session,
        "script": str(script or ""),
    }
    with open(os.devnull) as stdin:
        return _forked(request, [stdin.fileno(), stdout.fileno(), stderr.fileno()])


def fork_children() -> None:
    """Have `tfhalf.system.child` start tfhalf's own processes here."""
    from tfhalf.system import child

    child.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": _child})  # type: ignore[assignment]


def _child(command: Sequence[str], *, pass_fds: Sequence[int] = (), **options: Any) -> Any:
    """`subprocess.Popen` as `tfhalf.system.child.Child` calls it."""
    python, _, main, facts, module, *arguments = command
    like_others = python == _PYTHON and main == _CHILD_MAIN and module.startswith("tfhalf.")
    if not like_others or options["stdout"] == subprocess.PIPE:
        return subprocess.Popen(command, pass_fds=pass_fds, **options)
    assert facts.split(",")[:2] == [str(number) for number in pass_fds]
    request = {
        "arguments": arguments,
        "where": os.getcwd(),
        "environment": options["env"],
        "new_session": False,
        "script": "",
        "module": module,
        "limits": [(kind, *resource.getrlimit(kind)) for kind in _LIMITS],
    }
    with open(os.devnull, "r+b") as nothing:
        files = [nothing if file == subprocess.DEVNULL else file for file in (options["stdout"], options["stderr"])]
        return _forked(request, [nothing.fileno(), *(file.fileno() for file in files), *pass_fds])


def children(process: Process, module: str) -> list[int]:
    """Process ids of the processes that run ``module`` and were forked off the same server as ``process``."""
    named, server = _named(module), _parent(process.pid)
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (folder / "comm").read_text().strip() == named and _parent(folder.name) == server:
                pids.append(int(folder.name))
    return pids


def _parent(pid: int | str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]


def _named(module: str) -> str:
    """What a forked process calls itself, as the kernel keeps it."""
    return module.removeprefix("tfhalf.")[:15]


def _forked(request: Mapping[str, Any], files: list[int]) -> Process:
    global _address
    if not _address:
        _address = _started()
    ended, status = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST)  # a request is one packet
        server.connect(_address)
        socket.send_fds(server, [json.dumps(request).encode()], [*files, status])
        os.close(status)
        answer = server.recv(16)
    assert answer, "the server of processes has died"
    return Process(int(answer), tuple(request["arguments"]), ended)


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


def _started() -> bytes:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")  # to a name that the kernel chooses, in no folder
    listening.listen(64)
    lifeline, held = os.pipe()
    files = [listening.fileno(), lifeline]
    with listening:
        server = subprocess.Popen([sys.executable, __file__, *map(str, files)], pass_fds=files)
        address: bytes = listening.getsockname()
    os.close(lifeline)
    atexit.register(_end, held, server)
    return address


def _end(held: int, server: subprocess.Popen[bytes]) -> None:
    os.close(held)
    server.wait()


def _serve(listening: socket.socket, lifeline: int) -> Callable[[], object]:
    """Fork off what is requested; returns in the new process, with what it is to run.

    Raises:
        SystemExit: the process that started this one is gone.
    """
    children: dict[int, int] = {}
    ended, wakeup = os.pipe()
    for end in (ended, wakeup):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the tests end, and then this does
    while True:
        readable, _, _ = select.select([listening, ended, lifeline], [], [])
        if lifeline in readable:
            sys.exit()
        if ended in readable:
            os.read(ended, 1 << 10)
            for pid in list(children):
                _report(pid, children)
        if listening in readable:
            requests, _ = listening.accept()
            requests.settimeout(60)  # one that was stopped before it said what it wants is not waited for
            try:
                content, files, _, _ = socket.recv_fds(requests, _LARGEST, 8)
            except TimeoutError:
                content, files = b"", []
            if not content:  # who asked was killed
                requests.close()
                continue
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                held = (ended, wakeup, lifeline, *children.values(), requests.detach(), listening.detach())
                for file in held:
                    os.close(file)
                return _become(json.loads(content), files)
            children[pid] = files.pop()
            for file in files:
                os.close(file)
            with suppress(OSError):
                requests.send(str(pid).encode())
            requests.close()


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


def _become(request: dict[str, Any], files: list[int]) -> Callable[[], object]:
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in (*files[:3], files.pop()):
        os.close(file)
    if request["new_session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["where"])
    script, module, arguments = request["script"], request.get("module"), request["arguments"]
    sys.path[0] = str(Path(script).parent) if script else os.getcwd()
    sys.argv = [script or "tfhalf", *arguments]
    if script:
        return lambda: runpy.run_path(script, run_name="__main__")
    if module is None:
        return _run_command
    for kind, soft, hard in request["limits"]:
        resource.setrlimit(kind, (soft, hard))
    there = [path for path in os.environ["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
    sys.path[1:1] = there
    facts = ",".join(map(str, (*files[3:], 0)))  # its parent is the server, whose end says nothing
    return lambda: _run_child(facts, module, *arguments)


def _run_command() -> None:
    fork_children()
    runpy.run_module("tfhalf", run_name="__main__", alter_sys=True)


def _run_child(facts: str, module: str, *arguments: str) -> None:
    from tfhalf.system import child_main

    Path("/proc/self/comm").write_text(_named(module))
    fork_children()
    child_main.main(facts, module, *arguments)


def main() -> None:
    """The server, with the file descriptors of its socket and of the pipe that ends with its parent; and, forked off
    it, what is requested."""
    global _address
    listening, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _address = listening.getsockname()
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    from tfhalf.system.tensorflow import import_tensorflow

    import_tensorflow()
    for name in LIBRARIES:
        __import__(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tfhalf"]:
        del sys.modules[name]  # what a command imports of it, it imports itself
    _serve(listening, lifeline)()


if __name__ == "__main__":
    main()
