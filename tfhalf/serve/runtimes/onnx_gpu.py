"""An ONNX file on a GPU, through onnxruntime: a session for each batch size."""

from __future__ import annotations

from typing import Any

from tfhalf.runtimes.open import onnx_providers
from tfhalf.serve.runtimes.base import Arrays
from tfhalf.serve.runtimes.onnx_cpu import Graph, onnx_options
from tfhalf.serve.settings import Settings

COPIES_BYTES = 2**31  # that the weights of all sessions together may take on the GPU


class OnnxGpu:
    """onnxruntime on TensorRT or CUDA.

    A session plans each convolution anew whenever the batch size is another than in its last call: on an H200 that took
    a quarter of a second for a net of eight convolutions. So each size has a session of its own, opened when it is
    first asked for, which the warm-up does. Sessions cannot share weights on a GPU (onnxruntime 1.31 refuses such
    initializers), so nets with large ones get fewer sizes.

    Attributes:
        device: ``CPU`` where neither could be started; this is not to be used then.
    """

    platform = "onnxruntime_onnx"

    def __init__(self, graph: Graph, settings: Settings) -> None:
        import onnxruntime

        self._graph, self._options = graph, onnx_options(graph, settings)
        self._options.intra_op_num_threads = 1  # of each session; little is left to the CPU
        weights = (graph.beside or graph.path).stat().st_size
        self.ladder: tuple[int, ...] = affordable(settings.batching.ladder, weights)
        first = self._open()
        self._sessions: dict[int, Any] = {self.ladder[-1]: first}
        self.device = first.get_providers()[0].removesuffix("ExecutionProvider")
        self.about = f"onnxruntime {onnxruntime.__version__}, {self.device}, {len(self.ladder)} batch sizes"
        if graph.beside is not None:
            self.about += f", weights in {graph.beside.name}"
        self.inputs = [value.name for value in first.get_inputs()]
        self.outputs = [value.name for value in first.get_outputs()]

    def __call__(self, feeds: Arrays) -> Arrays:
        rows = len(next(iter(feeds.values())))
        if rows not in self._sessions and rows in self.ladder:
            self._sessions[rows] = self._open()
        session = self._sessions.get(rows, self._sessions[self.ladder[-1]])
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in self.outputs:
            binding.bind_output(name)  # to memory of the host, which is where it is sent from
        session.run_with_iobinding(binding)
        return dict(zip(self.outputs, binding.copy_outputs_to_cpu(), strict=True))

    def _open(self) -> Any:
        import onnxruntime

        providers = onnx_providers("Tensorrt", "CUDA", "CPU")
        return onnxruntime.InferenceSession(self._graph.blob, self._options, providers=providers)


def affordable(ladder: tuple[int, ...], weights: int) -> tuple[int, ...]:
    """As many sizes of ``ladder`` as there may be copies of ``weights`` bytes, evenly spread; the smallest and the
    largest always."""
    count = max(2, min(len(ladder), COPIES_BYTES // max(weights, 1)))
    last = len(ladder) - 1
    return tuple(sorted({ladder[round(i * last / (count - 1))] for i in range(count)}))
