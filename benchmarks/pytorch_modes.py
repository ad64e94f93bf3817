"""The ways in which PyTorch runs a training step, and the search for the fastest of them.

A mode is one of `torch.compile`'s, or ``eager``; ``+graph`` captures the whole step after it - gathering the images,
forward, backward, loss scale, optimizer - in one CUDA graph, which is then all that the CPU launches.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from processes import end_on_sigterm, run

# Those that are quick to compile or likely to win come first: what a budget cuts off is the end.
BEST = (
    "default",
    "default+graph",
    "max-autotune-no-cudagraphs+graph",
    "reduce-overhead",
    "max-autotune-no-cudagraphs",
)
MODES = ("eager", "eager+graph", *BEST, "max-autotune")
_LEAST = 30.0  # seconds; with less than that left no mode is begun
_SHARE = 0.7  # of what is left, for one mode: one that hangs does not take all from those after it

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


def use_fast_kernels() -> None:
    """TF32 where float32 is multiplied, and cuDNN's measured choice."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True


def compiled(what: Compiled, mode: str, *, graphs: bool = True) -> Compiled:
    """``what``, a module or a function, as ``mode`` compiles it. Without ``graphs`` a mode with CUDA graphs leaves them
    away: for functions that change their arguments."""
    name = mode.removesuffix("+graph")
    if name == "eager":
        return what
    if not graphs:
        name = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(name, name)
    return torch.compile(what, mode=name, dynamic=False)  # type: ignore[return-value]


def begin_step() -> None:
    """Tell the CUDA graphs of `torch.compile` that whatever the last step's calls returned may be overwritten."""
    torch.compiler.cudagraph_mark_step_begin()


def captured(step: Callable[[], None], warm_up: int = 3, *, fresh_peak: bool = False) -> Callable[[], None]:
    """``step`` as one CUDA graph. It takes and gives nothing but what lies in tensors that stay where they are, and
    must set gradients to None before it makes new ones.

    Args:
        fresh_peak: `memory` counts from the capture on. What replays take is counted then, and not again.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):  # compiles, tries cuDNN's kernels, allocates
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    if fresh_peak:
        torch.cuda.reset_peak_memory_stats()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    torch.cuda.synchronize()
    return graph.replay


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def each_mode(
    script: str, arguments: Sequence[str], modes: Sequence[str], budget: float
) -> list[tuple[str, dict[str, Any]]]:
    """The JSON object that ``script`` prints for each mode, run one after another, each in a process of its own.

    A mode that dies, hangs or is reached with too little of ``budget`` (seconds) left has ``trouble`` and nothing else.
    """
    end_on_sigterm()
    rows: list[tuple[str, dict[str, Any]]] = []
    end = time.monotonic() + budget
    with tempfile.TemporaryDirectory(prefix="pytorch-modes-") as scratch:
        for mode in modes:
            left = end - time.monotonic()
            if left < _LEAST:
                rows.append((mode, {"trouble": f"not tried: {max(0.0, left):.0f} s of {budget:.0f} s were left"}))
                continue
            command = [sys.executable, script, *arguments, "--mode", mode]
            limit = left if mode == modes[-1] else _SHARE * left
            ended = run(command, limit, Path(scratch) / mode, echo=True)
            row = ended.result()
            if row is None:
                why = "did not end in time" if ended.code is None else f"ended with code {ended.code}"
                row = {"trouble": f"{why} after {ended.seconds:.0f} s; its errors are above"}
            row["process_s"] = round(ended.seconds, 1)
            rows.append((mode, row))
            print(f"{mode}: {row.get('trouble') or brief(row)} ({ended.seconds:.0f} s)", file=sys.stderr, flush=True)
    return rows


def without_mode(argv: list[str]) -> list[str]:
    """These arguments of a script without ``--mode``."""
    kept = list(argv)
    while "--mode" in kept:
        at = kept.index("--mode")
        del kept[at : at + 2]
    return [part for part in kept if not part.startswith("--mode=")]


def troubles(rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Why no mode can be used."""
    return "; ".join(f"{mode}: {row['trouble']}" for mode, row in rows) or "no mode was tried"


def brief(row: dict[str, Any]) -> str:
    """One row in a few words."""
    if "images_per_s" in row:
        speed = row["images_per_s"]
        return f"{speed['median']:,.0f} images/s ({speed['min']:,.0f} .. {speed['max']:,.0f})"
    seconds, accuracy = row["seconds"], row["accuracy"]
    return f"{seconds['mean']:.3f} s ({seconds['min']:.3f} .. {seconds['max']:.3f}), {accuracy['mean'] * 100:.2f} %"


def machine(device: str) -> dict[str, Any]:
    """What a row says of where it was measured."""
    gpu = device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "torch": torch.__version__,
        "cuda": torch.version.cuda if gpu else None,
        "cudnn": torch.backends.cudnn.version() if gpu else None,
    }


def forget_peak(device: str, mode: str) -> None:
    """Have `memory` count from here on. Not where ``mode`` has CUDA graphs of `torch.compile`'s own: what their replays
    take was counted when they were recorded, and would be left out."""
    if device == "cuda" and mode not in ("reduce-overhead", "max-autotune"):
        torch.cuda.reset_peak_memory_stats()


def memory(device: str) -> int | None:
    """Bytes: the most that tensors took on the GPU since `captured` or `forget_peak`, and without them since the start,
    compilation and cuDNN's trials included."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
