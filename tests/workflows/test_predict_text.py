"""Texts through `tfhalf predict`: of the command line and of files, looked up, answered, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfhalf.artifacts.lookups import Lookup, Lookups
from tfhalf.artifacts.manifest import Version
from tfhalf.artifacts.record import Manifest
from tfhalf.errors import ArtifactError, InputError
from tfhalf.workflows import predict, predict_text

WORDS = ("", "[UNK]", "good", "bad", "film")


class Counts:
    """Answers how many words are bad, and how many good, twice each."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, inputs: Any) -> dict[str, np.ndarray]:
        x = inputs["note"]
        self.seen.append(x)
        return {"kind": np.stack([(x == 3).sum(1), (x == 2).sum(1)], 1) * np.float32(2)}


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A version that takes texts of three words, and what its artifact is asked."""
    runtime = Counts()

    def make(
        kind: str = "text", *, batch: int | str = "batch", length: int = 3, classes: bool = True, **ways: Any
    ) -> Counts:
        facts = {
            "name": "net",
            "inputs": [{"name": "note", "dtype": "int32", "shape": [batch, 3]}],
            "outputs": [{"name": "kind", "dtype": "float32", "shape": ["batch", 2], "classes": classes}],
            "labels": ["bad", "good"],
            "artifacts": [{"format": "onnx"}],
            "limits": {},
            "reference": {},
        }
        Lookups({"note": Lookup(kind, WORDS, length, **ways)}).write(tmp_path)
        monkeypatch.setattr(predict, "open_version", lambda path: Version(tmp_path, Manifest.read(facts)))
        monkeypatch.setattr("tfhalf.runtimes.open.open_predictor", lambda *_: runtime)
        return runtime

    return make


def predicted(*texts: str, files: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    return list(predict.predict(Path("v"), predict.Request(files, texts=texts, top=1), lambda line: None))


def test_texts_and_files_of_them(version: Any, tmp_path: Path) -> None:
    version()
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffGood film!\r\n\r\n bad\tbad good bad film\r\n".encode())
    one, empty, first, third = predicted("a GOOD one", "", files=(file,))
    assert one == {
        "text": "a GOOD one",
        "words": 3,
        "unknown": 2,
        "cut": 0,
        "labels": [{"label": "good", "score": 2.0}],
    }
    assert (empty["words"], empty["text"]) == (0, "")
    assert (first["file"], first["line"], first["text"]) == (str(file), 1, "Good film!")
    assert (third["line"], third["words"], third["cut"], third["labels"][0]["label"]) == (3, 5, 2, "bad")
    assert predict.in_words(one) == '"a GOOD one" (2 of 3 words unknown): good 2'
    assert predict.in_words(empty).startswith('"" (no words): ')
    assert predict.in_words(third) == f'{file}:3 " bad bad good bad film" (2 more words not looked at): bad 4'


def test_what_texts_are_cut_into_is_said(version: Any) -> None:
    version(split="character")
    (one,) = predicted("good")
    assert (one["words"], one["unknown"], one["cut"], one["noun"]) == (4, 3, 1, "characters")
    assert predict.in_words(one).startswith('"good" (3 of 3 characters unknown, 1 more characters not looked at): ')


def test_a_fixed_batch_is_filled_up(version: Any) -> None:
    runtime = version(batch=2)
    assert [answer["labels"][0]["label"] for answer in predicted("good", "bad", "good")] == ["good", "bad", "good"]
    assert [x.shape for x in runtime.seen] == [(2, 3), (2, 3)]
    assert runtime.seen[0].dtype == np.int32


def test_many_texts_go_in_batches(version: Any) -> None:
    runtime = version()
    assert len(predicted(*["good"] * 150)) == 150
    assert [len(x) for x in runtime.seen] == [64, 64, 22]


def test_what_cannot_be_answered(version: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version()
    with pytest.raises(InputError, match="takes texts; give --text TEXT, or a file of texts"):
        predicted()
    with pytest.raises(InputError, match="does not exist; this version takes texts"):
        predicted(files=(tmp_path / "absent.txt",))
    with pytest.raises(InputError, match="--text 2 is not UTF-8"):
        predicted("good", "\udcff")
    (tmp_path / "a.txt").write_bytes(b"good\nb\xff\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2 is not UTF-8"):
        predicted(files=(tmp_path / "a.txt",))
    (tmp_path / "a.txt").write_bytes(b"\n \n")
    with pytest.raises(InputError, match="holds no text; one a line is needed"):
        predicted(files=(tmp_path / "a.txt",))
    monkeypatch.setattr(predict_text, "MAX_CHARACTERS", 3)
    with pytest.raises(InputError, match="--text 1 has 4 characters; accepted: 3; shorten it"):
        predicted("good")


def test_tables_of_texts(version: Any, tmp_path: Path) -> None:
    version()
    table = tmp_path / "a.csv"
    table.write_text("note\nbad film\n")
    (answer,) = predicted(files=(table,))
    assert (answer["line"], answer["labels"][0]["label"]) == (2, "bad")
    with pytest.raises(InputError, match="received --text beside a table; give one of them at a time"):
        predicted("good", files=(table,))


def test_versions_that_take_no_texts(version: Any) -> None:
    version("category", length=3)
    with pytest.raises(InputError, match="does not take a text alone; leave --text out"):
        predicted("good")
    with pytest.raises(InputError, match=r"takes tables; give a \.csv or \.tsv file"):
        predicted()
    version(length=4)
    with pytest.raises(ArtifactError, match="is damaged, export again"):
        predicted("good")
    version(classes=False)
    assert predicted("good film")[0]["array"] == [0.0, 2.0]
