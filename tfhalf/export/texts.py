"""A program that takes texts: it looks their words up, as `tfhalf.artifacts.lookups` does, and runs another program."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfhalf.artifacts.lookups import PUNCTUATION, Lookup, Lookups
from tfhalf.export.program import Program
from tfhalf.system.tensorflow import unlisted_tables


class TextProgram:
    """``function`` takes strings [N] for each input of ``lookups``, and of others what ``program`` takes; ``tables``
    are what it looks words up in."""

    def __init__(self, program: Program, lookups: Lookups) -> None:
        with unlisted_tables():
            self.tables = {name: _table(lookup) for name, lookup in lookups.by_input.items()}
        specs = [
            tf.TensorSpec((None,), tf.string, name=port.name)
            if port.name in self.tables
            else tf.TensorSpec(port.shape, port.dtype, name=port.name)
            for port in program.inputs
        ]

        @tf.function(input_signature=specs, autograph=False)
        def serve(*tensors: Any) -> dict[str, Any]:
            named = zip((port.name for port in program.inputs), tensors, strict=True)
            numbers = [self._numbers(name, x, lookups) if name in self.tables else x for name, x in named]
            answers: dict[str, Any] = program.function(*numbers)
            return answers

        self.function = serve

    def _numbers(self, name: str, texts: Any, lookups: Lookups) -> Any:
        """int32 [N, length] of strings [N]; see `Lookup`."""
        lookup, table = lookups.by_input[name], self.tables[name]
        if lookup.kind == "category":
            return table.lookup(texts)[:, None]
        if "lower" in lookup.standardize:
            texts = tf.strings.lower(texts)
        if "strip_punctuation" in lookup.standardize:
            texts = tf.strings.regex_replace(texts, PUNCTUATION, "")
        characters = lookup.split == "character"
        words = tf.strings.unicode_split(texts, "UTF-8") if characters else tf.strings.split(texts)
        if lookup.ngrams > 1:
            words = tf.strings.ngrams(words, tuple(range(1, lookup.ngrams + 1)), separator=" ")
        return words.with_flat_values(table.lookup(words.flat_values)).to_tensor(0, shape=(None, lookup.length))


def _table(lookup: Lookup) -> Any:
    first = 1 if lookup.kind == "text" else 0  # a text has no word ''
    numbers = tf.range(first, len(lookup.words), dtype=tf.int32)
    words = tf.constant(list(lookup.words[first:]), tf.string)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(words, numbers), default_value=first)
