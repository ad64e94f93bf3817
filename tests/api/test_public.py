"""The public names: which there are, that they cost nothing until they are used, and what they refuse."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfhalf
from tfhalf.api import host

CHECKOUT = Path(__file__).resolve().parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:

    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_the_public_names() -> None:
    assert tfhalf.__all__ == [
        *("Artifact", "ArtifactError", "ConfigError", "DataError", "ExportError", "ExportedModel"),
        *("GuardedLossScaleOptimizer", "InputError", "IntegrityError", "Interrupted", "NumericsCallback"),
        *("OutputComparison", "ParityError", "Pipeline", "RefError", "RequestError", "ResumeError", "ShortfallError"),
        *("TfhalfError", "TrainingError", "UnsupportedError", "Verification", "__version__", "compare_outputs"),
        *("create_app", "export_model", "load_pipeline", "measure_numerics", "open_artifact", "train_pipeline"),
        "verify_export",
    ]
    for name in tfhalf.__all__:
        assert getattr(tfhalf, name) is not None
    assert set(tfhalf.__all__) <= set(dir(tfhalf))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tfhalf.nothing  # type: ignore[attr-defined]


def test_no_name_is_a_room_s() -> None:
    """A room that is imported becomes an attribute of the package, and would take the name's place."""
    rooms = {path.stem for path in (CHECKOUT / "tfhalf").iterdir()}
    assert not rooms & set(tfhalf.__all__)


def test_importing_costs_nothing_and_prints_nothing() -> None:
    code = (
        "import json, sys, tfhalf; dir(tfhalf); tfhalf.TfhalfError; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "")
    loaded = {module.partition(".")[0] for module in json.loads(done.stderr)}
    assert not loaded & {"tensorflow", "keras", "onnx", "onnxruntime", "numpy", "pydantic", "click", "starlette"}


def test_each_name_imports_no_more_than_it_needs() -> None:
    light = "import sys, tfhalf; tfhalf.open_artifact, tfhalf.compare_outputs, tfhalf.create_app, tfhalf.load_pipeline"
    done = python(f"{light}, tfhalf.export_model, tfhalf.train_pipeline; print('tensorflow' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_another_backend_is_refused() -> None:
    code = (
        "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras\n"
        "keras.backend = types.SimpleNamespace(backend=lambda: 'jax')\n"
        "import tfhalf\n"
        "try: tfhalf.verify_export('exports/x')\n"
        "except tfhalf.ConfigError as error: print(error)\n"
    )
    assert python(code).stdout.startswith("Keras is on the backend 'jax'; tfhalf needs tensorflow: set KERAS_BACKEND=")


def test_lines_go_to_the_log_or_are_printed(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="tfhalf"):
        progress = host.progress_of(verbose=False)
        progress.line("model      m")
        progress.line()
        progress.line("published  v", always=True)
        progress.status("half way")
    assert caplog.messages == ["model      m", "published  v"]
    assert capsys.readouterr() == ("", "")
    host.progress_of(verbose=True).line("model      m")
    assert capsys.readouterr().out == "model      m\n"


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("give it others: --verify-with DATA.npz", "give it others: samples"),
        ("--format x: one", "formats x: one"),
        ("search ended; --bisect-seconds gives more time", "search ended; bisect_seconds gives more time"),
        ("--keep-float32 'a': matches none", "keep_float32 'a': matches none"),
        ("--arg NAME=VALUE gives others", "arg gives others"),
        ("a-b -- c", "a-b -- c"),
    ],
)
def test_advice_names_arguments(said: str, heard: str) -> None:
    with pytest.raises(tfhalf.ConfigError) as caught, host.python_words():
        raise tfhalf.ConfigError(said)
    assert str(caught.value) == heard


# --- compare_outputs --------------------------------------------------------------------------------------------------


def rows(n: int = 50, classes: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, classes)).astype(np.float32)


def test_equal_answers_pass_and_others_do_not() -> None:
    y = rows()
    found = tfhalf.compare_outputs(y, y.astype(np.float16), classes=True)
    assert found.passed
    assert 0 < found.outputs[0].max_difference < 1e-3
    assert found.outputs[0].agreement == 100
    worse = tfhalf.compare_outputs(y, y[:, ::-1], classes=True)
    assert not worse.passed
    assert any("the largest difference is" in problem for problem in worse.problems)
    assert not tfhalf.compare_outputs(y, np.where(y > 1, np.inf, y)).passed
    assert tfhalf.compare_outputs(y, y + 0.1, max_difference=0.5, mean_difference=0.5).passed


def test_callables_and_names() -> None:
    x = rows(8, 3)

    def twice(x: Any) -> Any:
        return {"a": x, "b": 2 * x}

    assert tfhalf.compare_outputs(twice, lambda x: (x, 2 * x), x).passed
    assert [output.name for output in tfhalf.compare_outputs(lambda x: [x, 2 * x], twice, x).outputs] == ["a", "b"]
    assert tfhalf.compare_outputs({"a": x}, {"b": x}).outputs[0].name == "a"
    with pytest.raises(tfhalf.ConfigError, match="reference is a callable: give the inputs"):
        tfhalf.compare_outputs(twice, x)
    with pytest.raises(tfhalf.DataError, match="other: it gives a, c; expected a, b"):
        tfhalf.compare_outputs(twice, lambda x: {"a": x, "c": x}, x)
    with pytest.raises(tfhalf.DataError, match="shape"):
        tfhalf.compare_outputs(x, x[:4])
    with pytest.raises(tfhalf.ConfigError, match="classes: c is not among the outputs a, b"):
        tfhalf.compare_outputs(twice, twice, x, classes=["c"])


# --- pipelines --------------------------------------------------------------------------------------------------------


def test_a_pipeline_knows_its_file_and_is_equal_without() -> None:
    path = CHECKOUT / "pipelines" / "digits.yaml"
    pipeline = tfhalf.load_pipeline(path)
    assert pipeline.file == path
    assert tfhalf.load_pipeline(path, ["train.epochs=3"]).file == path
    assert pipeline == tfhalf.Pipeline.model_validate(pipeline.model_dump())
    assert pipeline != tfhalf.load_pipeline(path, ["train.epochs=3"])


def test_what_is_refused_before_tensorflow() -> None:
    with pytest.raises(tfhalf.ConfigError, match=r"none\.yaml"):
        tfhalf.train_pipeline("none.yaml")
    with pytest.raises(tfhalf.ConfigError, match="every 5: 1 to the number of steps, 4, is accepted"):
        tfhalf.measure_numerics(CHECKOUT / "pipelines" / "digits.yaml", steps=4, every=5)
    with pytest.raises(tfhalf.ConfigError, match="takes one export or more"):
        tfhalf.create_app()
    with pytest.raises(tfhalf.ConfigError, match="runtime 'cuda': onnx, savedmodel, auto are accepted"):
        tfhalf.create_app("exports", runtime="cuda")
    with pytest.raises(tfhalf.InputError, match=r"labels 'x': give NAME:LABEL=VERSION"):
        tfhalf.create_app(CHECKOUT, labels=["x"])


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_type_checkers_see_the_types(tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    user.write_text(
        "import tfhalf\n"
        "exported = tfhalf.export_model('m.keras', 'exports/m')\n"
        "reveal_type(exported.version)\n"
        "reveal_type(tfhalf.open_artifact(exported.version)({}))\n"
        "reveal_type(tfhalf.load_pipeline('x.yaml'))\n"
        "tfhalf.export_model('m.keras', 3)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(CHECKOUT / "pyproject.toml"), str(user)]
    said = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout
    assert 'Revealed type is "pathlib.Path"' in said, said
    assert 'Revealed type is "tfhalf.config.schema.Pipeline"' in said
    assert re.search(r"dict\[(builtins\.)?str, numpy\.ndarray", said)
    assert 'Argument 2 to "export_model" has incompatible type "int"' in said
