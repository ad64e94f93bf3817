"""Builders of nets whose trained weights packages carry without the model: `benchmarks/real_models.py` gives them both.

Each is written from the shapes and names that its weights file lists.
"""

from __future__ import annotations

import keras
from keras import layers


def masked_lstm(length: int = 11, symbols: int = 21, width: int = 64) -> keras.Model:
    """mhcnuggets: one-hot peptides, padded with -99; binding affinity in 0..1."""
    steps = keras.Input((length, symbols), name="peptide")
    x = layers.LSTM(width)(layers.Masking(-99.0)(steps))
    x = layers.Activation("tanh")(layers.Dense(width)(x))
    return keras.Model(steps, layers.Dense(1, activation="sigmoid", name="affinity")(x))


def two_lstms(symbols: int, width: int) -> keras.Model:
    """chars2vec: one-hot letters of a word; its vector."""
    letters = keras.Input((None, symbols), name="letters")
    x = layers.LSTM(width, return_sequences=True)(letters)
    return keras.Model(letters, layers.LSTM(width, name="vector")(x))


def cut_words(length: int = 21, letters: int = 178, kinds: int = 12) -> keras.Model:
    """deepcut: a window of Thai letters and their kinds; whether a word begins in its middle."""
    text, kind = keras.Input((length,), name="letters"), keras.Input((length,), name="kinds")
    a = layers.BatchNormalization()(layers.Embedding(letters, 32)(text))
    windows = []
    for window in range(1, 13):
        x = layers.Conv1D(200 if window < 9 else 150 if window < 12 else 100, window, activation="relu")(a)
        x = layers.TimeDistributed(layers.Dense(5))(x)
        windows.append(layers.ZeroPadding1D((0, window - 1))(x))
    joined = layers.Concatenate()([a, layers.Maximum()(windows), layers.Embedding(kinds, 12)(kind)])
    x = layers.Dense(100, activation="relu")(layers.Flatten()(layers.BatchNormalization()(joined)))
    return keras.Model([text, kind], layers.Dense(1, activation="sigmoid", name="begins")(x))
