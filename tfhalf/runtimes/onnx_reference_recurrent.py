"""LSTM, GRU and RNN for `tfhalf.runtimes.onnx_reference`, by the text of the ONNX operators.

ONNX's reference evaluator takes sigmoid and tanh whatever activations a node names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

_Function = Callable[[np.ndarray], np.ndarray]
_PLAIN: dict[str, _Function] = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "softplus": lambda x: np.logaddexp(x, 0),
}
# Those that take an alpha (and a beta), and what these are by default.
_SCALED: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
    "hardsigmoid": (lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), (0.2, 0.5)),
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "scaledtanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), (1.0, 1.0)),
    "leakyrelu": (lambda x, alpha: np.where(x < 0, alpha * x, x), (0.01,)),
    "thresholdedrelu": (lambda x, alpha: np.where(x > alpha, x, 0), (1.0,)),
    "elu": (lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x), (1.0,)),
}


class _Recurrent(OpRun):
    """``x`` [T, N, D] through ``w`` [directions, gates * H, D] and ``r`` [directions, gates * H, H]; all steps
    [T, directions, N, H] and the last state, or states, [directions, N, H]."""

    op_domain = ""
    usual: tuple[str, ...] = ()

    def _run(
        self,
        x: Any,
        w: Any,
        r: Any,
        b: Any = None,
        lengths: Any = None,
        h: Any = None,
        c: Any = None,
        p: Any = None,
        activation_alpha: Any = None,
        activation_beta: Any = None,
        activations: Any = None,
        clip: Any = None,
        direction: Any = None,
        hidden_size: Any = None,
        input_forget: Any = None,
        layout: Any = None,
        linear_before_reset: Any = None,
    ) -> tuple[Any, ...]:
        unsupported = {
            "clip": clip,
            "input_forget": input_forget,
            "layout": layout,
            "a length of each sequence": lengths,
        }
        if others := [name for name, value in unsupported.items() if value is not None and np.any(value)]:
            raise ValueError(f"{type(self).__name__} with {others[0]} is not supported in true float16")
        ways, width, batch = len(w), r.shape[-1], x.shape[1]
        functions = _functions(activations or self.usual * ways, activation_alpha or (), activation_beta or ())
        steps, last = [], []
        for way in range(ways):
            backwards = direction == "reverse" or way == 1
            bias = np.zeros((2, len(w[way])), x.dtype) if b is None else b[way].reshape(2, -1)
            states = [np.zeros((batch, width), x.dtype) if s is None else s[way] for s in (h, c)]
            peepholes = np.zeros((3, width), x.dtype) if p is None else p[way].reshape(3, -1)
            of_way = functions[way * len(self.usual) : (way + 1) * len(self.usual)]
            seen = []
            for step in x[::-1] if backwards else x:
                inner, outer = step @ w[way].T + bias[0], (states[0] @ r[way].T, bias[1], r[way])
                states = self._step(inner, outer, states, of_way, peepholes, bool(linear_before_reset))
                seen.append(states[0])
            steps.append(np.stack(seen[::-1] if backwards else seen))
            last.append(states)
        return (np.stack(steps, 1), *(np.stack(of_ways) for of_ways in zip(*last, strict=True)))[: self.outputs]

    @property
    def outputs(self) -> int:
        """How many outputs the node has."""
        return len(self.onnx_node.output)

    def _step(
        self, inner: Any, outer: Any, states: Any, functions: Sequence[_Function], peepholes: Any, linear: bool
    ) -> list[np.ndarray]:
        """The states after a step: ``inner`` is what its input gives, ``outer`` what the state gives, the bias of that
        and the recurrent weights."""
        raise NotImplementedError


class LSTM(_Recurrent):
    """Gates i, o, f and c."""

    usual = ("Sigmoid", "Tanh", "Tanh")

    def _step(
        self, inner: Any, outer: Any, states: Any, functions: Sequence[_Function], peepholes: Any, linear: bool
    ) -> list[np.ndarray]:
        f, g, last = functions
        i, o, forget, c = np.split(inner + outer[0] + outer[1], 4, -1)
        cell = f(forget + peepholes[2] * states[1]) * states[1] + f(i + peepholes[0] * states[1]) * g(c)
        return [f(o + peepholes[1] * cell) * last(cell), cell]


class GRU(_Recurrent):
    """Gates z, r and h."""

    usual = ("Sigmoid", "Tanh")

    def _step(
        self, inner: Any, outer: Any, states: Any, functions: Sequence[_Function], peepholes: Any, linear: bool
    ) -> list[np.ndarray]:
        f, g = functions
        of_state, bias, weights = outer
        (xz, xr, xh), (hz, hr, hh) = np.split(inner, 3, -1), np.split(of_state + bias, 3, -1)
        z, reset = f(xz + hz), f(xr + hr)
        candidate = reset * hh if linear else (reset * states[0]) @ np.split(weights, 3)[2].T + np.split(bias, 3)[2]
        return [(1 - z) * g(xh + candidate) + z * states[0]]


class RNN(_Recurrent):
    """One sum."""

    usual = ("Tanh",)

    def _step(
        self, inner: Any, outer: Any, states: Any, functions: Sequence[_Function], peepholes: Any, linear: bool
    ) -> list[np.ndarray]:
        return [functions[0](inner + outer[0] + outer[1])]


RECURRENT: dict[str, type[OpRun]] = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN}


def _functions(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[_Function]:
    """The activations by name; those that take an alpha or a beta take the next one that is given, as onnxruntime.

    Raises:
        ValueError: one is unknown.
    """
    left = [list(alphas), list(betas)]
    functions: list[_Function] = []
    for name in names:
        key = name.lower()
        if key in _PLAIN:
            functions.append(_PLAIN[key])
            continue
        if key not in _SCALED:
            raise ValueError(f"the activation {name} is not supported in true float16")
        function, usual = _SCALED[key]
        scales = [kind.pop(0) if kind else number for kind, number in zip(left, usual, strict=False)]
        functions.append(lambda x, function=function, scales=scales: function(x, *scales))  # type: ignore[misc]
    return functions
