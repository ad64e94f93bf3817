"""What every test file shares: a quiet TensorFlow, a check of the global dtype policy, and where CIFAR-10 lies."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import fork_server
import pytest
from hypothesis import settings

# Before anything imports TensorFlow or Keras, which read these once.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

settings.register_profile("tfhalf", deadline=None)  # the first example also pays for imports and tracing
settings.load_profile("tfhalf")

# Longest first, by the seconds of a core that their tests take: a file is run whole by one process, and none of these
# is to begin when the others have ended. The rest is as long as it is, in its order.
LONGEST = (
    *("test_devices", "test_kill", "export/test_litert", "test_pipelines", "train/test_resume", "train/test_kernels"),
    *("test_end_to_end", "train/test_group", "train/test_tasks_end_to_end", "api/test_docs", "test_job_kills"),
    *("test_compare", "train/test_callbacks", "train/test_feed", "train/test_faults", "train/test_loop"),
    *("export/test_onnx_rewrites", "export/test_any", "train/test_muon", "export/test_zoo", "export/test_reproducible"),
    *("test_templates", "numerics/test_islands", "train/test_train_stages", "train/test_stages"),
)

# What is imported while tests are collected stays: going through it for garbage takes a fifth of that time.
gc.disable()

CHECKOUT = Path(__file__).resolve().parent.parent


def _dtype_policy() -> str:
    """The global policy's name. A test that does not need Keras does not import it: ``float32`` is what it starts
    with."""
    keras = sys.modules.get("keras")
    return "float32" if keras is None else keras.config.dtype_policy().name


@pytest.fixture(autouse=True, scope="session")
def children_are_forked() -> None:
    """Start the processes that tfhalf starts without their imports; tests of `tfhalf.system.child` have modules of
    their own, which are started as they are by users."""
    fork_server.fork_children()


@pytest.fixture(autouse=True)
def dtype_policy_is_put_back() -> Iterator[None]:
    """Fail a test that leaves another global dtype policy than it found, and put the old one back for the next."""
    before = _dtype_policy()
    yield
    after = _dtype_policy()
    if after != before:
        sys.modules["keras"].config.set_dtype_policy(before)
        pytest.fail(f"the global dtype policy was {before!r} and is {after!r}")


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The TFDS data folder that has CIFAR-10 prepared; skips where there is none."""
    there = os.environ.get("TFDS_DATA_DIR") or CHECKOUT.parent / "shared" / "tensorflow_datasets"
    folder = Path(there).expanduser()
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"CIFAR-10 is not prepared in {folder}; TFDS_DATA_DIR says where it is")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {CHECKOUT / "tests" / f"{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    # numpy 2 asks __array__ for `copy`, which TensorFlow's tensors do not take; Keras' convert_to_numpy runs into it.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:"
        r"keras\.src\.backend\.tensorflow\.core",
    )


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests find in their data sets out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFHALF_CACHE_DIR", str(tmp_path_factory.mktemp("cache") / "of tests"))
        yield
