"""An ONNX classifier behind MLServer, BentoML or the KServe SDK, each as its own documentation would have it.

Run by `serve_rivals.py` with the Python of an environment where that server is installed beside onnxruntime:

    PYTHON serve_rival_servers.py mlserver|bentoml|kserve MODEL.onnx HTTP_PORT GRPC_PORT THREADS MAX_BATCH

Each batches as it can: MLServer by `max_batch_size` and `max_batch_time`, BentoML by `batchable`; the KServe SDK has no
batching of its own (its batcher is a container beside it). MLServer computes in its own process, which is best with one
model: `parallel_workers` 0 spares it a copy of each request. Access logs are off, as for tfhalf.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT = "probabilities"


def session(path: str, threads: int) -> Any:
    """The session that all of them compute with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


_MLSERVER = """
import asyncio, sys
sys.path.insert(0, {here!r})
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from serve_rival_servers import OUTPUT, session

class Onnx(MLModel):
    async def load(self):
        self.session = session({path!r}, {threads})
        return True

    async def predict(self, payload):
        feeds = {{"image": NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)}}
        (y,) = await asyncio.to_thread(self.session.run, [OUTPUT], feeds)  # the event loop reads on meanwhile
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(OUTPUT, y)])
"""


def mlserver(path: str, http: int, grpc: int, threads: int, max_batch: int) -> None:
    """MLServer, started by its own command, with a runtime of one's own: none of its packages is for ONNX."""
    folder = tempfile.mkdtemp()
    here = str(Path(__file__).resolve().parent)
    Path(folder, "runtime.py").write_text(_MLSERVER.format(here=here, path=path, threads=threads))
    server = {"debug": False, "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_endpoint": None}
    Path(folder, "settings.json").write_text(json.dumps({**server, "parallel_workers": 0}))
    model = {"name": "model", "implementation": "runtime.Onnx", "max_batch_size": max_batch, "max_batch_time": 0.002}
    Path(folder, "model-settings.json").write_text(json.dumps(model))
    os.execv(sys.executable, [sys.executable, "-c", "from mlserver.cli import main; main()", "start", folder])


def kserve(path: str, http: int, grpc: int, threads: int, max_batch: int) -> None:
    """The KServe SDK."""
    from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

    class Onnx(Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__("model")
            self.session = session(path, threads)
            self.ready = True

        async def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> Any:
            x = payload.inputs[0].as_numpy()
            (y,) = await asyncio.to_thread(self.session.run, [OUTPUT], {"image": x.astype(np.float32, copy=False)})
            output = InferOutput(name=OUTPUT, shape=list(y.shape), datatype="FP32")
            output.set_data_from_numpy(y, binary_data=True)
            return InferResponse(
                response_id=payload.id or "0", use_binary_outputs=True, model_name="model", infer_outputs=[output]
            )

    server = ModelServer(http_port=http, grpc_port=grpc, workers=1, enable_grpc=True, access_log_format=None)
    server.start([Onnx()])


_BENTO = """
import sys
sys.path.insert(0, {here!r})
import bentoml, numpy as np
from serve_rival_servers import OUTPUT, session

@bentoml.service(workers=1, traffic={{"timeout": 60}}, logging={{"access": {{"enabled": False}}}})
class Onnx:
    def __init__(self):
        self.session = session({path!r}, {threads})

    @bentoml.api(batchable=True, max_batch_size={max_batch}, max_latency_ms=60000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run([OUTPUT], {{"image": x.astype(np.float32, copy=False)}})[0]
"""


def bentoml(path: str, http: int, grpc: int, threads: int, max_batch: int) -> None:
    """BentoML, started by its own command."""
    folder = tempfile.mkdtemp()
    here = str(Path(__file__).resolve().parent)
    text = _BENTO.format(here=here, path=path, threads=threads, max_batch=max_batch)
    Path(folder, "service.py").write_text(text)
    os.chdir(folder)
    os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": folder}
    command = ["-m", "bentoml", "serve", "service:Onnx", "--host", "127.0.0.1", "--port", str(http)]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    kind, model, *numbers = sys.argv[1:]
    {"mlserver": mlserver, "kserve": kserve, "bentoml": bentoml}[kind](str(Path(model).resolve()), *map(int, numbers))
