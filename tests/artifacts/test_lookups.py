"""Words of a version: looked up as Keras' TextVectorization does, written and read back, held against the inputs."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
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


STANDARDIZE = ("lower_and_strip_punctuation", "lower", "strip_punctuation", "none")
CUTS = (("whitespace", 1), ("whitespace", 3), ("character", 1), ("character", 2))
EVERY = [(standardize, *cut) for standardize in STANDARDIZE for cut in CUTS]
HELD = ("", "[UNK]", *"aAgé日 .'", "İ", "i", "\u0307", "\U0001f600", "great", "Great", "film.", "a great", "great film",
        "a great film", "a g", "é 日", "   ", "\u00a0", "\ufffd")  # fmt: skip
MORE = "İ\u0131i̇Σ\u03c3ςÉe\u0301\u200d\U0001f468\U0001f3fd\ufeff\ufffd\u2028"
ANY = st.text(st.sampled_from(_ODD + MORE)) | st.text(st.characters(exclude_categories=[])) | TEXTS


@cache
def cut_by(standardize: str, split: str, ngrams: int) -> tuple[Lookup, Any, Any]:
    """The lookup, Keras' layer, and the signature of a SavedModel."""
    lookup = Lookup("text", HELD, 9, standardize=standardize, split=split, ngrams=ngrams)
    layer = keras.layers.TextVectorization(
        vocabulary=list(HELD),
        output_sequence_length=9,
        standardize=None if standardize == "none" else standardize,
        split=split,
        ngrams=ngrams if ngrams > 1 else None,
    )

    class Program(_Looked):
        inputs = (Port("words", "int32", (None, 9)),)

    return lookup, layer, TextProgram(Program, Lookups({"words": lookup})).function


@given(texts=st.lists(ANY, min_size=1, max_size=4), ways=st.sampled_from(EVERY))
@example(texts=["", "a"], ways=("none", "character", 2))
@example(texts=["", " "], ways=("lower", "whitespace", 3))
@example(texts=["A great. FILM", "İI É\u00a0é", "e\u0301\U0001f468\u200d\U0001f469", "\ud83d \udc68"], ways=EVERY[2])
@settings(deadline=None, max_examples=300)
def test_texts_are_cut_as_keras_does(texts: list[str], ways: tuple[str, str, int]) -> None:
    lookup, layer, signature = cut_by(*ways)
    sent = tf.constant([text.encode("utf-8", "surrogatepass") for text in texts])
    expected = layer(sent).numpy()
    assert lookup.encode(texts).tolist() == expected.tolist()
    assert signature(sent)["words"].numpy().tolist() == expected.tolist()


def test_every_kind_of_code_point_is_a_character() -> None:
    points = [*range(0x3000), *range(0xD7F0, 0xE010), *range(0x3000, 0x110000, 97), *range(0xFF00, 0x10100)]
    texts = [f"a{chr(point)}B" for point in points]
    lookup = Lookup("text", ("", "[UNK]"), 9, standardize="none", split="character")
    sent = tf.constant([text.encode("utf-8", "surrogatepass") for text in texts])
    for text, expected in zip(texts, tf.strings.unicode_split(sent, "UTF-8").to_list(), strict=True):
        assert [word.encode() for word in lookup.words_of(text)] == expected


def test_keras_lowers_ascii_alone() -> None:
    lookup = Lookup("text", ("", "[UNK]"), 9)
    assert lookup.words_of("ÉCOLE İI") == ["École", "İi"]
    assert tf.strings.lower("ÉCOLE İI").numpy().decode() == "École İi"


def test_a_file_of_before_says_nothing_of_how_texts_are_cut(tmp_path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"a": {"kind": "text", "words": list(WORDS), "length": LENGTH}}))
    assert Lookups.read(tmp_path).by_input["a"] == LOOKUP
    other = Lookups({"a": Lookup("text", HELD, 4, (), "none", "character", 2)})
    other.write(tmp_path)
    assert Lookups.read(tmp_path) == other


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
        {"a": {"kind": "text", "words": [""], "split": "sentence"}},
        {"a": {"kind": "text", "words": [""], "standardize": None}},
        {"a": {"kind": "text", "words": [""], "ngrams": 0}},
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
