"""Words of a version: looked up as Keras' TextVectorization does, written and read back, held against the inputs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st

from tfhalf.artifacts.edges import edges_by_name
from tfhalf.artifacts.lookups import FILE, Lookup, Lookups
from tfhalf.artifacts.ports import Port
from tfhalf.errors import ArtifactError
from tfhalf.export.texts import TextProgram
from tfhalf.verify.texts import edge_texts

WORDS = ("", "[UNK]", "a", "great", "film", "don", "dont", "é", "É", "straße", "日本", "a\u00a0great", "\x1c", "naïve")
LENGTH = 5
LOOKUP = Lookup("text", WORDS, LENGTH)
LAYER = keras.layers.TextVectorization(vocabulary=list(WORDS), output_sequence_length=LENGTH)
_ODD = "aGREATfilm don't\t\n\r\x0b\x0c\x1c\x85\u00a0\u2003éÉß日本\0!#$%&()*+,-./:;<=>?@[\\]^_`{|}~'" + '"'
TEXTS = st.text(st.sampled_from(_ODD)) | st.text(st.characters(exclude_categories=["Cs"]))


@given(text=TEXTS)
@example(text="")
@example(text="?! ...")
@example(text="A\tgreat\nFILM don't a a a a")
@example(text="a\u00a0great É é \x1c a\x00b")
def test_texts_are_numbered_as_keras_does(text: str) -> None:
    expected = LAYER(tf.constant([text])).numpy()
    assert LOOKUP.encode([text]).tolist() == expected.tolist()
    assert _Looked.program.function(tf.constant([text]))["words"].numpy().tolist() == expected.tolist()


class _Looked:
    """A program that gives back the numbers that it is given."""

    inputs = (Port("words", "int32", (None, LENGTH)),)

    @staticmethod
    def function(words):
        return {"words": words}

    program: TextProgram


_Looked.program = TextProgram(_Looked, Lookups({"words": LOOKUP}))


def test_categories() -> None:
    lookup = Lookup("category", ("", "a", "b"))
    assert lookup.encode(["b", "?", "", "a"]).tolist() == [[2], [0], [0], [1]]
    assert edge_texts(lookup) == ["", "unknown0"]


def test_edge_texts_are_what_they_are_called() -> None:
    nothing, unknown, punctuation, odd, long = LOOKUP.encode(edge_texts(LOOKUP)).tolist()
    assert nothing == punctuation == [0] * LENGTH
    assert unknown == [1, 1, 0, 0, 0]
    assert odd[0] == 2
    assert long == [2] * LENGTH
    assert "unknown1" in edge_texts(Lookup("text", ("", "[UNK]", "unknown0"), 3))[1]


def test_written_and_read_back(tmp_path) -> None:
    lookups = Lookups({"note": Lookup("text", WORDS, LENGTH, ("a film",)), "city": Lookup("category", ("", "x"))})
    lookups.write(tmp_path)
    assert Lookups.read(tmp_path) == lookups
    assert Lookups.read(tmp_path / "elsewhere") == Lookups()


@pytest.mark.parametrize(
    "facts",
    [
        [],
        {"a": {"kind": "number", "words": [""]}},
        {"a": {"kind": "text", "words": [], "length": 3}},
        {"a": {"words": 3}},
    ],
)
def test_a_damaged_file(tmp_path, facts) -> None:
    (tmp_path / FILE).write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=r"cannot be read: .*export again"):
        Lookups.read(tmp_path)


@pytest.mark.parametrize(
    "port", [Port("b", "int32", (None, LENGTH)), Port("a", "float32", (None, LENGTH)), Port("a", "int32", (None, 9))]
)
def test_words_of_other_inputs(tmp_path, port) -> None:
    Lookups({"a": LOOKUP}).check([Port("a", "int32", (None, LENGTH))], tmp_path)
    with pytest.raises(ArtifactError, match="it is damaged, export again"):
        Lookups({"a": LOOKUP}).check([port], tmp_path)


def test_edge_rows_of_texts() -> None:
    x = np.array([[5, 6, 0, 0], [7, 8, 9, 0], [0, 0, 0, 0]], np.int32)
    rows, kinds = edges_by_name({"t": x}, ["t"])
    assert kinds == ("all padding", "all unknown", "full length")
    assert rows["t"].tolist() == [[0] * 4, [1] * 4, [7, 8, 9, 7]]
    assert rows["t"].dtype == np.int32
    both, kinds = edges_by_name({"t": x, "n": np.array([[0.0], [4.0], [2.0]], np.float32)}, ["t"])
    assert kinds == ("zeros", "constant", "smallest", "largest")
    assert both["t"].tolist() == [[0] * 4, [1] * 4, [0] * 4, [7, 8, 9, 7]]
    assert both["n"].tolist() == [[0], [3], [0], [4]]
