"""What happens before TensorFlow is imported."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest

from tfhalf.errors import ConfigError
from tfhalf.system import tensorflow


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(ConfigError, match="KERAS_BACKEND is 'jax'"):
        tensorflow.import_tensorflow()


def python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_is_hidden_is_found_again() -> None:
    python(
        "import gc, os, sys; os.environ['KERAS_BACKEND'] = 'tensorflow'\n"
        "import PIL.Image as there\n"
        "from tfhalf.system.tensorflow import import_tensorflow\n"
        "import_tensorflow(without=('PIL',))\n"
        "assert sys.modules['PIL.Image'] is there\n"
        "assert 'keras' in sys.modules\n"
        "assert not {'sklearn', 'matplotlib', 'pandas', 'jax'} & set(sys.modules)\n"
        "import sklearn.datasets, matplotlib\n"
        "assert gc.isenabled() and gc.get_freeze_count()\n"
        "kept = gc.get_freeze_count(); import_tensorflow(); assert gc.get_freeze_count() <= kept"
    )


def test_what_is_hidden_is_found_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with pytest.raises(ModuleNotFoundError), tensorflow._hidden(("wave",)):
        importlib.import_module("wave")
    assert importlib.import_module("wave").__name__ == "wave"


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_put_back(collects: bool) -> None:
    before = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        with tensorflow._all_kept():
            assert not gc.isenabled()
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
