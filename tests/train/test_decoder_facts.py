"""Which decoder a run's images went through, in its facts."""

from __future__ import annotations

import json
import types
from pathlib import Path

from tfhalf.train.record.decoder import note_decoder


def test_a_run_records_its_decoder_and_says_where_it_is_another(tmp_path: Path) -> None:
    facts = tmp_path / "run.json"
    facts.write_text(json.dumps({"pipeline_file": "p.yaml", "id": "a"}))
    feeds = {kind: types.SimpleNamespace(canvases=types.SimpleNamespace(decoder=kind)) for kind in ("cpu", "gpu")}
    assert note_decoder(tmp_path, types.SimpleNamespace(canvases=None)) is None
    assert note_decoder(tmp_path, object()) is None
    assert "decoder" not in json.loads(facts.read_text())
    assert note_decoder(tmp_path, feeds["gpu"]) is None
    assert json.loads(facts.read_text()) == {"pipeline_file": "p.yaml", "id": "a", "decoder": "gpu"}
    assert note_decoder(tmp_path, feeds["gpu"]) is None
    said = note_decoder(tmp_path, feeds["cpu"])
    assert said is not None
    assert "decoded by the GPU when the run began, and are by the CPU now" in said
    assert json.loads(facts.read_text())["decoder"] == "gpu"
