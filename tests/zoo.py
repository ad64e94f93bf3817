"""Models to export: the smallest of every family in keras.applications, and one of everything that people bring.

Each entry builds a model with random weights; `make` perturbs the statistics of its norms, so that no norm is an
identity, and saves it as a user would have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import zoo_layers as own
from keras import layers, ops

from tfhalf.export.inputs import draw
from tfhalf.export.interface import interface_of
from tfhalf.export.load.model import Source

CUSTOM = Path(__file__).resolve().parent / "zoo_layers.py"

Build = Callable[[], keras.Model]


@dataclass(frozen=True)
class Entry:
    """``expected``: ``ok``, ``islands`` (layers have to stay in float32), or words of the reason for a refusal.

    ``onnx``: words of the reason where ONNX alone is refused. ``fast``: small enough for the tests.
    """

    name: str
    build: Build
    expected: str = "ok"
    onnx: str = ""
    fast: bool = False
    policy: str = "float32"


def make(entry: Entry, folder: Path) -> Path:
    """The entry as ``folder/NAME.keras``."""
    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(entry.policy)
    try:
        model = entry.build()
    finally:
        keras.config.set_dtype_policy(before)
    perturb(model)
    path = folder / f"{entry.name}.keras"
    model.save(path)
    return path


def perturb(model: keras.Model, seed: int = 0) -> None:
    """Draw the scales and offsets of norms, give BatchNormalizations the statistics that training gives, and draw those
    a little aside: with statistics of their own the signal of a deep net is lost on its way, or grows without end."""
    rng = np.random.default_rng(seed)
    norms = (layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization)
    held = [v for layer in model._flatten_layers() if isinstance(layer, norms) for v in layer.weights]
    for v in held:
        if "moving" not in v.path:
            drawn = rng.uniform(0.7, 1.4, v.shape) if "gamma" in v.path else rng.normal(size=v.shape) * 0.1
            v.assign(drawn)
    _train(model)
    for v in held:
        if "moving" in v.path:
            v.assign(np.asarray(v.value).astype(np.float32) * rng.uniform(0.95, 1.05, v.shape))


def _train(model: keras.Model) -> None:
    """One pass in training over drawn inputs, from which BatchNormalizations take their statistics whole."""
    batch = [layer for layer in model._flatten_layers() if isinstance(layer, layers.BatchNormalization)]
    if not batch or not hasattr(model, "operations"):
        return
    interface = interface_of(Source(model, "", {}), None)
    inputs, _ = draw.draw(model, interface.inputs)
    momenta = [layer.momentum for layer in batch]
    for layer in batch:
        layer.momentum = 0.0
    interface.call(lambda given: model(given, training=True), [ops.convert_to_tensor(x) for x in inputs.values()])
    for layer, momentum in zip(batch, momenta, strict=True):
        layer.momentum = momentum


# --- keras.applications -----------------------------------------------------------------------------------------------


def application(name: str, side: int, **arguments: Any) -> Build:
    def build() -> keras.Model:
        shape = (side, side, 3)
        model: keras.Model = getattr(keras.applications, name)(
            weights=None, input_shape=shape, classes=100, **arguments
        )
        return model

    return build


# --- transformers -----------------------------------------------------------------------------------------------------


def attention_block(x: Any, heads: int, width: int, *, causal: bool = False, activation: Any = "gelu") -> Any:
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    y = layers.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=causal)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization(epsilon=1e-6)(x)
    y = layers.Dense(4 * width, activation=activation)(y)
    return layers.Add()([x, layers.Dense(width)(y)])


def vit() -> keras.Model:
    image = keras.Input((32, 32, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(48, 8, 8, name="patches")(x)
    x = own.ClassToken(name="class_token")(layers.Reshape((-1, 48))(x))
    for _ in range(3):
        x = attention_block(x, 4, 48)
    return keras.Model(image, layers.Dense(10, name="head")(layers.LayerNormalization()(x)[:, 0]))


def gpt() -> keras.Model:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = own.Tokens(200, 64, 48, name="embed")(tokens)
    for _ in range(2):
        x = attention_block(x, 4, 48, causal=True)
    x = layers.LayerNormalization()(x)
    return keras.Model(tokens, layers.Dense(200, name="next")(x))


def bert() -> keras.Model:
    words = keras.Input((24,), dtype="int32", name="words")
    mask = keras.Input((24,), dtype="int32", name="mask")
    x = layers.LayerNormalization()(own.Tokens(300, 24, 48, name="embed")(words))
    seen = ops.cast(mask, "bool")[:, None, :]
    for _ in range(2):
        y = layers.MultiHeadAttention(4, 12)(x, x, attention_mask=seen)
        x = layers.LayerNormalization()(x + y)
        y = layers.Dense(48)(layers.Dense(96, activation="gelu")(x))
        x = layers.LayerNormalization()(x + y)
    pooled = layers.Dense(48, activation="tanh", name="pooler")(x[:, 0])
    return keras.Model([words, mask], {"hidden": x, "label": layers.Dense(3, name="classifier")(pooled)})


def grouped_attention() -> keras.Model:
    x = sequence = keras.Input((16, 32), name="sequence")
    x = layers.GroupQueryAttention(8, 4, 2)(x, x)
    y = layers.Attention(use_scale=True)([x, x])
    z = layers.AdditiveAttention()([x, x])
    return keras.Model(sequence, layers.Dense(4)(layers.Concatenate()([x, y, z])))


# --- recurrent nets ---------------------------------------------------------------------------------------------------


def bi_lstm() -> keras.Model:
    words = keras.Input((20,), dtype="int32", name="words")
    x = layers.Embedding(150, 24)(words)
    x = layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x)
    x = layers.Bidirectional(layers.LSTM(12))(x)
    return keras.Model(words, layers.Dense(4, activation="softmax")(x))


def masked_lstm() -> keras.Model:
    words = keras.Input((None,), dtype="int32", name="words")
    x = layers.LSTM(16)(layers.Embedding(50, 12, mask_zero=True)(words))
    return keras.Model(words, layers.Dense(1, activation="sigmoid")(x))


def gru() -> keras.Model:
    x = series = keras.Input((None, 6), name="series")
    x = layers.GRU(20, return_sequences=True)(x)
    x = layers.GRU(12, reset_after=False)(x)
    return keras.Model(series, layers.Dense(3)(x))


def simple_rnn() -> keras.Model:
    x = series = keras.Input((12, 5), name="series")
    x = layers.SimpleRNN(10, return_sequences=True)(x)
    return keras.Model(series, layers.TimeDistributed(layers.Dense(2))(x))


def conv_lstm() -> keras.Model:
    video = keras.Input((4, 12, 12, 3), name="video")
    x = layers.ConvLSTM2D(6, 3, padding="same")(video)
    return keras.Model(video, layers.Conv2D(2, 1)(x))


def returned_states() -> keras.Model:
    series = keras.Input((9, 4), name="series")
    return keras.Model(series, layers.LSTM(5, return_state=True, return_sequences=True)(series))


def stateful() -> keras.Model:
    series = keras.Input(batch_shape=(4, 8, 3), name="series")
    return keras.Model(series, layers.LSTM(5, stateful=True)(series))


# --- convolutional nets -----------------------------------------------------------------------------------------------


def unet() -> keras.Model:
    image = keras.Input((None, None, 1), name="image")
    x, skips = image, []
    for width in (8, 16):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    for width, skip in zip((16, 8), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(width, 2, 2)(x)
        x = layers.Conv2D(width, 3, padding="same", activation="relu")(layers.Concatenate()([x, skip]))
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid", name="mask")(x))


def wavenet() -> keras.Model:
    x = audio = keras.Input((128, 1), name="audio")
    x = layers.Conv1D(16, 1)(x)
    total = 0
    for rate in (1, 2, 4, 8, 16):
        gate = layers.Conv1D(16, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(x)
        y = layers.Conv1D(16, 2, padding="causal", dilation_rate=rate, activation="tanh")(x) * gate
        y = layers.Conv1D(16, 1)(y)
        x, total = x + y, total + y
    return keras.Model(audio, layers.Conv1D(32, 1, name="levels")(layers.ReLU()(total)))


def kinds_of_convolution() -> keras.Model:
    x = image = keras.Input((24, 24, 3), name="image")
    x = layers.SeparableConv2D(12, 3, padding="same", activation="swish")(x)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x)
    x = layers.Conv2D(16, 3, dilation_rate=2, padding="same", groups=4)(x)
    x = layers.PReLU(shared_axes=[1, 2])(layers.GroupNormalization(4)(x))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same")(x)
    x = layers.UpSampling2D(interpolation="bilinear")(layers.AveragePooling2D(3, 2, "same")(x))
    x = layers.ZeroPadding2D(1)(layers.Cropping2D(2)(x))
    return keras.Model(image, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def volumes() -> keras.Model:
    x = scan = keras.Input((8, 12, 12, 2), name="scan")
    x = layers.Conv3D(8, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv3DTranspose(4, 2, 2)(layers.MaxPooling3D()(x))
    return keras.Model(scan, layers.Dense(3)(layers.GlobalAveragePooling3D()(x)))


def sequential() -> keras.Model:
    stack = [layers.Conv2D(8, 3, activation="relu"), layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.5)]
    return keras.Sequential([keras.Input((12, 12, 3)), *stack, layers.Dense(4, activation="softmax")])


def nested() -> keras.Model:
    inside = keras.Input((16, 16, 8))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(inside))
    block = keras.Model(inside, layers.ReLU()(x), name="block")
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 1)(image)
    tail = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(6)], name="tail")
    return keras.Model(image, tail(block(block(x))))


def dynamic_size() -> keras.Model:
    x = image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(8, 3, 2, activation="relu")(x)
    x = layers.UnitNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(4)(x))


def augmented() -> keras.Model:
    x = image = keras.Input((16, 16, 3), name="image")
    x = layers.RandomFlip("horizontal")(layers.Rescaling(1 / 255)(x))
    x = layers.RandomRotation(0.1)(x)
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))


def resizing() -> keras.Model:
    x = image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(6, 3, 2, padding="same")(layers.Resizing(24, 24)(x))
    x = layers.Conv1D(12, 3, groups=4, padding="same")(layers.Reshape((144, 12))(layers.Concatenate()([x, x])))
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def backbone() -> keras.Model:
    inner = keras.applications.MobileNetV3Small(weights=None, include_top=False, input_shape=(64, 64, 3))
    image = keras.Input((64, 64, 3), name="photo")
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(inner(image)))
    return keras.Model(image, layers.Dense(5, activation="softmax", name="kind")(x))


def operations() -> keras.Model:
    x = series = keras.Input((8, 6), name="series")
    y = ops.softmax(ops.einsum("btc,bsc->bts", x, x) / np.float32(2.4))
    y = ops.matmul(y, x) + np.arange(6, dtype=np.float32)
    y = layers.EinsumDense("abc,cd->abd", output_shape=(None, 4))(ops.where(y > 0, y, 0.1 * y))
    return keras.Model(series, layers.Dense(2)(ops.mean(y, 1)))


# --- shapes of arguments ----------------------------------------------------------------------------------------------


def multi() -> keras.Model:
    image = keras.Input((16, 16, 3), name="image")
    numbers = keras.Input((5,), name="numbers")
    kind = keras.Input((1,), dtype="int32", name="kind")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(image))
    y = layers.Dense(8, activation="tanh")(numbers)
    z = layers.Flatten()(layers.Embedding(7, 4)(kind))
    x = layers.Concatenate()([x, y, z])
    return keras.Model([image, numbers, kind], [layers.Dense(4, name="label")(x), layers.Dense(1, name="price")(x)])


def dict_input() -> keras.Model:
    given = {"left": keras.Input((6,), name="left"), "right": keras.Input((6,), name="right")}
    twice = layers.Dense(5, activation="relu", name="shared")
    x = layers.Multiply()([twice(given["left"]), twice(given["right"])])
    return keras.Model(given, {"same": layers.Dense(1, activation="sigmoid")(x), "features": x})


def embedding() -> keras.Model:
    item = keras.Input((), dtype="int32", name="item")
    x = layers.Embedding(500, 16)(item)
    return keras.Model(item, layers.Dense(20, name="scores")(x))


def scalars() -> keras.Model:
    x = keras.Input((), name="x")
    return keras.Model(x, layers.Dense(3)(layers.Reshape((1,))(x)))


def subclassed() -> keras.Model:
    model = own.Residual(8, 5)
    model(np.zeros((1, 16, 16, 3), np.float32))
    return model


def subclassed_dict() -> keras.Model:
    model = own.TwoInputs()
    model({"a": np.zeros((1, 4), np.float32), "b": np.zeros((1, 6), np.float32)})
    return model


def preprocessing() -> keras.Model:
    numbers, bins = keras.Input((4,), name="numbers"), keras.Input((1,), name="age")
    kind = keras.Input((1,), dtype="int32", name="kind")
    rng = np.random.default_rng(0)
    scale = layers.Normalization(name="scale")
    scale.adapt(rng.normal(size=(200, 4)) * [1e3, 1e-3, 1, 500] + [1e5, 0, -3, 7])
    x = scale(numbers)
    y = layers.Discretization([10.0, 30.0, 60.0], output_mode="one_hot")(bins)
    z = layers.CategoryEncoding(5, "one_hot")(kind)
    return keras.Model([numbers, bins, kind], layers.Dense(2)(layers.Concatenate()([x, y, z])))


def audio() -> keras.Model:
    """A spectrogram within the net: a Fourier transform, computed in float32 under every policy."""
    x = sound = keras.Input((2000,), name="sound")
    x = layers.MelSpectrogram(fft_length=256, sequence_stride=128, num_mel_bins=32, top_db=200, name="mel")(x)
    x = layers.Conv1D(16, 3, activation="relu")(layers.Permute((2, 1))(x))
    return keras.Model(sound, layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def words() -> keras.Model:
    text = keras.Input((1,), dtype="string", name="text")
    look = layers.StringLookup(vocabulary=["cat", "dog", "bird"])
    return keras.Model(text, layers.Dense(3)(layers.Flatten()(layers.Embedding(5, 8)(look(text)))))


def vae() -> keras.Model:
    x = image = keras.Input((64,), name="image")
    x = layers.Dense(32, activation="relu")(x)
    mean, log_variance = layers.Dense(4, name="mean")(x), layers.Dense(4, name="log_variance")(x)
    code = own.Sampling(name="sampling")([mean, log_variance])
    return keras.Model(image, layers.Dense(64, activation="sigmoid")(layers.Dense(32, activation="relu")(code)))


def stored_code() -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2)(layers.Lambda(lambda value: value * 2, name="twice")(x)))


# --- what plain float16 fails at --------------------------------------------------------------------------------------


def overflow() -> keras.Model:
    """Activations beyond 65504 that the next layer normalises: infinite in float16, hidden where a CPU upcasts."""
    x = image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(x)
    x = layers.Conv2D(8, 3, name="large", kernel_initializer=keras.initializers.RandomNormal(stddev=1.5e4))(x)
    x = layers.AveragePooling2D(2, name="pool")(x)
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.Conv2D(8, 3, activation="relu", name="after")(x)
    return keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D()(x)))


def square() -> keras.Model:
    """Activations of some 1e3, which a hand-written layer normalisation squares."""
    x = series = keras.Input((12, 16), name="series")
    x = layers.Dense(32, name="loud", kernel_initializer=keras.initializers.RandomNormal(stddev=300))(x)
    x = own.NaiveLayerNorm(name="norm")(x)
    x = layers.Dense(16, activation="relu", name="after")(x)
    return keras.Model(series, layers.Dense(4, name="head")(x))


def beyond() -> keras.Model:
    """Weights beyond 65504, on inputs that are small enough for float16."""
    x = numbers = keras.Input((8,), name="numbers")
    x = layers.Dense(8, activation="relu", name="first")(x)
    x = layers.Rescaling(1e-4, name="small")(x)
    x = layers.Dense(8, name="heavy", kernel_initializer=keras.initializers.RandomNormal(stddev=1e5))(x)
    x = layers.Rescaling(0.1, name="back")(x)
    return keras.Model(numbers, layers.Dense(4, name="head")(x))


def flushed() -> keras.Model:
    """A stored variance of 1e-9, which float16 flushes to zero."""
    x = numbers = keras.Input((8,), name="numbers")
    x = layers.Dense(8, name="tiny", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-5))(x)
    norm = own.FixedNorm(name="norm")
    x = norm(x)
    norm.variance.assign(np.full(8, 1e-9))
    return keras.Model(numbers, layers.Dense(4, name="head")(layers.ReLU()(x)))


ENTRIES = (
    Entry("ConvNeXtTiny", application("ConvNeXtTiny", 64)),
    Entry("DenseNet121", application("DenseNet121", 64)),
    Entry("EfficientNetB0", application("EfficientNetB0", 64)),
    Entry("EfficientNetV2B0", application("EfficientNetV2B0", 64)),
    Entry("InceptionResNetV2", application("InceptionResNetV2", 96)),
    Entry("InceptionV3", application("InceptionV3", 96)),
    Entry("MobileNet", application("MobileNet", 64)),
    Entry("MobileNetV2", application("MobileNetV2", 64)),
    Entry("MobileNetV3Small", application("MobileNetV3Small", 64)),
    Entry("NASNetMobile", application("NASNetMobile", 96)),
    Entry("ResNet50", application("ResNet50", 64)),
    Entry("ResNet50V2", application("ResNet50V2", 64)),
    Entry("VGG16", application("VGG16", 32)),
    Entry("Xception", application("Xception", 96)),
    Entry("vit", vit, fast=True),
    Entry("gpt", gpt, fast=True),
    Entry("bert", bert, fast=True),
    Entry("grouped_attention", grouped_attention),
    Entry("bi_lstm", bi_lstm, fast=True),
    Entry("masked_lstm", masked_lstm),
    Entry("gru", gru),
    Entry("simple_rnn", simple_rnn),
    Entry("conv_lstm", conv_lstm),
    Entry("returned_states", returned_states),
    Entry("stateful", stateful, "stateful", fast=True),
    Entry("unet", unet, fast=True),
    Entry("wavenet", wavenet),
    Entry("kinds_of_convolution", kinds_of_convolution),
    Entry("volumes", volumes),
    Entry("sequential", sequential),
    Entry("nested", nested, fast=True),
    Entry("nested_mixed_float16", nested, policy="mixed_float16"),
    Entry("nested_mixed_bfloat16", nested, policy="mixed_bfloat16"),
    Entry("dynamic_size", dynamic_size),
    Entry("augmented", augmented),
    Entry("resizing", resizing, fast=True),
    Entry("backbone", backbone),
    Entry("operations", operations),
    Entry("multi", multi, fast=True),
    Entry("dict_input", dict_input, fast=True),
    Entry("embedding", embedding),
    Entry("scalars", scalars),
    Entry("subclassed", subclassed, fast=True),
    Entry("subclassed_dict", subclassed_dict),
    Entry("preprocessing", preprocessing),
    Entry("audio", audio, fast=True),
    Entry("words", words, onnx="text", fast=True),
    Entry("vae", vae, "draws random numbers", fast=True),
    Entry("stored_code", stored_code, "Lambda", fast=True),
    Entry("overflow", overflow, "islands", fast=True),
    Entry("square", square, "islands", fast=True),
    Entry("beyond", beyond, "islands", fast=True),
    Entry("flushed", flushed, "islands", fast=True),
)
