"""The templates for one's own data: filled in as they say, each loads, trains a little, and predicts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fork_server
import numpy as np
import pytest
from PIL import Image

from tfhalf import config

CHECKOUT = Path(__file__).resolve().parent.parent
TEMPLATES = sorted(CHECKOUT.glob("pipelines/templates/*.yaml"))
SMALL = {"my_folder": ["--set", "model.args={widths: [4, 4, 4, 4]}", "--set", "data.image_size=[16, 16]"]}


def own_data(name: str, folder: Path) -> Path:
    """Sixty items such as the template ``name`` takes."""
    random = np.random.default_rng(0)
    if name == "my_folder":
        for index in range(60):
            path = folder / "images" / ("dark", "light")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 100, (20, 24, 3), np.uint8) + np.uint8(index % 2 * 150)).save(path)
        return folder / "images"
    rows = {
        "my_table": ["size,town,rent", *(f"{k % 30},{('Bonn', 'Trier')[k % 2]},{k % 30 * 10}" for k in range(60))],
        "my_text": [
            "note,mood",
            *(f"a {('good', 'bad')[k % 2]} film {k % 3},{('glad', 'sad')[k % 2]}" for k in range(60)),
        ],
    }[name]
    (folder / "own.csv").write_text("\n".join(rows) + "\n")
    return folder / "own.csv"


def filled_in(name: str, folder: Path) -> Path:
    """The template beside the models, with its own data."""
    shutil.copytree(CHECKOUT / "models", folder / "models")
    source = own_data(name, folder)
    text = (CHECKOUT / "pipelines" / "templates" / f"{name}.yaml").read_text(encoding="utf-8")
    columns = {"<TARGET>": "rent" if name == "my_table" else "mood", "<TEXT>": "note"}
    for word, own in {"<PATH>": str(source), **columns}.items():
        text = text.replace(word, own)
    path = folder / "pipelines" / f"{name}.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def item(name: str, folder: Path) -> list[str]:
    """One item for `tfhalf predict`."""
    rows = {"my_table": {"size": 3, "town": "Bonn"}, "my_text": {"note": "a good film"}}
    return ["--row", json.dumps(rows[name])] if name in rows else [str(folder / "images" / "dark" / "0.png")]


def tfhalf(folder: Path, *arguments: str) -> str:
    done = fork_server.run(folder, *arguments, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_loads(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"# command   tfhalf check pipelines/{path.stem}.yaml" in text
    assert max(map(len, text.splitlines())) <= 120
    pipeline = config.load_pipeline(filled_in(path.stem, tmp_path))
    assert pipeline.name == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_trains_and_predicts(path: Path, tmp_path: Path) -> None:
    pipeline = filled_in(path.stem, tmp_path)
    few = ["--set", "train.epochs=3", "--set", "train.schedule.warmup_epochs=0", *SMALL.get(path.stem, [])]
    few += ["--set", "verify.min_agreement=50", "--set", "verify.max_accuracy_drop=50", "-q"]
    tfhalf(tmp_path, "train", str(pipeline), *few)
    said = tfhalf(tmp_path, "predict", f"exports/{path.stem}", *item(path.stem, tmp_path))
    assert len(said.splitlines()) == 1
