"""Ways to compute attention within a program that XLA compiles: which of them work here, how fast, how exact.

    python benchmarks/attention.py --batch 256 --tokens 197 --heads 6 --width 64 --out attention.json

Each way computes outputs and gradients of [batch, tokens, heads, width] in a process of its own, since one may end it;
a line says what it gave, or why it did not. Errors are the largest beside float64, over the largest value. cuDNN's
kernels are those of `attention_cudnn.py`; PyTorch's row is scaled_dot_product_attention, where PyTorch is installed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from attention_cudnn import by_custom_call, by_module

SHOWN = 2  # rows of the batch that are compared with float64
LIMIT = 400.0  # seconds of one way
Gradients = tuple[Any, Any, Any, Any]  # output, and those of query, key and value


def drawn(options: argparse.Namespace) -> list[np.ndarray]:
    """Query, key, value and the output's gradient, float16 [batch, tokens, heads, width]."""
    shape = options.batch, options.tokens, options.heads, options.width
    return [np.random.default_rng(i).normal(size=shape).astype(np.float16) for i in range(4)]


def exact(arrays: list[np.ndarray], causal: bool) -> Gradients:
    """In float64."""
    query, key, value, upstream = (x[:SHOWN].astype(np.float64) for x in arrays)
    scale = 1 / math.sqrt(query.shape[-1])
    scores = np.einsum("btnh,bsnh->bnts", query, key) * scale
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:], bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    by_share = np.einsum("btnh,bsnh->bnts", upstream, value)
    by_score = shares * (by_share - (by_share * shares).sum(-1, keepdims=True)) * scale
    return (
        np.einsum("bnts,bsnh->btnh", shares, value),
        np.einsum("bnts,bsnh->btnh", by_score, key),
        np.einsum("bnts,btnh->bsnh", by_score, query),
        np.einsum("bnts,btnh->bsnh", shares, upstream),
    )


# --- TensorFlow -------------------------------------------------------------------------------------------------------


def _scores(query: Any, key: Any, causal: bool) -> Any:
    """The softmax's input, [batch, heads, tokens, tokens], as Keras' layers have it."""
    import tensorflow as tf

    scaled = query * tf.constant(1 / math.sqrt(query.shape[-1]), query.dtype)
    scores = tf.einsum("btnh,bsnh->bnts", scaled, key)
    if not causal:
        return scores
    seen = tf.linalg.band_part(tf.ones(scores.shape[-2:], tf.bool), -1, 0)
    return tf.where(seen, scores, tf.constant(scores.dtype.min, scores.dtype))


def plain(query: Any, key: Any, value: Any, causal: bool) -> Any:
    """Products and a softmax, whose shares are kept for the gradient."""
    import tensorflow as tf

    shares = tf.cast(tf.nn.softmax(tf.cast(_scores(query, key, causal), tf.float32)), query.dtype)
    return tf.einsum("bnts,bsnh->btnh", shares, value)


def again(query: Any, key: Any, value: Any, causal: bool) -> Any:
    """The same, of which nothing but query, key and value is kept."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    @tf.custom_gradient
    def attention(query: Any, key: Any, value: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            # Behind a barrier, else XLA finds that it has the shares already, and keeps them.
            kept = gen_xla_ops.xla_optimization_barrier([query, key, value, upstream])
            with tf.GradientTape() as tape:
                tape.watch(kept[:3])
                output = plain(*kept[:3], causal)
            return tape.gradient(output, kept[:3], kept[3])

        return plain(query, key, value, causal), gradient

    return attention(query, key, value)


def tensorflow(way: Callable[..., Any], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of outputs and gradients, bytes at the peak, and errors."""
    import tensorflow as tf

    tensors = [tf.constant(x) for x in drawn(options)]

    @tf.function(jit_compile=True, autograph=False)
    def both(query: Any, key: Any, value: Any, upstream: Any) -> Gradients:
        with tf.GradientTape() as tape:
            tape.watch([query, key, value])
            output = way(query, key, value, options.causal)
        return output, *tape.gradient(output, [query, key, value], upstream)

    begun = time.perf_counter()
    results = [x.numpy() for x in both(*tensors)]
    compiled = time.perf_counter() - begun
    gpu = bool(tf.config.list_physical_devices("GPU"))
    if gpu:
        tf.config.experimental.reset_memory_stats("GPU:0")
    ms = timed(lambda: both(*tensors), options)
    peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpu else None
    return {"first_s": compiled, "ms": ms, "peak_bytes": peak,
            **errors(results, options)}  # fmt: skip


def pytorch(options: argparse.Namespace) -> dict[str, Any]:
    """The same by scaled_dot_product_attention."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    query, key, value, upstream = (torch.from_numpy(x).to(device).transpose(1, 2) for x in drawn(options))
    inputs = [x.detach().requires_grad_() for x in (query, key, value)]

    def both() -> Any:
        output = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=options.causal)
        return output, *torch.autograd.grad(output, inputs, upstream)

    results = [x.detach().transpose(1, 2).cpu().numpy() for x in both()]
    ms = timed(both, options)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"ms": ms, "peak_bytes": peak, **errors(results, options)}


def timed(both: Callable[[], Any], options: argparse.Namespace) -> float:
    """Milliseconds of a call, the median of some rounds; each ends when a number of its last result is there."""
    times = []
    for _ in range(options.rounds):
        begun = time.perf_counter()
        for _ in range(options.repeat):
            last = both()
        float(last[1][0, 0, 0, 0])
        times.append((time.perf_counter() - begun) / options.repeat)
    return 1000 * float(np.median(times))


def errors(results: list[np.ndarray], options: argparse.Namespace) -> dict[str, float]:
    """The largest difference of each result from float64, over the largest value."""
    names = ("output", "query", "key", "value")
    truth = exact(drawn(options), options.causal)
    return {
        f"error_{name}": float(np.abs(mine[:SHOWN].astype(np.float64) - right).max() / np.abs(right).max())
        for name, mine, right in zip(names, results, truth, strict=True)
    }


WAYS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "plain": lambda options: tensorflow(plain, options),
    "worked out again": lambda options: tensorflow(again, options),
    "cuDNN, custom call": lambda options: tensorflow(by_custom_call, options),
    "cuDNN, module": lambda options: tensorflow(by_module, options),
    "PyTorch": pytorch,
}


def apart(way: str) -> dict[str, Any]:
    """What this script gives of ``way`` in a process of its own, or why nothing."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"way": way, "trouble": f"no end after {LIMIT:.0f} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"way": way, "trouble": f"code {done.returncode}: {said[-1][:300] if said else 'no word'}"}
    return dict(json.loads(lines[-1]))


def main() -> None:
    """Print a line for each way, and all of them last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("batch", 256), ("tokens", 197), ("heads", 6), ("width", 64), ("repeat", 20), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--causal", action="store_true")
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.way:
        print(json.dumps({"way": options.way, **WAYS[options.way](options)}))
        return
    rows = []
    for way in WAYS:
        rows.append(apart(way))
        print(json.dumps(rows[-1]), flush=True)
        if options.out:
            options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
