"""A SavedModel's answers to texts, which it looks up itself, beside its answers to the numbers of their words."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import numpy as np

from tfhalf.artifacts.comparison import Comparison, Limits
from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.record import Manifest
from tfhalf.artifacts.reference import Arrays, Reference
from tfhalf.runtimes.open import open_predictor
from tfhalf.verify.compare import compare_outputs

LIMITS = Limits(max_difference=1e-6, mean_difference=1e-6, min_agreement=100.0)
"""The same weights compute the same numbers."""
_CATEGORIES = 16


def compare_texts(directory: Path, manifest: Manifest, lookups: Lookups, reference: Reference) -> Comparison:
    """The comparison, on the texts that lie in the version and edge texts; inputs that are no texts take samples of
    ``reference``.

    Raises:
        ArtifactError: the SavedModel does not open or run, or takes no texts.
    """
    start = time.perf_counter()
    usual = {name: _usual(lookup) for name, lookup in lookups.by_input.items()}
    edges = {name: edge_texts(lookup) for name, lookup in lookups.by_input.items()}
    rows, more = (max(map(len, texts.values())) for texts in (usual, edges))
    texts = {name: _repeated(usual[name], rows) + _repeated(edges[name], more) for name in usual}
    others = {
        name: np.resize(x, (rows + more, *x.shape[1:]))
        for name, x in reference.usual.inputs.items()
        if name not in texts
    }
    by_numbers = _answers(
        directory, "savedmodel", {name: lookups.encode(name, x) for name, x in texts.items()} | others, manifest
    )
    by_texts = _answers(
        directory, "savedmodel-text", {name: _strings(x) for name, x in texts.items()} | others, manifest
    )
    classes = [port.name for port in manifest.outputs if port.classes]
    expected = {port.name: by_numbers[1][port.name] for port in manifest.outputs}  # a signature has them in any order
    outputs = compare_outputs(expected, by_texts[1], classes, LIMITS)
    seconds = time.perf_counter() - start
    return Comparison("savedmodel, texts", by_texts[0], rows + more, outputs, seconds, more)


def edge_texts(lookup: Lookup) -> list[str]:
    """Texts at the ends of what may be sent: none, unknown words alone, punctuation alone, all sorts of white space and
    characters, and more words than count. Of categories an empty one and an unknown one."""
    unknown = next(word for k in count() if (word := f"unknown{k}") not in lookup.words)
    if lookup.kind == "category":
        return ["", unknown]
    word = lookup.words[min(2, len(lookup.words) - 1)]
    odd = f"\t{word.upper()}, \u00a0\u2003{word}\n\u00c9\u00df \U0001f600 {word}'s\r\n"
    return ["", f"{unknown} {unknown}", "?! ...", odd, " ".join([word] * (lookup.length + 1))]


def _usual(lookup: Lookup) -> list[str]:
    return list(lookup.samples or lookup.words[-1:]) if lookup.kind == "text" else list(lookup.words[:_CATEGORIES])


def _repeated(texts: list[str], rows: int) -> list[str]:
    return [texts[k % len(texts)] for k in range(rows)]


def _strings(texts: list[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], object)


def _answers(directory: Path, runtime: str, inputs: Arrays, manifest: Manifest) -> tuple[str, Arrays]:
    """What computes, and its answers; each input in the manifest's dtype, but for texts."""
    predictor = open_predictor(directory, runtime)
    dtypes = manifest.input_dtypes
    cast = {name: x if x.dtype == object else x.astype(dtypes[name], copy=False) for name, x in inputs.items()}
    try:
        return predictor.about, predictor(cast)
    finally:
        predictor.close()
