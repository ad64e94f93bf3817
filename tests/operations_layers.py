"""A case for every layer of `keras.layers`: see `operations`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from operations import Case, Given, image, normal, signed, whole, words

LAYERS: dict[str, Case] = {}


def _each(names: str, *given: Given, **arguments: Any) -> None:
    """A layer of each name, made with ``arguments``, called on the input or on the list of them."""
    for name in names.split():
        LAYERS[name] = Case(given, _caller(getattr(layers, name), arguments))


def _caller(kind: Any, arguments: dict[str, Any]) -> Any:
    return lambda *tensors: kind(**arguments)(tensors[0] if len(tensors) == 1 else list(tensors))


def _case(name: str, *given: Given, build: Any) -> None:
    LAYERS[name] = Case(given, build)


def _no(reason: str, names: str) -> None:
    LAYERS.update((name, Case(reason=reason)) for name in names.split())


_A, _S, _P, _V, _I = signed(8), normal(6, 4), normal(8, 8, 3), normal(6, 6, 6, 2), image()

# --- activations, merging, shapes -------------------------------------------------------------------------------------

_each("Activation", _A, activation="gelu")
_each("ActivityRegularization Identity ELU LeakyReLU PReLU ReLU Softmax Flatten UnitNormalization", _A)
_each("Add Average Concatenate Maximum Minimum Multiply Subtract", _A, _A)
_each("Dot", _A, _A, axes=1)
for _name in ("add", "average", "concatenate", "maximum", "minimum", "multiply", "subtract"):
    _case(_name, _A, _A, build=lambda x, y, name=_name: getattr(layers, name)([x, y]))
_case("dot", _A, _A, build=lambda x, y: layers.dot([x, y], axes=1))
_each("Permute", _S, dims=(2, 1))
_each("RepeatVector", _A, n=3)
_each("Reshape", _S, target_shape=(3, 8))
_each("Cropping1D ZeroPadding1D UpSampling1D", _S)
_each("Cropping2D ZeroPadding2D UpSampling2D", _P)
_each("Cropping3D ZeroPadding3D UpSampling3D", _V)
_case("InputLayer", _A, build=lambda x: x * 2)
_case("Input", _A, build=lambda x: x * 2)

# --- weights ----------------------------------------------------------------------------------------------------------

_each("Dense", _A, units=5)
_each("EinsumDense", _S, equation="abc,cd->abd", output_shape=(None, 5))
_each("Embedding", whole(8, low=0, high=20), input_dim=20, output_dim=4)
_case("ReversibleEmbedding", whole(8, low=0, high=20), build=lambda x: _reversed(layers.ReversibleEmbedding(20, 4), x))
_each("Conv1D Conv1DTranspose SeparableConv1D", _S, filters=5, kernel_size=3)
_each("Conv2D Conv2DTranspose SeparableConv2D", _P, filters=5, kernel_size=3)
_each("Conv3D Conv3DTranspose", _V, filters=3, kernel_size=3)
_each("DepthwiseConv1D", _S, kernel_size=3)
_each("DepthwiseConv2D", _P, kernel_size=3)
_case("SpectralNormalization", _A, build=lambda x: layers.SpectralNormalization(layers.Dense(4))(x))
_case("TimeDistributed", _S, build=lambda x: layers.TimeDistributed(layers.Dense(3))(x))
_each("BatchNormalization GroupNormalization", _P)
LAYERS["GroupNormalization"] = Case((_P,), lambda x: layers.GroupNormalization(3)(x))
_each("LayerNormalization RMSNormalization", _A)


def _reversed(layer: Any, x: Any) -> Any:
    return layer(layer(x), reverse=True)


def _adapted(model: keras.Model) -> None:
    layer = next(la for la in model.layers if isinstance(la, layers.Normalization | layers.Discretization))
    layer.adapt(np.random.default_rng(0).normal(size=(256, 8)).astype("float32") * 3 + 1)


LAYERS["Normalization"] = Case((_A,), lambda x: layers.Normalization()(x), adapt=_adapted)
LAYERS["Discretization"] = Case((_A,), lambda x: layers.Discretization([-1.0, 0.0, 2.0])(x))

# --- pooling ----------------------------------------------------------------------------------------------------------

for _rank, _given in ((1, _S), (2, _P), (3, _V)):
    _each(f"AveragePooling{_rank}D MaxPooling{_rank}D", _given, pool_size=2)
    _each(f"GlobalAveragePooling{_rank}D GlobalMaxPooling{_rank}D", _given)
    _each(f"AdaptiveAveragePooling{_rank}D AdaptiveMaxPooling{_rank}D", _given, output_size=3)

# --- attention and recurrence -----------------------------------------------------------------------------------------

_each("AdditiveAttention Attention", _S, _S)
_case("MultiHeadAttention", _S, build=lambda x: layers.MultiHeadAttention(2, 4)(x, x))
_case("GroupQueryAttention", _S, build=lambda x: layers.GroupQueryAttention(4, 4, 2)(x, x))
_each("GRU LSTM SimpleRNN", _S, units=5)
_case("Bidirectional", _S, build=lambda x: layers.Bidirectional(layers.LSTM(5))(x))
_case("RNN", _S, build=lambda x: layers.RNN(layers.GRUCell(5))(x))
_case("StackedRNNCells", _S, build=lambda x: layers.RNN(layers.StackedRNNCells([layers.LSTMCell(5)] * 1))(x))
for _name in ("GRUCell", "LSTMCell", "SimpleRNNCell"):
    _case(_name, _S, build=lambda x, name=_name: layers.RNN(getattr(layers, name)(5))(x))
_each("ConvLSTM1D", normal(4, 6, 2), filters=3, kernel_size=3)
_each("ConvLSTM2D", normal(3, 6, 6, 2), filters=3, kernel_size=3)
_each("ConvLSTM3D", normal(3, 4, 4, 4, 2), filters=2, kernel_size=2)
_case("Masking", _S, build=lambda x: layers.LSTM(5)(layers.Masking(0.0)(x)))

# --- only in training -------------------------------------------------------------------------------------------------

_each("AlphaDropout Dropout GaussianDropout", _A, rate=0.5)
_each("GaussianNoise", _A, stddev=0.5)
_each("SpatialDropout1D", _S, rate=0.5)
_each("SpatialDropout2D", _P, rate=0.5)
_each("SpatialDropout3D", _V, rate=0.5)
_each("AugMix AutoContrast CutMix MixUp RandAugment RandomGrayscale RandomInvert", _I)
_each("ContrastLimitedAdaptiveHistogramEqualization", _I)
_each("RandomBrightness RandomContrast RandomRotation", _I, factor=0.2)
_each("RandomZoom", _I, height_factor=0.2)
LAYERS["RandomPosterization"] = Case((_I,), lambda x: layers.RandomPosterization(4)(x))
_each("RandomColorDegeneration RandomHue RandomSaturation RandomSharpness", _I, factor=0.2)
_each("RandomColorJitter RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomPerspective", _I)
_each("RandomCrop", _I, height=8, width=8)
_each("RandomShear", _I, x_factor=0.2, y_factor=0.2)
_each("RandomTranslation", _I, height_factor=0.2, width_factor=0.2)
_no("Keras makes a graph of it that is a cycle", "Equalization")
_each("Solarization", _I, threshold_factor=0.5)

# --- preprocessing ----------------------------------------------------------------------------------------------------

_each("CenterCrop", _I, height=8, width=8)
_each("Resizing", _I, height=24, width=20)
_each("Rescaling", _I, scale=1 / 255)
_case("Pipeline", _I, build=lambda x: layers.Pipeline([layers.Rescaling(1 / 255), layers.RandomFlip()])(x))
_each("CategoryEncoding", whole(8, low=0, high=5), num_tokens=5)
_each("Hashing", whole(8, low=0, high=100), num_bins=7)
_case("HashedCrossing", whole(low=0, high=9), whole(low=0, high=9), build=lambda x, y: layers.HashedCrossing(7)((x, y)))
_each("IntegerLookup", whole(8, low=0, high=9), vocabulary=[1, 2, 3, 4, 5])
_each("StringLookup", words(8), vocabulary=["a", "b", "c"])
_case("TextVectorization", words(1, of=("a b", "c", "b b a", "d c")), build=lambda x: layers.TextVectorization(
    vocabulary=["a", "b", "c"], output_sequence_length=4)(x))  # fmt: skip
_each("MelSpectrogram", normal(600), fft_length=128, sequence_stride=64, num_mel_bins=16, top_db=200.0)
_each("STFTSpectrogram", normal(600, 1), frame_length=128, frame_step=64, fft_length=128)
_each("Lambda", _A, function=lambda x: x * 2)

# --- no layers of a model ---------------------------------------------------------------------------------------------

_no("a base class: what computes is the user's own", "Layer Wrapper")
_no("describes an input; computes nothing", "InputSpec")
_no("reads or writes configurations", "serialize deserialize")
_no("of another library, which is not TensorFlow", "FlaxLayer JaxLayer TorchModuleWrapper")
_no("takes images with boxes, in data pipelines", "MaxNumBoundingBoxes")
_no("runs a SavedModel, whose dtypes are fixed", "TFSMLayer")
