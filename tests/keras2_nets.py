"""Nets of Keras 2, saved by tf_keras in each of its three formats, with inputs and tf_keras' own answers beside them.

``python keras2_nets.py FOLDER [NAME...]`` writes NAME.h5, NAME.keras and NAME.npz, and of those that `SAVED` lists
NAME_saved/, which takes Keras 2 ten times as long.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

IMAGE, STEPS, WORDS = (10, 10, 3), (6, 4), (4,)
SAVED = ("depthwise", "nested", "cells")
NETS: dict[str, Callable[[Any], Any]] = {}


def net(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    NETS[build.__name__] = build
    return build


@net
def depthwise(k: Any) -> Any:
    lay = k.layers
    x = image = k.Input(IMAGE, name="image")
    x = lay.DepthwiseConv2D(3, depth_multiplier=2, name="deep")(lay.Conv2D(4, 3, use_bias=False)(x))
    x = lay.ReLU(6.0, negative_slope=0.1)(lay.BatchNormalization(renorm=True)(x))
    x = lay.SeparableConv2D(5, 3, activation="swish")(x)
    x = lay.LeakyReLU(0.2)(lay.Conv2DTranspose(3, 2, strides=2)(x))
    x = lay.PReLU(shared_axes=[1, 2])(lay.UpSampling2D(2, interpolation="bilinear")(x))
    return k.Model(image, lay.Dense(4, activation="softmax")(lay.GlobalAveragePooling2D()(x)))


@net
def shallow(k: Any) -> Any:
    lay = k.layers
    return k.Sequential(
        [
            lay.Conv1D(6, 3, padding="causal", input_shape=STEPS, activation="elu"),
            lay.DepthwiseConv1D(2),
            lay.SeparableConv1D(5, 2, activation="hard_sigmoid"),
            lay.MaxPooling1D(1),
            lay.Flatten(),
            lay.Dropout(0.2),
            lay.Dense(3, kernel_regularizer="l2", kernel_constraint="max_norm"),
            lay.Softmax(),
        ]
    )


@net
def masked(k: Any) -> Any:
    lay = k.layers
    words = k.Input(WORDS, dtype="int32", name="words")
    x = lay.Embedding(20, 6, mask_zero=True)(words)
    x = lay.Bidirectional(lay.LSTM(4, return_sequences=True), name="both")(x)
    x = lay.GRU(5, reset_after=False, recurrent_activation="hard_sigmoid")(x)
    return k.Model(words, lay.Dense(2, name="out")(x))


@net
def states(k: Any) -> Any:
    lay = k.layers
    steps = k.Input((3, 4), name="steps")
    x, *states = lay.Bidirectional(lay.SimpleRNN(4, return_sequences=True, return_state=True))(steps)
    x = lay.GRU(4, return_sequences=True)(x, initial_state=states[0])
    return k.Model(steps, lay.LSTM(4)(x, initial_state=states))


@net
def masked_states(k: Any) -> Any:
    """A translator: what is written starts from the state of what was read; both are padded. And one within."""
    lay = k.layers
    read, written = (k.Input(WORDS, dtype="int32", name=name) for name in ("read", "written"))
    steps = k.Input(STEPS, name="steps")
    rows = lay.Embedding(20, 6, mask_zero=True, name="rows")
    *_, h, c = lay.LSTM(5, return_state=True, name="reader")(rows(read))
    x = lay.LSTM(5, return_sequences=True, name="writer")(rows(written), initial_state=[h, c])
    inner_steps, inner_state = k.Input(STEPS), k.Input((5,))
    y = lay.GRU(5)(lay.Masking(0.0)(inner_steps), initial_state=inner_state)
    inner = k.Model([inner_steps, inner_state], lay.Dense(3)(y), name="inner")
    return k.Model([read, written, steps], [x, inner([steps, h])])


@net
def cells(k: Any) -> Any:
    lay = k.layers
    steps = k.Input((2, 4), name="steps")
    return k.Model(steps, lay.RNN([lay.LSTMCell(3), lay.GRUCell(4)], unroll=True)(steps))


@net
def attention(k: Any) -> Any:
    lay = k.layers
    steps = k.Input(STEPS, name="steps")
    x, scores = lay.MultiHeadAttention(2, 3, value_dim=5)(steps, steps, return_attention_scores=True)
    x = lay.LayerNormalization(epsilon=1e-6)(lay.Add()([x, steps]))
    x = lay.EinsumDense("abc,cd->abd", output_shape=(None, 6), bias_axes="d", activation="gelu")(x)
    y = lay.Attention(use_scale=True)([x, x])
    z = lay.AdditiveAttention()([x, y])
    z = lay.MultiHeadAttention(2, 3)(query=z, value=y, key=x)
    return k.Model(steps, {"mean": lay.GlobalAveragePooling1D()(z), "scores": scores})


@net
def nested(k: Any) -> Any:
    lay = k.layers
    inner_in = k.Input((5,))
    a, b = lay.Dense(4)(inner_in), lay.Dense(4, activation="tanh")(inner_in)
    branches = k.Model(inner_in, lay.Multiply()([lay.BatchNormalization()(b), a]), name="branches")
    late = [lay.Dense(6, name="l1"), lay.BatchNormalization(trainable=False, name="l2"), lay.Dense(5, name="l3")]
    late = k.Sequential(late, name="late")
    x = first = k.Input((5,), name="first")
    shared = lay.Dense(5, name="shared")
    x = shared(late(shared(x)))
    frozen = k.Sequential([k.Input((4,)), lay.Dense(3), lay.BatchNormalization()], name="frozen")
    frozen.trainable = False
    y = lay.Concatenate()([branches(x), branches(first)])
    return k.Model(first, [frozen(branches(x)), lay.Dense(2)(y), late(x)])


@net
def distributed(k: Any) -> Any:
    lay = k.layers
    frames = k.Input((3, 8, 8, 2), name="frames")
    inner = k.Sequential([lay.Conv2D(3, 3), lay.BatchNormalization(), lay.GlobalMaxPooling2D()])
    x = lay.TimeDistributed(inner)(frames)
    y = lay.ConvLSTM2D(2, 3)(frames)
    x = lay.LSTM(4, unroll=True, implementation=1)(lay.TimeDistributed(lay.Dense(4))(x))
    return k.Model(frames, lay.Concatenate()([x, lay.Flatten()(lay.LayerNormalization(axis=[1, 2, 3])(y))]))


@net
def functions(k: Any) -> Any:
    import tensorflow as tf

    lay = k.layers
    steps = k.Input(STEPS, name="steps")
    x = (1.0 - steps) * 2.0 + lay.Dense(4)(steps) / 3.0
    x = tf.nn.relu(x[:, 1:]) - tf.reduce_mean(x, axis=1, keepdims=True)
    x = tf.concat([x, tf.math.tanh(x) ** 2.0], axis=-1)
    x = tf.clip_by_value(tf.nn.gelu(tf.transpose(x, [0, 2, 1])), -1.0, 1.0)
    y = tf.squeeze(tf.expand_dims(tf.linalg.matmul(x, tf.transpose(x, [0, 2, 1])), 1), 1)
    y = tf.reshape(y, [-1, 64]) * tf.sigmoid(lay.Dense(64)(lay.Flatten()(y)))
    return k.Model(steps, tf.nn.softmax(y + tf.sqrt(tf.abs(y))))


@net
def volumes(k: Any) -> Any:
    lay = k.layers
    box = k.Input((6, 6, 6, 2), name="box")
    x = lay.ZeroPadding3D(1)(lay.Conv3D(3, 3, dilation_rate=1)(box))
    x = lay.GroupNormalization(groups=3)(lay.Conv3DTranspose(3, 2)(x))
    x = lay.Cropping3D(1)(lay.AveragePooling3D(2, padding="same")(x))
    return k.Model(box, lay.UnitNormalization()(lay.Flatten()(x)))


@net
def prepared(k: Any) -> Any:
    lay = k.layers
    image = k.Input(IMAGE, name="image")
    table = k.Input((3,), name="table")
    scale = lay.Normalization(name="scale")
    scale.adapt(np.random.default_rng(1).normal(3, 5, (50, 3)))
    x = lay.RandomFlip()(lay.Resizing(8, 8)(lay.Rescaling(1 / 127.5, offset=-1)(image)))
    x = lay.GlobalAveragePooling2D()(lay.GaussianNoise(0.1)(lay.CenterCrop(6, 6)(x)))
    y = lay.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 1.0, 9.0])(table)
    bins = lay.CategoryEncoding(4, output_mode="multi_hot")(lay.Discretization([-1.0, 0.0, 1.0])(table))
    return k.Model([image, table], lay.Dense(3)(lay.Concatenate()([x, scale(table), y, bins])))


def inputs(model: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {}
    for tensor in model.inputs:
        shape, name = (5, *tensor.shape[1:]), tensor.name.split(":")[0]
        made[name] = rng.integers(0, 20, shape) if "int" in str(tensor.dtype) else rng.normal(size=shape)
        if len(shape) == 3 or made[name].dtype.kind == "i":
            made[name][:2, -1] = 0  # padding
        made[name] = made[name].astype(tensor.dtype.as_numpy_dtype)
    return made


def save(folder: Path, name: str, k: Any) -> None:
    k.backend.clear_session()
    k.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = NETS[name](k)
    for weight in model.weights:
        if "int" not in str(weight.dtype) and weight.name not in ("mean:0", "variance:0"):  # which was adapted
            positive = "variance" in weight.name or "stddev" in weight.name
            weight.assign(rng.uniform(0.5, 1.5, weight.shape) if positive else rng.normal(size=weight.shape) * 0.4)
    given = inputs(model, rng)
    answers = model(list(given.values()), training=False)
    answers = list(answers.values()) if isinstance(answers, dict) else answers
    answers = answers if isinstance(answers, list) else [answers]
    np.savez(folder / f"{name}.npz", **{f"in_{i}": x for i, x in enumerate(given.values())},
             **{f"out_{i}": np.asarray(y) for i, y in enumerate(answers)})  # fmt: skip
    model.save(folder / f"{name}.h5")
    model.save(folder / f"{name}.keras")
    if name in SAVED:
        model.save(folder / f"{name}_saved", save_format="tf")


def main(folder: Path, names: list[str]) -> None:
    import tf_keras

    warnings.simplefilter("ignore")
    for name in names or NETS:
        begun = time.process_time()
        save(folder, name, tf_keras)
        print(f"{name}: {time.process_time() - begun:.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
