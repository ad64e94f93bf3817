"""Texts become the numbers of their words, by a vocabulary of the training part or a file's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tfhalf import config
from tfhalf.data import Splits, load_splits, text
from tfhalf.data.columns import Columns
from tfhalf.errors import DataError, ResumeError
from tfhalf.train.record.resume import check_vocabularies, vocabulary_digests
from tfhalf.workflows.reference import lookups_of

TRAIN = ["A great film!", "a bad film", "great, GREAT fun", "bad\tbad acting"]


def splits(train: Any = TRAIN, test: Any = ("a great unseen",)) -> Splits:
    x = [np.array(list(part), object) for part in (train, (), test)]
    y = [np.zeros(len(part), np.int32) for part in x]
    parts = dict(zip(("x_train", "x_val", "x_test"), x, strict=True))
    targets = dict(zip(("y_train", "y_val", "y_test"), y, strict=True))
    facts = {"num_classes": 1, "input_shape": (), "class_names": ("0",), "source": "s"}
    return Splits(**{**parts, **targets, **facts})


def numbers(base: Path = Path(), given: Splits | None = None, **settings: Any) -> Splits:
    return text.as_numbers(given or splits(), config.Text(**settings), base)


def test_words_are_numbered_by_how_often_they_occur():
    one = numbers()
    words = one.vocabularies["text"]
    assert words[:2] == ("", "[UNK]")
    assert set(words[2:4]) == {"great", "bad"}  # three times each
    assert set(words[4:]) == {"a", "film", "fun", "acting"}
    assert one.x_train.dtype == np.int32
    assert one.input_shape == (3,)
    assert [words[k] for k in one.x_train[2]] == ["great", "great", "fun"]
    assert [words[k] for k in one.x_test[0]] == ["a", "great", "[UNK]"]
    assert one.x_val.shape == (0, 3)
    assert one.texts["text"].samples == ("a great unseen",)
    assert one.texts["text"].unknown == pytest.approx(1 / 3)
    assert one.shapes == {"text": (3,)}
    assert one.dtypes == {"text": "int32"}


def test_they_are_those_of_keras():
    train = [f"w{k % 37} w{k % 11}, É{k % 5} ß" for k in range(2500)]  # more than one batch
    layer = keras.layers.TextVectorization(max_tokens=20, output_sequence_length=4)
    layer.adapt(train)
    one = numbers(given=splits(train), tokens=20, length=4)
    assert list(one.vocabularies["text"]) == layer.get_vocabulary()
    assert np.array_equal(one.x_train, layer(np.array(train)).numpy())
    assert np.array_equal(numbers(given=splits(train), tokens=20, length=4).x_train, one.x_train)


def test_the_length_holds_99_of_100_texts_and_512_words_at_most():
    train = ["one two"] * 99 + ["one two three four five"]
    one = numbers(given=splits(train))
    assert one.input_shape == (2,)
    (line,) = text.text_lines(one.texts, one.vocabularies)
    assert "1 of 100 training texts are cut, the longest has 5" in line
    assert numbers(given=splits(["word " * 600] * 3)).input_shape == (512,)
    whole = numbers(given=splits(["one two"] * 3))
    assert "hold every training text" in text.text_lines(whole.texts, whole.vocabularies)[0]
    assert numbers(given=splits(["", "word"] * 50)).input_shape == (1,)


def test_text_beside_numbers():
    x = [np.array(TRAIN, object), np.array([], object), np.array(["film"], object)]
    parts = [Columns({"note": part, "age": np.zeros((len(part), 1), np.float32)}) for part in x]
    several = replace(splits(), **dict(zip(("x_train", "x_val", "x_test"), parts, strict=True)))
    one = numbers(given=several)
    assert one.shapes == {"note": (3,), "age": (1,)}
    assert one.dtypes == {"note": "int32"}
    assert one.input_shape == ()
    assert one.vocabularies["note"][one.x_test.arrays["note"][0, 0]] == "film"


def test_a_vocabulary_of_ones_own(tmp_path):
    (tmp_path / "words.txt").write_text("film\r\ngreat\n", encoding="utf-8")
    one = numbers(tmp_path, vocabulary="words.txt")
    assert one.vocabularies["text"] == ("", "[UNK]", "film", "great")
    assert one.x_train[0].tolist() == [1, 3, 2]
    (tmp_path / "words.txt").write_text("\n[UNK]\nfilm\ngreat", encoding="utf-8")
    assert np.array_equal(numbers(tmp_path, vocabulary="words.txt").x_train, one.x_train)


@pytest.mark.parametrize(
    ("content", "problem"),
    {
        "empty": (b"", "holds no words"),
        "special words alone": (b"\n[UNK]", "holds no words"),
        "two words": (b"film\na film\n", "line 2 is 'a film'; accepted: one word a line"),
        "a word twice": (b"film\ngood\nfilm\n", "line 3 is 'film', as line 1 is"),
        "an empty line": (b"film\n\ngood\n", "line 2 is ''"),
        "other bytes": (b"film\n\xff\n", "is not UTF-8"),
    }.values(),
)
def test_a_vocabulary_that_cannot_be_used(tmp_path, content, problem):
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.text\.vocabulary") as error:
        numbers(tmp_path, vocabulary="words.txt")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "ways",
    [
        {"standardize": "lower"},
        {"standardize": "strip_punctuation", "ngrams": 2},
        {"standardize": "none", "split": "character"},
        {"split": "character", "ngrams": 3},
    ],
)
def test_words_are_cut_as_keras_does_with_the_same_settings(ways):
    train = [f"W{k % 7} w{k % 3}. É{k % 5}日本 ß!" for k in range(1100)]
    layer = keras.layers.TextVectorization(
        max_tokens=40,
        output_sequence_length=6,
        **{key: None if value == "none" else value for key, value in ways.items()},
    )
    layer.adapt(train)
    one = numbers(given=splits(train, test=train[:3]), tokens=40, length=6, **ways)
    assert list(one.vocabularies["text"]) == layer.get_vocabulary()
    assert np.array_equal(one.x_train, layer(np.array(train)).numpy())
    lookup = lookups_of(one).by_input["text"]
    assert np.array_equal(lookup.encode(train), one.x_train)
    assert {key: getattr(lookup, key) for key in ways} == ways


@pytest.mark.parametrize(
    ("content", "ways", "problem"),
    [
        ("film\na film\n", {"ngrams": 2}, ""),
        ("film\na good film\n", {"ngrams": 2}, "line 2 is 'a good film'; accepted: one word, or up to 2"),
        ("film\na  film\n", {"ngrams": 3}, "line 2 is 'a  film'"),
        ("é\n \n日\n", {"split": "character"}, ""),
        ("é\nab\n", {"split": "character"}, "line 2 is 'ab'; accepted: one character a line"),
        ("a\na b\n", {"split": "character", "ngrams": 2}, ""),
        ("a\naxb\n", {"split": "character", "ngrams": 2}, "line 2 is 'axb'"),
    ],
)
def test_a_vocabulary_holds_what_texts_are_cut_into(tmp_path, content, ways, problem):
    (tmp_path / "words.txt").write_text(content, encoding="utf-8")
    if not problem:
        expected = ("", "[UNK]", *content.splitlines())
        assert numbers(tmp_path, vocabulary="words.txt", **ways).vocabularies["text"] == expected
        return
    with pytest.raises(DataError) as error:
        numbers(tmp_path, vocabulary="words.txt", **ways)
    assert problem in str(error.value)


def test_a_vocabulary_that_is_missing(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        numbers(tmp_path, vocabulary="words.txt")


@pytest.mark.parametrize(
    ("train", "problem"),
    [(["!!", ""], "no training text holds a word"), (["good \ud800"], r"x_train\[0\] holds '\\ud800', half of a char")],
)
def test_texts_that_cannot_be_used(train, problem):
    with pytest.raises(DataError, match=problem):
        numbers(given=splits(train))


def test_settings_without_text_are_refused():
    images = replace(splits(), **{f"x_{part}": np.zeros((2, 4, 4, 1), np.uint8) for part in ("train", "val", "test")})
    assert numbers(given=images) is images
    with pytest.raises(DataError, match=r"no input is text; remove data\.text"):
        numbers(given=images, length=3)


def test_settings_that_contradict_each_other():
    with pytest.raises(ValueError, match="keep one"):
        config.Text(tokens=100, vocabulary="words.txt")


def test_from_a_file(tmp_path):
    rows = "".join(f"{k % 2}\tfilm {'good' if k % 2 else 'bad'}\n" for k in range(20))
    (tmp_path / "a.tsv").write_text("label\tsaid\n" + rows)
    data = config.Data(source="csv:a.tsv", columns={"label": "target", "said": "text"}, text=config.Text(length=4))
    one = load_splits(data, base=tmp_path, seed=0)
    assert one.shapes == {"said": (4,)}
    assert set(one.vocabularies["said"]) == {"", "[UNK]", "film", "good", "bad"}


def test_a_run_is_not_taken_up_with_other_words(tmp_path):
    before = {"vocabularies": vocabulary_digests(numbers())}
    check_vocabularies(before, numbers(), tmp_path)
    check_vocabularies({}, numbers(), tmp_path)  # of a version that kept none
    given = splits(["a b", "b c"])
    lower = {"vocabularies": vocabulary_digests(numbers(given=given))}
    check_vocabularies(lower, numbers(given=given), tmp_path)
    with pytest.raises(ResumeError, match="is another one now"):  # the same words, cut otherwise
        check_vocabularies(lower, numbers(given=given, standardize="none"), tmp_path)
    for other in (numbers(length=7), numbers(given=splits([*TRAIN, "more"]))):
        with pytest.raises(ResumeError, match="vocabulary of its input 'text' is another one now"):
            check_vocabularies(before, other, tmp_path)
