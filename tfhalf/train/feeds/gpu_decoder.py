"""JPEGs decoded by the GPU: nvImageCodec, which has them done by the hardware decoder where the GPU has one.

Images that are not plain, larger than the canvas, or that it does not decode go to the CPU one by one.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tfhalf.data.decode.canvas import Canvas
from tfhalf.data.decode.header import jpeg
from tfhalf.data.decode.reading import Reading
from tfhalf.data.decode.threads import parallel
from tfhalf.system.cuda import Cuda, CudaError

# Pixels like libjpeg's: chroma is interpolated, not repeated.
_OPTIONS = ":fancy_upsampling=1"
_THREADS = 8  # of a decoder, each with a stream: beside a training the GPU lets a stream wait
_BATCH = 256  # images that the library has at once: its engines are busy, and its memory is bounded


class Unavailable(Exception):  # noqa: N818  says why, and is caught
    """Nothing decodes on the GPU here."""


@contextmanager
def _silence() -> Iterator[None]:
    """Within the block nothing that a library writes to the terminal is seen: nvImageCodec names all formats that it
    would read if more of NVIDIA's libraries were there."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


class GpuDecoder:
    """Decodes onto canvases in the memory of ``gpu``. Threads share it; each has a decoder of the library of its own.

    Raises:
        Unavailable: nvImageCodec is not installed, or does not run here.
    """

    def __init__(self, canvas: Canvas, gpu: Cuda) -> None:
        self._canvas, self._gpu, self._reading = canvas, gpu, Reading(canvas.items)
        try:
            with _silence():
                self._library = importlib.import_module("nvidia.nvimgcodec")
        except ImportError as error:
            raise Unavailable("nvImageCodec is not installed") from error
        kind = self._library.SampleFormat.I_RGB if canvas.channels == 3 else self._library.SampleFormat.I_Y
        colours = self._library.ColorSpec.SRGB if canvas.channels == 3 else self._library.ColorSpec.GRAY
        # Images that are turned by their Exif go to the CPU.
        self._params = self._library.DecodeParams(apply_exif_orientation=False, color_spec=colours, sample_format=kind)
        self._own = threading.local()
        try:
            self._decoder()
        except (RuntimeError, ValueError, CudaError) as error:
            raise Unavailable(f"nvImageCodec does not run: {error}"[:200]) from error

    def __call__(self, indices: np.ndarray, address: int, sides: np.ndarray, stream: int) -> None:
        """Begin to fill canvases.

        Args:
            indices: [n], of the source's images.
            address: of uint8 [n, *canvas.item] on the GPU.
            sides: int32 [n, 2], which get heights and widths.
            stream: on which copies to the canvases are put.

        Raises:
            DataError: names the first image that cannot be decoded.
        """
        for start in range(0, len(indices), _BATCH):
            part = slice(start, min(start + _BATCH, len(indices)))
            self._some(indices[part], address + start * int(np.prod(self._canvas.item)), sides[part], stream)

    def _some(self, indices: np.ndarray, address: int, sides: np.ndarray, stream: int) -> None:
        canvas = self._canvas
        encoded: list[Any] = list(self._reading(indices))
        plain = np.zeros(len(indices), bool)
        for i, data in enumerate(encoded):
            header = jpeg(data)
            if header is not None and canvas.fits(header) and not header.progressive:
                plain[i], sides[i] = True, (header.height, header.width)
                encoded[i] = self._library.CodeStream(data)
        places, odd = np.flatnonzero(plain).tolist(), np.flatnonzero(~plain).tolist()
        for i, image in zip(places, self._decode([encoded[i] for i in places], stream), strict=True):
            if image is None or tuple(image.shape) != (*sides[i], canvas.channels):
                odd.append(i)
                encoded[i] = None
            else:
                self._copy(image, address, i, stream)
        self._on_cpu(sorted(odd), indices, encoded, address, sides, stream)
        # The library's memory is used again, and pixels of the CPU are let go.
        self._gpu.synchronize(stream)

    def _decode(self, streams: list[Any], stream: int) -> list[Any]:
        """The library's images, which belong to this thread until its next call; None of what it does not decode."""
        if not streams:
            return []
        decoder = self._decoder()
        held = self._own.images[: len(streams)]
        reused = held if len(held) == len(streams) and all(image is not None for image in held) else None
        images: list[Any] = decoder.decode(streams, images=reused, params=self._params, cuda_stream=stream)
        if len(images) > len(self._own.images) or reused is None:
            self._own.images = images
        return images

    def _copy(self, image: Any, address: int, i: int, stream: int) -> None:
        height, width, channels = image.shape
        facts = image.__cuda_array_interface__
        pitch = facts["strides"][0] if facts.get("strides") else width * channels
        row = self._canvas.sides[1] * channels
        target = address + i * row * self._canvas.sides[0]
        self._gpu.rows(facts["data"][0], pitch, target, row, width * channels, height, stream)

    def _on_cpu(
        self, odd: list[Any], indices: np.ndarray, encoded: list[Any], address: int, sides: np.ndarray, stream: int
    ) -> None:
        """Decode images ``odd`` by the CPU, into their canvases."""
        canvas, row = self._canvas, self._canvas.sides[1] * self._canvas.channels
        held: list[Any] = [None] * len(odd)

        def one(k: int) -> None:
            i = int(odd[k])
            data = encoded[i] if isinstance(encoded[i], bytes) else None
            image = held[k] = np.ascontiguousarray(canvas.image(int(indices[i]), data))
            sides[i] = image.shape[:2]
            width = image.shape[1] * canvas.channels
            target = address + i * row * canvas.sides[0]
            self._gpu.rows(image.ctypes.data, width, target, row, width, image.shape[0], stream, from_host=True)

        try:
            parallel(one, len(odd))
        finally:
            if odd:
                self._gpu.synchronize(stream)  # before ``held`` is let go

    def _decoder(self) -> Any:
        """This thread's decoder: one is used by one thread at a time."""
        if not hasattr(self._own, "decoder"):
            self._gpu.enter()
            kinds = self._library.BackendKind
            backends = [
                self._library.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)
            ]
            self._own.decoder = self._library.Decoder(
                device_id=self._gpu.number, max_num_cpu_threads=_THREADS, backends=backends, options=_OPTIONS
            )
            self._own.images = []
        return self._own.decoder
