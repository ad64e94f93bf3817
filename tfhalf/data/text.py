"""Texts as whole numbers: a vocabulary learnt on the training part, and each text as the numbers of its words.

Words are those of `keras.layers.TextVectorization`; by its defaults lower case (A to Z), no punctuation, cut at white
space. Number 0 fills up short texts, 1 stands for every word that the vocabulary does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfhalf import config
from tfhalf.data import memory
from tfhalf.data.columns import Columns
from tfhalf.data.lazy import Array
from tfhalf.data.types import Splits, TextInput
from tfhalf.errors import DataError
from tfhalf.files import read_bytes
from tfhalf.system.tensorflow import unlisted_tables
from tfhalf.text import one_line, printable

PADDING, UNKNOWN = "", "[UNK]"
"""What numbers 0 and 1 are called."""
MOST_AUTO = 512
_HELD = 0.99  # of the training texts, by a length that is not named
_BATCH = 1024
_SAMPLES = 16
_SAMPLE_CHARACTERS = 2000
_MAX_BYTES = 256 << 20
_PARTS = ("train", "val", "test")


def as_numbers(splits: Splits, settings: config.Text, base: Path) -> Splits:
    """``splits`` with each input of texts as int32 [N, length], its words in ``vocabularies``, and ``texts`` about it.

    Args:
        settings: the pipeline's ``data.text``.
        base: the pipeline file's folder, where the path of a vocabulary starts.

    Raises:
        DataError: the file of words cannot be used, a text is not Unicode, no training text holds a word, or the
            numbers do not fit into the memory; ``data.text`` is set and no input is text.
    """
    names = _text_inputs(splits)
    if not names:
        if settings != config.Text():
            raise DataError(f"{splits.source}: data.text is set, and no input is text; remove data.text")
        return splits
    words = (
        None if settings.vocabulary is None else _read_words(base / Path(settings.vocabulary).expanduser(), settings)
    )
    for name in names:
        splits = _with_numbers(splits, name, settings, words)
    return splits


def _text_inputs(splits: Splits) -> list[str]:
    x = splits.x_train
    if isinstance(x, Columns):
        return [name for name, array in x.arrays.items() if array.dtype == object]
    return [next(iter(splits.columns), "text")] if x.dtype == object else []


def _with_numbers(splits: Splits, name: str, settings: config.Text, words: tuple[str, ...] | None) -> Splits:
    parts = {part: _texts_of(splits, part, name) for part in _PARTS}
    for part, texts in parts.items():
        _check_unicode(texts, f"{splits.source}: x_{part}")
    layer = _vectorization(parts["train"], settings, words)
    vocabulary = tuple(map(str, layer.get_vocabulary()))
    if len(vocabulary) <= 2:
        raise DataError(f"{splits.source}: no training text holds a word; give texts to learn words from")
    counts = np.concatenate([(numbers != 0).sum(1) for numbers in _batches(layer, parts["train"])])
    length = _length(counts) if settings.length == "auto" else settings.length
    memory.guard(4 * length * sum(map(len, parts.values())), splits.source, "set data.text.length to fewer words")
    numbers = {part: _numbers(layer, texts, length) for part, texts in parts.items()}
    cut = int((counts > length).sum())
    unknown = float((numbers["test"] == 1).sum() / max(1, (numbers["test"] != 0).sum()))
    samples = tuple(str(text)[:_SAMPLE_CHARACTERS] for text in parts["test"][:_SAMPLES])
    about = TextInput(length, len(counts), cut, int(counts.max()), unknown, settings, samples)
    changed = {f"x_{part}": _put(getattr(splits, f"x_{part}"), name, numbers[part]) for part in _PARTS}
    shape = splits.input_shape if isinstance(splits.x_train, Columns) else (length,)
    return replace(
        splits,
        **changed,
        input_shape=shape,
        vocabularies={**splits.vocabularies, name: vocabulary},
        texts={**splits.texts, name: about},
    )


def _texts_of(splits: Splits, part: str, name: str) -> Array:
    x = getattr(splits, f"x_{part}")
    texts: Array = x.arrays[name] if isinstance(x, Columns) else x
    return texts


def _put(x: Any, name: str, numbers: Array) -> Any:
    return Columns({**x.arrays, name: numbers}) if isinstance(x, Columns) else numbers


def _vectorization(train: Array, settings: config.Text, words: tuple[str, ...] | None) -> Any:
    """Keras' layer, which knows the words of ``train``, texts [N], or ``words``."""
    import keras

    ways: dict[str, Any] = {
        "standardize": None if settings.standardize == "none" else settings.standardize,
        "split": settings.split,
        "ngrams": settings.ngrams if settings.ngrams > 1 else None,
    }
    with unlisted_tables():
        if words is not None:
            return keras.layers.TextVectorization(vocabulary=list(words), name="text", **ways)
        layer = keras.layers.TextVectorization(max_tokens=settings.tokens, name="text", **ways)
        layer.adapt(_batched(train))
    return layer


def _batched(texts: Array) -> Iterator[Any]:
    """Tensors of strings; on the CPU, as a GPU holds none."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        for start in range(0, len(texts), _BATCH):
            yield tf.constant(texts[start : start + _BATCH].tolist(), tf.string)


def _batches(layer: Any, texts: Array) -> Iterator[npt.NDArray[Any]]:
    """The numbers of each text's words, [n, longest of the batch], zeros behind them."""
    return (layer(batch).numpy() for batch in _batched(texts))


def _numbers(layer: Any, texts: Array, length: int) -> npt.NDArray[np.int32]:
    """int32 [N, length]."""
    out = np.zeros((len(texts), length), np.int32)
    for index, numbers in enumerate(_batches(layer, texts)):
        held = numbers[:, :length]
        out[index * _BATCH : index * _BATCH + len(held), : held.shape[1]] = held
    return out


def _length(counts: npt.NDArray[Any]) -> int:
    """The least that holds so many of the training texts whole, of which ``counts`` [N] are the words."""
    held = int(np.sort(counts)[math.ceil(_HELD * len(counts)) - 1])
    return max(1, min(MOST_AUTO, held))


def _check_unicode(texts: Array, where: str) -> None:
    for index, text in enumerate(texts):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}[{index}] holds {text[error.start]!r}, half of a character; accepted: Unicode text; decode it "
                "with errors='replace'"
            ) from None


def _read_words(path: Path, settings: config.Text) -> tuple[str, ...]:
    """The words of a file, one a line, without those of padding and of unknown words, which it may begin with.

    Raises:
        DataError: it cannot be read, or has an empty line, a word twice, or no words.
    """
    where = f"data.text.vocabulary: {printable(str(path))}"
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{where} cannot be read ({one_line(error, 120)}); give a file of words, one a line") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error.reason}); save it as UTF-8") from None
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    skipped = 0
    for special in (PADDING, UNKNOWN):
        skipped += lines[skipped : skipped + 1] == [special]
    words = lines[skipped:]
    if not words:
        raise DataError(f"{where} holds no words; one a line is needed; add them")
    first: dict[str, int] = {}
    for number, word in enumerate(words, start=skipped + 1):
        if word in ("", UNKNOWN) or not _is_word(word, settings):
            raise DataError(
                f"{where}, line {number} is {printable(word, 60)!r}; accepted: one {_noun(settings)} a line; correct it"
            )
        if word in first:
            raise DataError(
                f"{where}, line {number} is {printable(word, 60)!r}, as line {first[word]} is; accepted: each word "
                "once; take one out"
            )
        first[word] = number
    return tuple(words)


def _is_word(word: str, settings: config.Text) -> bool:
    """Whether texts may hold ``word``: several of an n-gram stand with a space between each two."""
    if settings.split == "character":
        return len(word) % 2 == 1 and len(word) < 2 * settings.ngrams and set(word[1::2]) <= {" "}
    several = word.split(" ")
    return len(several) <= settings.ngrams and all(one.split() == [one] for one in several)


def _noun(settings: config.Text) -> str:
    """What a line of the vocabulary is."""
    noun = "word" if settings.split == "whitespace" else "character"
    return noun if settings.ngrams == 1 else f"{noun}, or up to {settings.ngrams} with a space between each two,"


def text_lines(texts: Mapping[str, TextInput], vocabularies: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Of each input of texts in a line how it became numbers, and what was cut off."""
    lines = []
    for name, about in texts.items():
        cut = f"{about.cut:,} of {about.training:,} training texts are cut, the longest has {about.longest:,}"
        held = cut if about.cut else f"which hold every training text; the longest has {about.longest:,}"
        lines.append(
            f"{name}: {len(vocabularies[name]):,} words, of the test part's {about.unknown:.1%} are unknown; "
            f"{about.length:,} of each text count: {held}"
        )
    return lines
