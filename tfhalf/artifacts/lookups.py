"""Words and categories of a version: what a caller sends, as the whole numbers that its artifacts take.

``lookups.json`` beside the artifacts holds of each such input the words in the order of their numbers. An artifact
takes numbers, whatever its format; `tfhalf predict` and `tfhalf serve` look up what they are sent. A SavedModel has the
signature ``serving_text`` beside, which takes texts and looks them up itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from tfhalf.artifacts.ports import Port
from tfhalf.config.data import Split, Standardize
from tfhalf.errors import ArtifactError
from tfhalf.files import read_bytes
from tfhalf.text import one_line, printable

FILE = "lookups.json"
SIGNATURE = "serving_text"
"""The signature of a SavedModel that takes texts."""
_MAX_BYTES = 256 << 20
PUNCTUATION = r"[!\"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~']"
"""What `keras.layers.TextVectorization` strips: ``lower_and_strip_punctuation``."""
_PUNCTUATION = re.compile(PUNCTUATION)
_UPPER = {ord(letter): letter.lower() for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}

_Words = Annotated[tuple[str, ...], Field(min_length=1, max_length=10_000_000)]


@dataclass(frozen=True)
class Lookup:
    """The words of one input.

    ``category``: a cell is one of ``words``, whose first stands for an empty cell and for what is not known; numbers
    are int32 [N, 1]. ``text``: a text's words are numbered; the first of ``words`` fills short texts up to ``length``,
    the second stands for unknown words; int32 [N, length]. This is what `keras.layers.TextVectorization` computes with
    ``standardize``, ``split`` and ``ngrams``; by its defaults words are in lower case (A to Z alone, as TensorFlow
    does) and without punctuation. ``samples`` are a few texts, for comparisons.
    """

    kind: Literal["category", "text"]
    words: _Words
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    samples: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    standardize: Standardize = "lower_and_strip_punctuation"
    split: Split = "whitespace"
    ngrams: Annotated[int, Field(ge=1, le=16)] = 1

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, values: Sequence[str]) -> np.ndarray:
        """The numbers of ``values``, int32 [N, length]."""
        if self.kind == "category":
            return np.array([[self._numbers.get(value, 0)] for value in values], np.int32).reshape(-1, 1)
        numbers = np.zeros((len(values), self.length), np.int32)
        for row, value in zip(numbers, values, strict=True):
            words = self.words_of(value)[: self.length]
            row[: len(words)] = [self._numbers.get(word, 1) for word in words]
        return numbers

    @property
    def noun(self) -> str:
        """What texts are cut into."""
        noun = "words" if self.split == "whitespace" else "characters"
        return noun if self.ngrams == 1 else f"{noun} and runs of up to {self.ngrams}"

    def words_of(self, text: str) -> list[str]:
        """All words of a text, then its runs of two, and so on, as TensorFlow cuts it: at white space of ASCII alone,
        or at each code point."""
        if "lower" in self.standardize:
            text = text.translate(_UPPER)
        if "strip_punctuation" in self.standardize:
            text = _PUNCTUATION.sub("", text)
        coded = text.encode("utf-8", "surrogatepass")
        if self.split == "character":
            words = list(coded.decode("utf-8", "replace"))
        else:
            words = [word.decode("utf-8", "surrogatepass") for word in coded.split()]
        runs = (words[k : k + n] for n in range(2, self.ngrams + 1) for k in range(len(words) - n + 1))
        return words + [" ".join(run) for run in runs]


@dataclass(frozen=True)
class Lookups:
    """Of each input that has words its `Lookup`."""

    by_input: Mapping[str, Lookup] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write ``lookups.json``, where there are some."""
        if self.by_input:
            plain = {name: _plain(lookup) for name, lookup in self.by_input.items()}
            (directory / FILE).write_text(json.dumps(plain, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Lookups:
        """Those of a version; none where it has no such file.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = directory / FILE
        if not path.exists():
            return cls()
        try:
            return cls(_ADAPTER.validate_json(read_bytes(path, _MAX_BYTES)))
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{path}: cannot be read: {one_line(error, 160)}; export again") from None

    def encode(self, name: str, values: Sequence[str]) -> np.ndarray:
        """The numbers of what is sent for the input ``name``, int32 [N, length]."""
        return self.by_input[name].encode(values)

    def check(self, ports: Sequence[Port], where: Path) -> None:
        """Hold them against the inputs of a version, which take whole numbers.

        Raises:
            ArtifactError: they are not those of ``where``.
        """
        inputs = {port.name: port for port in ports}
        for name, lookup in self.by_input.items():
            port = inputs.get(name)
            if port is None or port.dtype != "int32" or port.shape[1:] != (lookup.length,):
                raise ArtifactError(
                    f"{where / FILE}: holds words of {printable(name, 60)!r}, {lookup.length} a row, which is not such "
                    "an input of its manifest; it is damaged, export again"
                )


_ADAPTER = TypeAdapter(dict[str, Lookup])


def _plain(lookup: Lookup) -> dict[str, Any]:
    samples = {"samples": list(lookup.samples)} if lookup.samples else {}
    plain: dict[str, Any] = {"kind": lookup.kind, "words": list(lookup.words), "length": lookup.length, **samples}
    if lookup.kind == "text":
        plain |= {"standardize": lookup.standardize, "split": lookup.split, "ngrams": lookup.ngrams}
    return plain
