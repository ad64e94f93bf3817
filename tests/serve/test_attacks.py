"""A server that is attacked stays alive, and ends when it is told to; and gRPC under bytes that are no messages."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serve_attacks import events, half_sent, measure, resident
from serve_helpers import SHAPE, make_version, server

from tfhalf.serve.protocols.grpc_messages import METHODS, SERVICE, STREAM, message

pytestmark = pytest.mark.slow

NAMES = ("many headers", "500 slow bodies")
WORST = 1.0  # seconds: of a machine that others use too; `python tests/serve_attacks.py` measures


def test_liveness_under_attack_and_an_end_amid_it(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    with server(tmp_path, "--grpc-port", 0) as served:
        for name in NAMES:
            measured = measure(served, name, 0.7)
            assert sorted(measured.seconds)[len(measured.seconds) // 2] < WORST, measured.line()
        before = resident(served.process.pid)
        open_ = half_sent(int(served.address.split(":")[1]), 200)
        started = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - started < 10
        found = events(served)
        assert not found["trace"] + found["no JSON"] + found["log"], served.log()[-2000:]
        assert found["request 431"] + found["request 503"] > 50, found
        for connection in open_:
            connection.close()
    assert before < 1000


def test_sigterm_ends_a_server_whose_files_hang(tmp_path: Path) -> None:
    make_version(tmp_path, "hung", 1)
    make_version(tmp_path, "net", 1)
    code = (
        "import sys, time; from tfhalf.serve.models import version, repository; from tfhalf.cli import main\n"
        "real = repository.read\n"
        "repository.read = lambda path: time.sleep(1000) if 'hung/1' in str(path) else real(path)\n"
        "repository._READ_SECONDS = 0.5\n"
        "main(['serve', sys.argv[1], '--port', '0', '--drain-seconds', '2'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = [line for line in iter(process.stdout.readline, "") if not line.startswith("ready") or process.terminate()]
    complained = process.communicate(timeout=20)[1]
    assert process.returncode == 0, complained
    assert any("hung/1: was not read within" in line for line in said)
    assert "Traceback" not in complained


def test_sigterm_ends_a_server_that_hangs_itself(tmp_path: Path) -> None:
    make_version(tmp_path, "net", 1)
    code = (
        "import sys, time; from tfhalf.serve import engine as infer, server; from tfhalf.cli import main\n"
        "server._FORCE_SECONDS = 0.5\n"
        "infer.Engine.drain = lambda *_: time.sleep(1000)\n"
        "main(['serve', sys.argv[1], '--port', '0', '--drain-seconds', '0.5', '-q'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    process.send_signal(signal.SIGTERM)
    complained = process.communicate(timeout=20)[1]
    assert process.returncode == 1
    assert json.loads(complained.splitlines()[-1])["forced"] is True


@pytest.mark.parametrize("hangs", [False, True])
def test_only_an_end_that_hangs_is_forced(tmp_path: Path, hangs: bool) -> None:
    """A program that goes on after the server has ended is let live; one that waits for a thread for ever is not."""
    make_version(tmp_path, "net", 1)
    code = (
        "import sys, threading, time; from tfhalf.cli import main; from tfhalf.serve import server\n"
        "server._FORCE_SECONDS = 0.2\n"
        "try: main(['serve', sys.argv[1], '--port', '0', '--drain-seconds', '0.2', '--pin', 'net=7'])\n"
        "except SystemExit as end: print(end.code, flush=True)\n"
        f"if {hangs}: threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "else: time.sleep(1); print('lives')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == ((1, "2\n") if hangs else (0, "2\nlives\n")), done.stderr
    assert ('"forced":true' in done.stderr) is hangs


def mutated(draw: random.Random, content: bytes) -> bytes:
    body = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(body) + 1)
        kind = draw.randrange(3)
        if kind == 0 and place < len(body):
            body[place] = draw.randrange(256)
        elif kind == 1:
            del body[place : place + draw.randint(1, 9)]
        else:
            body[place:place] = draw.randbytes(draw.randint(1, 9))
    return bytes(body)


def test_mutated_messages_over_grpc(tmp_path: Path) -> None:
    """Bytes that are no message are the client's fault; none is the server's."""
    import grpc

    make_version(tmp_path, "net", 1)
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, *SHAPE]}
    whole = message("ModelInferRequest")(model_name="net", inputs=[tensor], raw_input_contents=[bytes(4 * 48)])
    draw = random.Random(1)

    async def work(address: str) -> dict[str, int]:
        seen: dict[str, int] = {}
        async with grpc.aio.insecure_channel(address) as channel:
            for number in range(1500):
                name = draw.choice((*METHODS, "ModelInfer", "ModelInfer", "ModelInfer"))
                content = mutated(draw, whole.SerializeToString()) if number % 3 else draw.randbytes(40)
                code = "OK"
                try:
                    await channel.unary_unary(f"/{SERVICE}/{name}")(content, timeout=20)
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                seen[code] = seen.get(code, 0) + 1
            with pytest.raises(grpc.aio.AioRpcError, match="are not a ModelInferRequest") as error:
                await channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\xff", timeout=20)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            stream = channel.stream_stream(f"/{SERVICE}/{STREAM}")(iter([b"\xff", whole.SerializeToString()]))
            answers = [message("ModelStreamInferResponse").FromString(raw) async for raw in stream]
            assert "are not a ModelInferRequest" in answers[0].error_message
            assert answers[1].infer_response.outputs
        return seen

    with server(tmp_path, "--grpc-port", 0) as served:
        before = resident(served.process.pid)
        seen = asyncio.run(work(served.grpc))
        host, port = served.grpc.split(":")
        for begins in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                connection.sendall(begins + draw.randbytes(5000))
        assert set(seen) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNAVAILABLE"}, seen
        assert seen["INVALID_ARGUMENT"] > 300
        assert resident(served.process.pid) - before < 64
        assert not events(served)["trace"] + events(served)["fault"] + events(served)["no JSON"], served.log()[-2000:]
