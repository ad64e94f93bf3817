"""The wheel: what is in it, and that it works where the checkout cannot be seen."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tfhalf import __version__

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent


def run(where: Path, *command: object) -> subprocess.CompletedProcess[str]:
    hidden = ("PYTHONPATH", "PYTHONHOME")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [str(part) for part in command], cwd=where, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(folder, sys.executable, "-m", "pip", "wheel", CHECKOUT, "--no-deps", "--quiet", "--wheel-dir", folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that has the wheel, and everything else from this one by path.

    Such a path does not run the ``.pth`` files it holds, so an editable install of the checkout stays unseen.
    """
    place = tmp_path_factory.mktemp("environment") / "venv"
    run(place.parent, sys.executable, "-m", "venv", "--without-pip", place)
    paths = sysconfig.get_paths(vars={"base": str(place), "platbase": str(place)})
    here = dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("purelib", "platlib"))
    (Path(paths["purelib"]) / "others.pth").write_text("".join(f"{folder}\n" for folder in here))
    python = place / "bin" / "python"
    run(place.parent, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel)
    return place / "bin"


def test_contents(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    package = {name: text for name, text in held.items() if name.startswith("tfhalf/")}
    starters = {name: package.pop(name) for name in list(package) if name.startswith("tfhalf/starters/")}
    wanted = [*CHECKOUT.glob("pipelines/**/*.yaml"), *CHECKOUT.glob("models/*.py")]
    assert starters == {f"tfhalf/starters/{path.relative_to(CHECKOUT)}": path.read_bytes() for path in wanted}
    page = [path for path in (CHECKOUT / "tfhalf/serve/http/page").iterdir() if path.suffix in (".html", ".css", ".js")]
    sources = [
        *(CHECKOUT / "tfhalf").rglob("*.py"),
        CHECKOUT / "tfhalf/py.typed",
        CHECKOUT / "tfhalf/verify/html/style.css",
        CHECKOUT / "tfhalf/compare/report/pictures.css",
        *page,
    ]
    assert package == {str(path.relative_to(CHECKOUT)): path.read_bytes() for path in sources}
    information = {name.partition("/")[0] for name in held if not name.startswith("tfhalf/")}
    assert information == {f"tfhalf-{__version__}.dist-info"}  # no tests, no second package
    assert held[f"tfhalf-{__version__}.dist-info/licenses/LICENSE"] == (CHECKOUT / "LICENSE").read_bytes()


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = email.message_from_bytes(archive.read(f"tfhalf-{__version__}.dist-info/METADATA"))
        scripts = archive.read(f"tfhalf-{__version__}.dist-info/entry_points.txt").decode()
    assert (found["Name"], found["Version"]) == ("tfhalf", __version__)
    assert found["Requires-Python"] == ">=3.10"
    assert found["License-Expression"] == "Apache-2.0"
    always = [text for text in found.get_all("Requires-Dist", []) if "extra ==" not in text]
    needed = {re.split(r"[^\w.-]", text)[0].replace("_", "-") for text in always}
    # tensorflow-datasets imports importlib_resources to download and does not declare it.
    assert {"importlib-resources", "tensorflow", "keras", "pillow"} <= needed
    assert "pytest" not in needed
    # Both are the module onnxruntime, and would overwrite each other's files.
    assert not {"onnxruntime", "onnxruntime-gpu"} & needed
    by_extra = {extra: [t for t in found.get_all("Requires-Dist", []) if f"'{extra}'" in t] for extra in ("cpu", "gpu")}
    assert [re.split(r"[^\w-]", text)[0] for text in by_extra["cpu"]] == ["onnxruntime"]
    on_gpu = ["nvidia-nvimgcodec-cu12", "onnxruntime-gpu", "tensorflow"]
    assert sorted(re.split(r"[^\w-]", text)[0] for text in by_extra["gpu"]) == on_gpu
    assert "tfhalf = tfhalf.cli:main" in scripts


def test_license() -> None:
    text = (CHECKOUT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text
    assert "The tfhalf authors" in text


def test_it_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(tmp_path, installed / "python", "-c", "import tfhalf; print(tfhalf.__file__)").stdout.strip()
    assert Path(where).is_relative_to(installed.parent)
    path = run(tmp_path, installed / "python", "-c", "import sys; print(sys.path)").stdout
    assert repr(str(CHECKOUT)) not in path
    assert run(tmp_path, installed / "tfhalf", "--version").stdout == f"tfhalf, version {__version__}\n"
    said = run(tmp_path, installed / "tfhalf", "init", "mine").stdout
    for source in CHECKOUT.glob("pipelines/*.yaml"):
        assert (tmp_path / "mine/pipelines" / source.name).read_bytes() == source.read_bytes()
    assert "mine/models/mlp.py\n" in said
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run(elsewhere, installed / "tfhalf", "train", tmp_path / "mine/pipelines/digits.yaml", "--smoke", "--quiet")
    assert re.fullmatch(r"smoke      runs/digits/\S+/exports/digits/1: verified, not published; .*\n", done.stdout)
    assert done.stderr == ""
    assert os.listdir(elsewhere) == ["runs"]
