"""An ONNX file on a CPU, through onnxruntime, and the options of its sessions anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfhalf.runtimes.open import onnx_providers
from tfhalf.runtimes import onnx_upcast as upcast
from tfhalf.serve.runtimes.base import Arrays
from tfhalf.serve.settings import Settings

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"  # of onnxruntime


@dataclass(frozen=True)
class Graph:
    """An ONNX file that was checked: its ``path``, its bytes, what they hold (an `onnx.ModelProto`), and the file of
    weights ``beside`` it, where there is one."""

    path: Path
    blob: bytes
    model: Any
    beside: Path | None


def onnx_options(graph: Graph, settings: Settings) -> Any:
    """`onnxruntime.SessionOptions` for ``graph``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = settings.threads
    # Threads that spin while they wait would take the cores from the process that answers requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if graph.beside is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(graph.path.parent.resolve()))
    return options


class Onnx:
    """onnxruntime on the CPU, with float16 brought to float32 at load."""

    platform = "onnxruntime_onnx"
    device = "CPU"
    ladder = None

    def __init__(self, graph: Graph, settings: Settings) -> None:
        import onnxruntime

        blob, self.about = graph.blob, f"onnxruntime {onnxruntime.__version__}, CPU"
        # Weights beside the graph are too large for one message, and would be twice as large.
        if graph.beside is None and upcast.holds_float16(graph.model):
            upcast.upcast(graph.model)
            blob = graph.model.SerializeToString()
            self.about += ", float16 weights brought to float32 at load"
        if graph.beside is not None:
            self.about += f", weights in {graph.beside.name}"
        options, providers = onnx_options(graph, settings), onnx_providers("CPU")
        self._session: Any = onnxruntime.InferenceSession(blob, options, providers=providers)
        self.inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, feeds: Arrays) -> Arrays:
        return dict(zip(self.outputs, self._session.run(None, feeds), strict=True))
