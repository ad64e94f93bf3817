"""A case for every function of `keras.ops`: see `operations`."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops
from operations import Case, Given, distinct, image, normal, positive, signed, truth, unit, whole

OPS: dict[str, Case] = {}


def _each(names: str, *given: Given, build: Any = None) -> None:
    """The same case for several functions; ``build`` takes the function first."""
    for name in names.split():
        function = ops
        for part in name.split("."):
            function = getattr(function, part)
        OPS[name] = Case(given, _bound(function, build))


def _bound(function: Any, build: Any) -> Any:
    return function if build is None else lambda *tensors: build(function, *tensors)


def _no(reason: str, names: str) -> None:
    OPS.update((name, Case(reason=reason)) for name in names.split())


_A, _B = signed(8), signed(8)

# --- element by element -----------------------------------------------------------------------------------------------

_each(
    "abs absolute arcsinh arctan cbrt ceil celu copy cos deg2rad elu erf erfc exp exp2 expm1 fabs floor gelu "
    "hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh i0 identity isfinite isinf isnan isneginf isposinf "
    "isreal leaky_relu log_sigmoid logical_not nan_to_num negative rad2deg relu relu6 round selu sigmoid sign signbit "
    "silu sin sinc sinh soft_shrink softplus softsign sparse_plus sparse_sigmoid square squareplus stop_gradient "
    "swish tan tanh tanh_shrink trunc cosh conj conjugate real imag angle zeros_like ones_like empty_like",
    _A,
)
OPS["identity"] = Case((_A,), lambda x: x * ops.diag(ops.identity(8)))
OPS["empty_like"] = Case((_A,), lambda x: ops.shape(ops.empty_like(x))[-1] * x)
_each("log log10 log1p log2 sqrt rsqrt reciprocal", positive(8))
_each("arccos arcsin arctanh erfinv", unit(8))
_each("arccosh", positive(8, least=1.0))
_each("threshold", _A, build=lambda f, x: f(x, 0.5, -1.0))
_each("clip", _A, build=lambda f, x: f(x, -1.0, 2.0))
_each("cast saturate_cast", _A, build=lambda f, x: [f(x, "int32"), f(x, "float32") + 1])
_each("view", _A, build=lambda f, x: f(ops.cast(x, "float32"), "int32"))
_each("add subtract multiply maximum minimum fmax fmin hypot logaddexp logaddexp2 arctan2", _A, _B)
_each("equal not_equal greater greater_equal less less_equal logical_and logical_or logical_xor isclose", _A, _B)
_each("divide true_divide divide_no_nan floor_divide mod fmod", _A, _B)
_each("nextafter", _A, _B)
_each("heaviside", _A, build=lambda f, x: f(x, ops.array(0.5)))
_each("ldexp", _A, whole(8))
_each("power", positive(8, least=0.125), unit(8, low=-2, high=2))
_each("where", truth(8), _A, _B)
_each("select", _A, _B, build=lambda f, x, y: f([x > 1, y > 1], [x, y], 0.0))
_each("bitwise_and bitwise_or bitwise_xor gcd lcm", whole(8), whole(8))
_each("bitwise_invert bitwise_not", whole(8))
_each("bitwise_left_shift left_shift bitwise_right_shift right_shift", whole(8, low=0), whole(8, low=0, high=5))
_no("takes float32 alone in Keras: 1j does not become a float16 tensor", "view_as_complex")
_each("view_as_real", signed(8), build=lambda f, x: f(ops.cast(x, "complex64")))
_each("glu", _A)
_each("log_softmax softmax sparsemax normalize", _A)
_each("polar", positive(8), _A, build=lambda f, r, a: [ops.real(f(r, a)), ops.imag(f(r, a))])

# --- reductions -------------------------------------------------------------------------------------------------------

_each(
    "amax amin average count_nonzero logsumexp max mean median min nanmax nanmean nanmedian nanmin nanstd nansum "
    "nanvar norm std sum var",
    _A,
    build=lambda f, x: f(x, axis=-1),
)
_each("prod nanprod", normal(8), build=lambda f, x: f(x, axis=-1))
_each("argmax argmin nanargmax nanargmin", distinct(8), build=lambda f, x: f(x, axis=-1))
_each("all any", _A, build=lambda f, x: f(x > 0, axis=-1))
_each("cumsum cumprod nancumsum nancumprod", normal(8), build=lambda f, x: f(x, axis=-1))
_each("moments", _A, build=lambda f, x: f(x, axes=[-1]))
_each("quantile nanquantile", _A, build=lambda f, x: f(x, 0.3, axis=-1))
_each("percentile nanpercentile", _A, build=lambda f, x: f(x, 30.0, axis=-1))
_each("ptp", _A, build=lambda f, x: f(x, axis=-1))
_each("trapezoid", _A)
_each("diff", _A)

# --- sorting and counting ---------------------------------------------------------------------------------------------

_each("sort", _A)
_each("argsort", distinct(8))
_no("Keras marks what it has found in all samples together", "argpartition")
_each("top_k", distinct(8), build=lambda f, x: list(f(x, 3)))
_each("in_top_k", whole(low=0, high=8), distinct(8), build=lambda f, t, x: f(t, x, 3))
_each(
    "searchsorted", _A, build=lambda f, x: ops.reshape(f(ops.array([-1.0, 0.0, 2.0]), ops.reshape(x, (-1,))), (-1, 8))
)
_each("digitize", _A, build=lambda f, x: f(x, np.array([-1.0, 0.0, 2.0], "float32")))
_each("bincount", whole(8, low=0, high=5), build=lambda f, x: f(x, minlength=5))
_each("isin", whole(8), build=lambda f, x: f(x, [1, 2, 3]))
_each("one_hot multi_hot", whole(8, low=0, high=5), build=lambda f, x: f(x, num_classes=5))
_each(
    "segment_max segment_min segment_prod segment_sum",
    normal(8),
    build=lambda f, x: ops.transpose(f(ops.transpose(x), ops.array([0, 0, 1, 1, 1, 2, 2, 2]), 3)),
)
_each("unravel_index", whole(8, low=0, high=12), build=lambda f, x: list(f(x, (3, 4))))

# --- shapes -----------------------------------------------------------------------------------------------------------

_M = signed(4, 6)
_each("append", _A, _B, build=lambda f, x, y: f(x, y, axis=-1))
_each("array_split", _A, build=lambda f, x: list(f(x, 3, axis=-1)))
_each("broadcast_to", signed(1), build=lambda f, x: x + f(ops.ones((1,)), (8,)))
_each("concatenate", _A, _B, build=lambda f, x, y: f([x, y], axis=-1))
_each("hstack", _A, _B, build=lambda f, x, y: f([x, y]))
_each("dstack", _M, _M, build=lambda f, x, y: f([x, y]))
_each("stack", _A, _B, build=lambda f, x, y: f([x, y], axis=-1))
_each("vstack", _A, build=lambda f, x: ops.transpose(f([ops.transpose(x), ops.transpose(x)])))
_each("split", _A, build=lambda f, x: list(f(x, 2, axis=-1)))
_each("hsplit", _A, build=lambda f, x: list(f(x, 2)))
_each("dsplit", signed(4, 6), build=lambda f, x: list(f(x, 2)))
_each("vsplit", _A, build=lambda f, x: [ops.transpose(y) for y in f(ops.transpose(x), 2)])
_each("expand_dims", _A, build=lambda f, x: f(x, 1))
_each("squeeze", signed(1, 8), build=lambda f, x: f(x, 1))
_each("flip", _M, build=lambda f, x: f(x, axis=-1))
_each("fliplr", _M)
_each("flipud", _M, build=lambda f, x: ops.transpose(f(ops.transpose(x))))
_each("moveaxis", _M, build=lambda f, x: f(x, 1, 2))
_each("swapaxes", _M, build=lambda f, x: f(x, 1, 2))
_each("transpose", _M, build=lambda f, x: f(x, (0, 2, 1)))
_each("rearrange", _M, build=lambda f, x: x + f(ops.ones((6, 4)), "h w -> w h"))
_each("reshape", _M, build=lambda f, x: f(x, (-1, 24)))
_each("ravel", _M, build=lambda f, x: ops.reshape(f(x), (-1, 24)))
_each("repeat", _A, build=lambda f, x: f(x, 2, axis=-1))
_each("tile", _A, build=lambda f, x: f(x, (1, 2)))
_each("roll", _A, build=lambda f, x: f(x, 2, axis=-1))
_each("rot90", _M, build=lambda f, x: f(x, axes=(1, 2)))
_each("pad", _A, build=lambda f, x: f(x, ((0, 0), (1, 2)), constant_values=-1.0))
_each("unstack", _A, build=lambda f, x: list(f(x, axis=-1)))
_each("take", _M, build=lambda f, x: f(x, [2, 0], axis=-1))
_each("take_along_axis", _A, whole(8, low=0), build=lambda f, x, i: f(x, i, axis=-1))
_each("get_item", _M, build=lambda f, x: f(x, (slice(None), 1, slice(0, 6, 2))))
_each("slice", _M, build=lambda f, x: x * ops.reshape(f(ops.arange(12.0), [2], (6,)), (1, 6)))
_each("slice_update", _A, build=lambda f, x: x + f(ops.zeros((8,)), [2], ops.ones((3,))))
_each("scatter", _A, build=lambda f, x: x * f(ops.array([[1], [3]]), ops.array([1.0, 2.0]), (8,)))
_each(
    "scatter_update",
    _A,
    build=lambda f, x: ops.transpose(f(ops.transpose(x), ops.array([[1], [3]]), ops.transpose(x[:, 2:4]))),
)
_each("shape", _M, build=lambda f, x: ops.reshape(x, (-1, f(x)[1] * f(x)[2])))
_each("size", _M, build=lambda f, x: x * ops.cast(f(x[0]), "float32"))
_each("diag", _A, build=lambda f, x: ops.matmul(x, f(ops.arange(8, dtype="float32"))))
_each("diagflat", _A, build=lambda f, x: ops.matmul(x, f(ops.arange(8, dtype="float32"))))
_each("diagonal", signed(4, 4), build=lambda f, x: f(x, axis1=1, axis2=2))
_each("trace", signed(4, 4), build=lambda f, x: f(x, axis1=1, axis2=2))
_each("tril triu", signed(4, 4))
_each("meshgrid", _A, build=lambda f, x: x * f(ops.arange(8.0), ops.arange(2.0))[0][0])
_each("vander", _A, build=lambda f, x: ops.matmul(x, f(ops.arange(8.0) / 8, 4)))
_each("depth_to_space", signed(4, 4, 8), build=lambda f, x: f(x, 2))
_each("space_to_depth", signed(4, 4, 2), build=lambda f, x: f(x, 2))
_each("unfold", signed(2, 6, 6), build=lambda f, x: f(x, 3))
_each("fold", signed(8, 9), build=lambda f, x: f(x, (4, 4), 2))
_each("extract_sequences", signed(32), build=lambda f, x: f(x, 8, 4))

# --- constants --------------------------------------------------------------------------------------------------------

_each("arange", _A, build=lambda f, x: x * f(8, dtype="float32"))
_each("array convert_to_tensor", _A, build=lambda f, x: x * f(np.arange(8, dtype="float32")))
_each("bartlett blackman hamming hanning zeros ones", _A, build=lambda f, x: x * f(8))
_each("empty", _A, build=lambda f, x: x * f((8,)).shape[0])
_each("eye", _A, build=lambda f, x: ops.matmul(x, f(8)))
_each("tri", _A, build=lambda f, x: ops.matmul(x, f(8)))
_each("full", _A, build=lambda f, x: x * f((8,), 3.0))
_each("full_like", _A, build=lambda f, x: f(x, 3.0))
_each("geomspace", _A, build=lambda f, x: x * f(1.0, 4.0, 8))
_each("linspace logspace", _A, build=lambda f, x: x * f(0.0, 1.0, 8))
_each("kaiser", _A, build=lambda f, x: x * f(8, 2.0))

# --- products and linear algebra --------------------------------------------------------------------------------------

_S = normal(4, 4)


def _definite(x: Any) -> Any:
    """A symmetric matrix whose eigenvalues are 1 and more."""
    return ops.matmul(x, ops.swapaxes(x, -1, -2)) + ops.eye(4)


_each("matmul", normal(4, 6), normal(6, 3))
_each("dot", normal(8), build=lambda f, x: f(x, ops.reshape(ops.arange(24.0) / 8, (8, 3))))
_each("inner", normal(8), build=lambda f, x: f(x, ops.reshape(ops.arange(24.0) / 8, (3, 8))))
_each("tensordot", normal(4, 6), build=lambda f, x: f(x, ops.reshape(ops.arange(18.0) / 8, (6, 3)), axes=1))
_each("outer", normal(8), build=lambda f, x: ops.reshape(f(x, ops.arange(3.0)), (-1, 8, 3)))
_each("kron", normal(8), build=lambda f, x: f(x, ops.array([[1.0, 2.0]])))
_each("vdot", normal(8), build=lambda f, x: x * f(ops.arange(8.0), ops.arange(8.0)))
_each("cross", normal(5, 3), normal(5, 3))
_each("cdist", normal(5, 3), normal(4, 3))
_each("einsum", normal(4, 6), normal(6, 3), build=lambda f, x, y: f("bij,bjk->bki", x, y))
_each("correlate", normal(8), build=lambda f, x: x * ops.sum(f(ops.arange(8.0), ops.arange(3.0))))
_each("corrcoef", normal(8), build=lambda f, x: ops.matmul(x, f(ops.reshape(ops.arange(24.0) ** 2, (8, 3)))))
_each("cholesky cholesky_inverse inv pinv", _S, build=lambda f, x: f(_definite(x) if f is not ops.cholesky_inverse
      else ops.cholesky(_definite(x))))  # fmt: skip
_each("det logdet", _S, build=lambda f, x: f(_definite(x)))
_each("slogdet", _S, build=lambda f, x: list(f(_definite(x))))
_each("eig", _S, build=lambda f, x: ops.sort(ops.real(f(_definite(x))[0])))
_each("eigh", _S, build=lambda f, x: f(_definite(x))[0])
_each("svd", _S, build=lambda f, x: f(x, compute_uv=False))
_each("qr", _S, build=lambda f, x: ops.abs(f(_definite(x))[1]))
_no("TensorFlow has it for one matrix at a time, and samples are many", "lu_factor lstsq")
_each("solve", _S, normal(4, 2), build=lambda f, x, b: f(_definite(x), b))
_each("solve_triangular", _S, normal(4, 2), build=lambda f, x, b: f(ops.cholesky(_definite(x)), b, lower=True))
_each("matrix_rank", _S, build=lambda f, x: f(_definite(x)))
_each("fft", normal(8), normal(8), build=lambda f, x, y: list(f((x, y))))
_each("fft2 ifft2", normal(4, 4), normal(4, 4), build=lambda f, x, y: list(f((x, y))))
_each("rfft", normal(8), build=lambda f, x: list(f(x)))
_each("irfft", normal(5), normal(5), build=lambda f, x, y: f((x, y)))
_each("stft", normal(64), build=lambda f, x: list(f(x, 16, 8, 16)))
_each("istft", normal(8, 9), normal(8, 9), build=lambda f, x, y: f((x, y), 16, 8, 16))

# --- neural networks --------------------------------------------------------------------------------------------------

_P = normal(8, 8, 3)
_KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype("float32")
_each("adaptive_average_pool adaptive_max_pool", _P, build=lambda f, x: f(x, (3, 3)))
_each("average_pool max_pool", _P, build=lambda f, x: f(x, 2))
_each("conv", _P, build=lambda f, x: f(x, _KERNEL))
_no("Keras hands its arguments on in another order; a layer has it", "conv_transpose")
_each("depthwise_conv", _P, build=lambda f, x: f(x, _KERNEL[..., :1]))
_each("separable_conv", _P, build=lambda f, x: f(x, _KERNEL[..., :1], np.ones((1, 1, 3, 4), "float32")))
_each("batch_normalization", _P, build=lambda f, x: f(x, np.zeros(3, "float32"), np.ones(3, "float32") * 4, -1))
_each("layer_normalization", _A, build=lambda f, x: f(x, np.ones(8, "float32"), np.zeros(8, "float32")))
_each("rms_normalization", _A, build=lambda f, x: f(x, np.ones(8, "float32")))
_each("dot_product_attention", *[normal(6, 2, 4)] * 3)
_each("binary_crossentropy", unit(8, low=0), unit(8, low=0))
_each("categorical_crossentropy", normal(8), normal(8), build=lambda f, x, y: f(ops.softmax(x), ops.softmax(y)))
_each("sparse_categorical_crossentropy", whole(low=0, high=8), normal(8), build=lambda f, t, y: f(t, ops.softmax(y)))
_each("ctc_loss", whole(3, low=1, high=5), normal(8, 5), build=lambda f, t, y: f(
    t, y, ops.zeros_like(t[:, 0]) + 3, ops.zeros_like(t[:, 0]) + 8))  # fmt: skip
_each("ctc_decode", normal(8, 5), build=lambda f, y: f(y, ops.cast(y[:, 0, 0] * 0 + 8, "int32"))[0][0])
_each("psnr", _A, _B, build=lambda f, x, y: x * f(ops.arange(4.0), ops.arange(4.0) + 1, 4.0))

# --- images -----------------------------------------------------------------------------------------------------------

_I = image()
_each("image.affine_transform", _I, build=lambda f, x: f(x, ops.array([1.0, 0.1, 2, 0, 1.2, -1, 0, 0])))
_each("image.crop_images", _I, build=lambda f, x: f(x, 2, 3, target_height=8, target_width=8))
_each("image.pad_images", _I, build=lambda f, x: f(x, 2, 3, target_height=24, target_width=24))
_each("image.elastic_transform", _I, build=lambda f, x: f(x, seed=1))
_each("image.extract_patches", _I, build=lambda f, x: f(x, (4, 4)))
_each("image.extract_patches_3d", normal(8, 8, 8, 2), build=lambda f, x: f(x, (4, 4, 4)))
_each("image.gaussian_blur", _I)
_each("image.hsv_to_rgb image.rgb_to_hsv", unit(8, 8, 3, low=0))
_each("image.map_coordinates", unit(2, low=0, high=7), build=lambda f, x: f(
    ops.reshape(ops.arange(64.0), (8, 8)), ops.transpose(x), order=1))  # fmt: skip
_each("image.perspective_transform", _I, build=lambda f, x: f(
    x, np.array([[0.0, 0], [0, 15], [15, 0], [15, 15]], "float32"),
    np.array([[1.0, 2], [0, 14], [13, 1], [15, 15]], "float32")))  # fmt: skip
_each("image.resize", _I, build=lambda f, x: [f(x, (24, 24)), f(x, (8, 8), interpolation="nearest"),
      f(x, (10, 10), interpolation="bicubic")])  # fmt: skip
_each("image.rgb_to_grayscale", _I)
_each("image.scale_and_translate", _I, build=lambda f, x: x[:, :8, :8] * f(
    ops.ones((4, 4, 3)), (8, 8, 3), ops.array([2.0, 2]), ops.array([0.0, 1]), (0, 1), "linear"))  # fmt: skip
_each("image.sobel_edges", _I)
_each("image.ssim", unit(16, 16, 3, low=0), unit(16, 16, 3, low=0))

# --- with functions of Python -----------------------------------------------------------------------------------------


class Step(layers.Layer):
    """A layer that calls a function, since operations that take functions of Python cannot be saved by themselves."""

    def __init__(self, kind: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.kind = kind

    def call(self, x: Any) -> Any:
        return STEPS[self.kind](x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


def _fori(x: Any) -> Any:
    return ops.fori_loop(0, 3, lambda i, y: y * 0.5 + 1, x)


STEPS: dict[str, Any] = {
    "cond": lambda x: ops.cond(ops.shape(x)[0] > 0, lambda: x * 2, lambda: x),
    "custom_gradient": lambda x: ops.custom_gradient(lambda y: (y * 2, lambda g, upstream=None: upstream))(x),
    "fori_loop": _fori,
    "jvp": lambda x: list(ops.jvp(lambda y: y * y, (x,), (ops.ones_like(x),))),
    "map": lambda x: ops.map(lambda row: row * 2 + 1, x),
    "scan": lambda x: ops.transpose(ops.scan(lambda c, y: (c + y, c + y), x[:, 0] * 0, ops.transpose(x))[1]),
    "switch": lambda x: ops.switch(ops.array(1), [lambda y: y, lambda y: y * 2], x),
    "vectorized_map": lambda x: ops.vectorized_map(lambda row: row * 2 + 1, x),
    "while_loop": lambda x: ops.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 0.5), (0, x))[1],
}
for _name in STEPS:
    OPS[_name] = Case((normal(8),), lambda x, kind=_name: Step(kind)(x))

# --- no models --------------------------------------------------------------------------------------------------------

_no("needs the number of samples, which is open", "associative_scan vectorize")
_no("gives numpy arrays: for programs, not for models", "convert_to_numpy")
_no("answers a question about a tensor to Python", "is_tensor ndim dtype")
_no("gives one truth value for all samples of a call", "allclose")
_no("gives as many numbers as the values say, over all samples of a call", "nonzero unique")
_no("takes one row of numbers alone, and samples are many", "histogram")
