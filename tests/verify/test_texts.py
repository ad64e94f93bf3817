"""Answers to texts beside those to their numbers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.ports import Port
from tfhalf.artifacts.reference import Reference, Samples
from tfhalf.verify import texts

WORDS = Lookup("text", ("", "[UNK]", "good", "bad"), 3, ("good", "bad good"))


@pytest.mark.parametrize("names", [("logits", "probabilities"), ("probabilities", "logits")])
def test_outputs_come_in_the_manifest_s_order(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A SavedModel's signature lists them in an order that is another one in each process."""

    def answers(directory: Path, runtime: str, inputs: dict[str, Any], manifest: Any) -> tuple[str, dict[str, Any]]:
        (x,) = inputs.values()
        return "TensorFlow", {name: np.ones((len(x), 2), np.float32) for name in names}

    monkeypatch.setattr(texts, "_answers", answers)
    ports = tuple(Port(name, "float32", (None, 2), classes=True) for name in ("logits", "probabilities"))
    manifest: Any = SimpleNamespace(outputs=ports)
    usual = Samples({"text": np.zeros((1, 3), np.int32)}, {name: np.ones((1, 2), np.float32) for name in names})
    compared = texts.compare_texts(Path(), manifest, Lookups({"text": WORDS}), Reference(usual))
    assert [output.name for output in compared.outputs] == ["logits", "probabilities"]
