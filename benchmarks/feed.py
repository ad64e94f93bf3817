"""How fast JPEGs reach training: the decoding libraries alone, the feed alone, the step alone, and all of it at once.

    python benchmarks/feed.py --images 5120 --out feed.json

In one process, one part after another, on an idle machine; each line is a part, a table comes last. JPEGs are made as
`feed_images.py` makes them. The net is ResNet-50 of `models/`, mixed_float16; ``--small`` is for a try without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import feed_images
import tensorflow as tf

from tfhalf import config
from tfhalf.data.crop import OnCanvas
from tfhalf.data.decode import fast
from tfhalf.data.decode.header import jpeg
from tfhalf.data.decode.threads import THREADS
from tfhalf.progress import Progress
from tfhalf.system.device import detect, grow_memory
from tfhalf.train.feeds.canvases import canvases_of
from tfhalf.train.feeds.gpu_decoder import _OPTIONS
from tfhalf.train.feeds.streamed import AHEAD
from tfhalf.train.job import Places, prepare
from tfhalf.train.program import TrainProgram
from tfhalf.train.state import TrainState

ROOT = Path(__file__).resolve().parents[1]


class Bench:
    """Parts by name, each a rate in images a second; one that fails is named and left out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rates = options, {}
        self.start = time.perf_counter()
        self.facts: dict[str, Any] = {"device": detect().describe(), "threads": THREADS, "batch": options.batch}

    def part(self, name: str, run: Callable[[], float | dict[str, Any]]) -> None:
        """Run one part; a dict are facts."""
        if time.perf_counter() - self.start > self.options.minutes * 60:
            print(json.dumps({"part": name, "left out": "no time"}), flush=True)
            return
        begun = time.perf_counter()
        try:
            result = run()
        except Exception as error:  # noqa: BLE001  one part's trouble is not the next one's
            traceback.print_exc(limit=-3)
            print(json.dumps({"part": name, "trouble": f"{type(error).__name__}: {error}"[:300]}), flush=True)
            return
        (self.facts if isinstance(result, dict) else self.rates)[name] = result
        line = {"part": name, "images_per_s" if not isinstance(result, dict) else "facts": result}
        print(json.dumps({**line, "took_s": round(time.perf_counter() - begun, 1)}), flush=True)
        if self.options.out:
            self.options.out.write_text(json.dumps({**self.facts, "rates": self.rates}, indent=2))


def rate(calls: Iterator[int], seconds: float) -> float:
    """Images a second over ``seconds``, after one call that counts for nothing."""
    next(calls)
    begun, done = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        done += next(calls)
    return round(done / passed, 1)


def library_cpu(data: list[bytes], at_least: int, seconds: float) -> float:
    """simplejpeg in threads: whole images, or by the DCT down to ``at_least`` pixels."""
    import simplejpeg

    def some(part: list[bytes]) -> int:
        for one in part:
            simplejpeg.decode_jpeg(one, min_height=at_least, min_width=at_least)
        return len(part)

    def calls(pool: ThreadPoolExecutor) -> Iterator[int]:
        parts = [data[start : start + 8] for start in range(0, len(data), 8)]
        while True:
            yield sum(pool.map(some, parts))

    with ThreadPoolExecutor(THREADS) as pool:
        return rate(calls(pool), seconds)


def library_gpu(data: list[bytes], options: str, seconds: float, reuse: bool, threads: int) -> float:
    """nvImageCodec, batches of 256, ``threads`` decoders at once."""
    from nvidia import nvimgcodec

    kinds = nvimgcodec.BackendKind
    params = nvimgcodec.DecodeParams(apply_exif_orientation=False)
    backends = [nvimgcodec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)]

    def calls() -> Iterator[int]:
        decoder = nvimgcodec.Decoder(device_id=0, max_num_cpu_threads=2, backends=backends, options=options)
        images = None
        while True:
            for start in range(0, len(data) - 255, 256):
                streams = [nvimgcodec.CodeStream(one) for one in data[start : start + 256]]
                images = decoder.decode(streams, images=images if reuse else None, params=params)
                yield sum(image is not None for image in images)

    with ThreadPoolExecutor(threads) as pool:
        return round(sum(pool.map(lambda _: rate(calls(), seconds), range(threads))), 1)


def feed_alone(images: Any, order: np.ndarray, seconds: float) -> float:
    """Blocks of one step, brought by as many threads as training has, and let go."""
    canvases = canvases_of(images)

    def calls(pool: ThreadPoolExecutor) -> Iterator[int]:
        coming = []
        for i in range(10**9):
            rows = order[i % len(order)][None]
            coming.append(pool.submit(canvases.bring, rows, 1))
            if len(coming) > AHEAD:
                coming.pop(0).result()
                yield rows.size

    with ThreadPoolExecutor(AHEAD) as pool:
        return rate(calls(pool), seconds)


def training(program: TrainProgram, steps: int, seconds: float) -> float:
    """Calls of ``steps`` steps, each announced before, as training makes them."""

    def calls() -> Iterator[int]:
        first = 0
        for epoch in range(10**9):
            order = program.order(epoch)
            starts = range(0, len(order) - steps + 1, steps)
            for start in starts:
                after = (start + steps) % (len(starts) * steps)
                following = order if after else program.order(epoch + 1)
                program.feed.announce(following[after : after + steps])
                result = program.feed(order[start : start + steps], epoch, first)
                assert result.steps == steps, "too many steps were skipped"
                assert np.isfinite(result.loss[result.finite]).all()
                first += steps
                yield steps * program.batch_size

    return rate(calls(), seconds)


def program_of(folder: Path, options: argparse.Namespace, data: dict[str, Any], steps: int) -> TrainProgram:
    """The compiled training of ResNet-50 on ``data``."""
    size = options.size
    settings = {
        "name": "feed",
        "model": {"build": "models/resnet.py:build", "args": {"depth": options.depth, "stem": "large"}},
        "data": {"normalize": {"mean": [124.0, 116.0, 104.0], "std": [58.0, 57.0, 57.0]}, "validation": 0,
                 "image_size": [size, size], "test": 0.01, **data},
        "train": {"epochs": 1, "batch_size": options.batch, "optimizer": {"learning_rate": 0.01}},
        "precision": {"policy": "mixed_float16"},
    }  # fmt: skip
    pipeline = config.Pipeline.model_validate(json.loads(json.dumps(settings)))
    places = Places(ROOT / "feed.yaml", folder, folder)
    job = prepare(pipeline, places, Progress(quiet=True))
    program = TrainProgram(job, TrainState(job), detect())
    begun = time.perf_counter()
    program.compile()
    print(json.dumps({"compile_s": round(time.perf_counter() - begun, 1), "feed": program.feed_reason}), flush=True)
    return program


def differences(images: Any, count: int) -> dict[str, Any]:
    """Levels between the GPU's pixels and the CPU's."""
    gpu, cpu = (canvases_of(replace(images, canvas=replace(images.canvas, decoder=kind))) for kind in ("gpu", "cpu"))
    rows = np.arange(count, dtype=np.int32)[None]
    one, lease = gpu.bring(rows, 1)
    other, lease_2 = cpu.bring(rows, 1)
    a, b, sides = one.pixels.numpy()[0].astype(int), other.pixels.numpy()[0].astype(int), one.sides.numpy()[0]
    same = bool(np.array_equal(sides, other.sides.numpy()[0]))
    gaps = np.concatenate([np.abs(x[:h, :w] - y[:h, :w]).ravel() for x, y, (h, w) in zip(a, b, sides, strict=True)])
    del lease, lease_2
    counts = {f"above_{level}": float((gaps > level).mean().round(6)) for level in (0, 1, 2, 4, 8)}
    return {"same_sides": same, "mean": float(gaps.mean().round(4)), "most": int(gaps.max()), **counts}


def crop_alone(program: TrainProgram, images: Any, seconds: float) -> float:
    """The step with its crop on one batch of canvases that stays on the device: what decoding does not slow."""
    canvases = canvases_of(replace(images, canvas=replace(images.canvas, decoder="cpu")))
    block = program.feed.block
    brought, lease = canvases.bring(program.order(0)[:block], block)

    class Held:
        def bring(self, rows: np.ndarray, steps: int) -> tuple[OnCanvas, Any]:
            return brought, lease

    before, program.feed.canvases = program.feed.canvases, Held()
    try:
        return training(program, min(4 * block, len(program.order(0))), seconds)
    finally:
        program.feed.canvases = before


def main() -> None:
    """Measure every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=6, help="of each part")
    parser.add_argument("--minutes", type=float, default=8, help="after which no part begins")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "feed-jpegs")
    parser.add_argument("--small", action="store_true", help="ResNet-18 at 64 px")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    options.size, options.depth = (64, 18) if options.small else (224, 50)
    begun = time.perf_counter()
    files = feed_images.write(options.folder, options.images, 16, THREADS)
    grow_memory()
    bench = Bench(options)
    data = [file.read_bytes() for file in files]
    bench.facts |= {"images": len(data), "bytes_each": int(np.mean([len(one) for one in data]))}
    print(json.dumps({**bench.facts, "made_in_s": round(time.perf_counter() - begun, 1)}), flush=True)
    assert fast.library() is not None
    assert all(jpeg(one).plain for one in data[:64])
    gpu = bool(tf.config.list_logical_devices("GPU"))
    libraries(bench, data, gpu)
    with tempfile.TemporaryDirectory() as runs:
        measure(bench, Path(runs), gpu)
    table(bench)


def libraries(bench: Bench, data: list[bytes], gpu: bool) -> None:
    """The parts without tfhalf."""
    half, size = bench.options.seconds / 2, bench.options.size
    bench.part("library CPU, whole", lambda: library_cpu(data, 0, half))
    bench.part("library CPU, DCT-scaled", lambda: library_cpu(data, size, half))
    if not gpu:
        return
    bench.part("library GPU", lambda: library_gpu(data, _OPTIONS, half, True, 1))
    bench.part("library GPU, two decoders", lambda: library_gpu(data, _OPTIONS, half, True, 2))
    bench.part("library GPU, new memory", lambda: library_gpu(data, _OPTIONS, half, False, 1))
    bench.part("library GPU, plain upsampling", lambda: library_gpu(data, "", half, True, 1))


def measure(bench: Bench, runs: Path, gpu: bool) -> None:
    """The parts that need the net."""
    options, seconds = bench.options, bench.options.seconds
    of_files = {"source": f"folder:{options.folder}", "augment": {"resized_crop": {}, "flip": "random"}}
    program = program_of(runs, options, of_files, 1)
    images = program.feed.x
    bench.facts["canvas"] = list(images.canvas.sides)
    for kind in ("cpu", "gpu") if gpu else ("cpu",):
        own = replace(images, canvas=replace(images.canvas, decoder=kind))
        order = program.order(0)
        bench.part(f"feed {kind.upper()}", lambda own=own, order=order: feed_alone(own, order, seconds / 2))
    if gpu:
        bench.part("difference", lambda: differences(images, min(256, len(images))))
    bench.part("step with crop", lambda: crop_alone(program, images, seconds))
    for kind in ("cpu", "gpu") if gpu else ("cpu",):

        def whole(kind: str = kind) -> float:
            program.feed.canvases = canvases_of(replace(images, canvas=replace(images.canvas, decoder=kind)))
            return training(program, min(16, len(program.order(0))), seconds * 2)

        bench.part(f"training {kind.upper()}", whole)
    synthetic = f"synthetic:{options.size}x{options.size}x3"
    count = {"train": 16 * options.batch, "test": 64, "classes": 16}
    resident = {"source": synthetic, "args": count, "augment": {"flip": "random"}, "test": 0.2}
    other = program_of(runs, options, resident, 1)
    bench.part("step from memory", lambda: training(other, len(other.order(0)), seconds))


def table(bench: Bench) -> None:
    """Every part beside the step that takes its images from memory."""
    step = bench.rates.get("step from memory")
    print(f"\n{'part':32}{'images/s':>10}{'of the step':>13}")
    for name, value in bench.rates.items():
        print(f"{name:32}{value:>10,.0f}{f'{value / step:.3f}' if step else '-':>13}")
    print(json.dumps({**bench.facts, "rates": bench.rates}))


if __name__ == "__main__":
    main()
