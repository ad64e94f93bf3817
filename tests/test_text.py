"""Texts from a table to every format: trained, killed and taken up, exported, verified, predicted, and served."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from kill_helpers import SAVES_OFTEN, content, finish, running, weights
from serve_helpers import server

from tfhalf.artifacts import manifest as manifests
from tfhalf.artifacts.lookups import Lookups

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent
EPOCHS = 6
PIPELINE = """
name: mood
model: {build: net.py:build, args: {width: 16, depth: 1, heads: 2}}
data:
  source: csv:data
  columns: {label: target, note: text}
  validation: 0
train: {epochs: 6, batch_size: 16, optimizer: {name: adam, learning_rate: 0.02}}
export: {formats: [savedmodel, onnx, litert]}
"""
GOOD, BAD, OTHER = ("great", "lovely", "naïve"), ("awful", "dull", "boring"), ("film", "plot", "a", "the", "it's")


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        words = [draw.choice(GOOD if number % 2 else BAD), *draw.choices(OTHER, k=draw.randint(1, 6))]
        draw.shuffle(words)
        rows.append(("good" if number % 2 else "bad", f"{' '.join(words).title()}{draw.choice(('', '!', ' ...'))}"))
    return rows


def project(where: Path) -> Path:
    """A pipeline, its model, and 240 texts to train on."""
    (where / "data").mkdir(parents=True)
    for part, rows in (("train", texts(240, 0)), ("test", texts(60, 1))):
        lines = "".join(f"{label}\t{note}\n" for label, note in rows)
        (where / "data" / f"{part}.tsv").write_text(f"label\tnote\n{lines}", encoding="utf-8")
    shutil.copy(CHECKOUT / "models/text_transformer.py", where / "net.py")
    (where / "mood.yaml").write_text(PIPELINE)
    return where


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = project(tmp_path_factory.mktemp("text"))
    said = finish(where, "train", "mood.yaml")
    assert "text       note: 13 words, of the test part's 0.0% are unknown; 7 of each text count: which hold" in said
    assert "savedmodel, texts" in said
    return where


def test_what_is_published(trained: Path) -> None:
    version = trained / "exports/mood/1"
    manifest = manifests.read(version)
    (port,) = manifest.inputs
    assert (port.name, port.dtype, port.shape) == ("note", "int32", (None, 7))
    assert manifest.reference.edges == {"all padding": 1, "all unknown": 1, "full length": 1}
    lookup = Lookups.read(version).by_input["note"]
    assert (lookup.kind, lookup.length, len(lookup.words)) == ("text", 7, 13)
    assert {*GOOD, *BAD, "film", "plot", "a", "the", "its"} == set(lookup.words[2:])
    assert len(lookup.samples) == 16
    assert all(row.passed for row in manifest.comparisons)
    assert manifest.training.test_accuracy > 0.95
    assert finish(trained, "verify", "exports/mood").rstrip().endswith("every artifact holds")


def test_every_format_answers_texts(trained: Path) -> None:
    (trained / "texts.txt").write_text("A lovely film\nawful plot, dull film\n", encoding="utf-8")
    for runtime in ("savedmodel", "onnx", "litert"):
        command = ["predict", "exports/mood", "texts.txt", "--text", "Great!", "--runtime", runtime, "--json"]
        answers = json.loads(finish(trained, *command))
        assert [answer["labels"][0]["label"] for answer in answers] == ["good", "good", "bad"]


def test_a_savedmodel_takes_texts(trained: Path) -> None:
    """By TensorFlow alone, without a file beside it."""
    code = (
        "import tensorflow as tf\n"
        "model = tf.saved_model.load('exports/mood/1')\n"
        "answers = model.signatures['serving_text'](note=tf.constant(['A LOVELY film', 'dull, awful', '']))\n"
        "print(answers['probabilities'].numpy().argmax(-1)[:2].tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=trained, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.strip() == "[1, 0]", done.stderr


def test_texts_are_served(trained: Path) -> None:
    with server(trained / "exports", TF_CPP_MIN_LOG_LEVEL="3") as served:
        answer = httpx.post(f"{served.url}/v1/models/mood:predict", json={"instances": ["a lovely film", "dull"]})
        rows = [row["probabilities"] for row in answer.json()["predictions"]]
        assert [row[1] > 0.5 for row in rows] == [True, False]
    said = json.loads(finish(trained, "predict", "exports/mood", "--text", "dull", "--json", "--runtime", "onnx"))
    assert said[0]["labels"][0]["probability"] == pytest.approx(max(rows[1]), abs=1e-3)


def test_a_run_killed_in_training_is_taken_up_again(trained: Path, tmp_path: Path) -> None:
    where = project(tmp_path / "killed")
    with running(where, "train", "mood.yaml", *SAVES_OFTEN) as run:
        assert run.wait_until(lambda: run.says(f" 3/{EPOCHS} "))
        run.kill(signal.SIGKILL, group=True)
        assert run.end()[0] == -signal.SIGKILL
    (folder,) = (where / "runs/mood").iterdir()
    more = where / "data/train.tsv"
    before = more.read_bytes()
    more.write_bytes(before + b"good\tunheard great words\n" * 40)
    with running(where, "train", "--resume", folder) as run:
        code, _, complained = run.end()
    assert code == 1
    assert "the vocabulary of its input 'note' is another one now; bring the data" in complained
    more.write_bytes(before)
    assert f"of {EPOCHS}\n" in finish(where, "train", "--resume", folder)
    ours, theirs = where / "exports/mood/1", trained / "exports/mood/1"
    # Their values: which of two equal constants the converter keeps, and so its name, is not the same each time.
    assert sorted(weights(ours).values()) == sorted(weights(theirs).values())
    assert content(ours)["lookups.json"] == content(theirs)["lookups.json"]


def test_nets_that_take_no_words_are_refused(tmp_path: Path) -> None:
    where = project(tmp_path / "refused")
    (where / "net.py").write_text(
        "import keras\n"
        "def build(*, input_shape, num_classes, **unused):\n"
        "    x = keras.Input(input_shape)\n"
        "    return keras.Model(x, keras.layers.Dense(num_classes)(x))\n"
    )
    with running(where, "check", "mood.yaml") as run:
        code, _, complained = run.end()
    assert code == 2
    last = complained.splitlines()[-1]
    assert last.startswith("error: model.build: net.py:build takes float32 as its input 'note'")
    assert "begin the model with keras.Input(input_shape, name='note', dtype='int32')" in last
