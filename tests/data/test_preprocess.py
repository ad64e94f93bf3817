"""Preprocess: measured, given, applied, written down."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfhalf.config import Normalize
from tfhalf.data import Preprocess
from tfhalf.data.preprocess import SMALLEST_STD, ColumnsPreprocess, from_dict
from tfhalf.errors import DataError

arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.int16, np.float32]),
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=6),
    elements={"min_value": 0, "max_value": 255},
)


@given(x=arrays)
@example(x=np.array([[2.0**-52], [0]], np.float32))
@example(x=np.array([[1e-45], [0]], np.float32))
@settings(deadline=None)
def test_standardize_is_numpy_in_float64(x):
    fitted = Preprocess.fit("standardize", x)
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    np.testing.assert_allclose(fitted.mean, flat.mean(axis=0), rtol=1e-12, atol=1e-12)
    std = flat.std(axis=0)
    std[(np.ptp(flat, axis=0) == 0) | (std <= SMALLEST_STD)] = 1
    np.testing.assert_allclose(fitted.std, std, rtol=1e-6)


@given(x=arrays)
@settings(deadline=None)
def test_apply_is_float32_of_the_same_shape(x):
    fitted = Preprocess.fit("standardize", x)
    z = fitted.apply(x)
    assert z.dtype == np.float32
    assert z.shape == x.shape
    assert np.isfinite(z).all()
    expected = (x.astype(np.float64) - fitted.mean) / fitted.std
    assert np.allclose(z, expected, rtol=1e-3, atol=1e-3 / min(1.0, *fitted.std))


def test_many_items_in_several_chunks():
    x = np.random.default_rng(0).integers(0, 256, (1000, 3, 5, 3), dtype=np.uint8)
    fitted = Preprocess.fit("standardize", x)
    z = fitted.apply(x).astype(np.float64)
    assert np.abs(z.mean(axis=(0, 1, 2))).max() < 1e-6
    assert np.abs(z.std(axis=(0, 1, 2)) - 1).max() < 1e-6


def test_large_offsets_cancel_nothing():
    x = (np.random.default_rng(0).standard_normal((1000, 2)) + 1e6).astype(np.float64)
    np.testing.assert_allclose(Preprocess.fit("standardize", x).std, x.std(axis=0), rtol=1e-9)


def test_a_constant_channel_gets_std_1():
    x = np.full((100, 2), 0.1, np.float32)
    assert Preprocess.fit("standardize", x).std == (1.0, 1.0)
    assert np.abs(Preprocess.fit("standardize", x).apply(x)).max() < 1e-6


@pytest.mark.parametrize(
    ("x", "std"),
    [
        (np.full((3, 2), 16, np.uint8), 255.0),
        (np.full((3, 2), 9, np.int64), 255.0),
        (np.array([[-4.0, 1.0]]), 4.0),
        (np.zeros((3, 2), np.float32), 1.0),
    ],
)
def test_unit(x, std):
    assert Preprocess.fit("unit", x) == Preprocess((0.0,), (std,))


def test_none_leaves_the_values():
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert Preprocess.fit("none", x).apply(x).tolist() == x.tolist()


def test_given_statistics():
    x = np.zeros((2, 4, 4, 3), np.uint8)
    fitted = Preprocess.fit(Normalize(mean=[1.0, 2.0, 3.0], std=[2.0, 2.0, 4.0]), x)
    assert fitted.apply(x)[0, 0, 0].tolist() == [-0.5, -1.0, -0.75]
    assert Preprocess.fit(Normalize(mean=[1.0], std=[2.0]), x) == Preprocess((1.0,), (2.0,))
    with pytest.raises(DataError, match=r"data\.normalize\.mean has 2 values; accepted: 1 or 3, one per channel"):
        Preprocess.fit(Normalize(mean=[1.0, 2.0], std=[1.0, 1.0]), x)


@pytest.mark.parametrize("normalize", ["standardize", "unit"])
def test_nothing_to_measure(normalize):
    with pytest.raises(DataError, match="no training item"):
        Preprocess.fit(normalize, np.zeros((0, 3)))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (1.0,), r"normalize\.mean is \[\]"),
        ((0.0,), (), r"normalize\.std is \[\]"),
        ((float("nan"),), (1.0,), r"normalize\.mean is \[nan\]"),
        ((0.0,), (float("inf"),), r"normalize\.std is \[inf\]"),
        ((0.0,), (0.0,), "accepted: numbers above 0"),
        ((0.0, 1.0), (1.0, 1.0, 1.0), "mean has 2 values and std 3"),
    ],
)
def test_impossible_statistics(mean, std, message):
    with pytest.raises(DataError, match=message):
        Preprocess(mean, std)


@given(values=st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(1e-6, 1e6)), min_size=1, max_size=5))
def test_to_dict_and_back_through_json(values):
    mean, std = zip(*values, strict=True)
    one = Preprocess(mean, std)
    assert Preprocess.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    several = ColumnsPreprocess({"size": one, "code": None})
    for each in (one, several):
        assert from_dict(json.loads(json.dumps(each.to_dict()))) == each


@pytest.mark.parametrize(
    "values",
    [{}, {"mean": [0]}, {"mean": [0], "std": [1], "more": 1}, {"mean": 0, "std": [1]}, {"mean": ["a"], "std": [1]}],
)
def test_from_dict_refuses(values):
    with pytest.raises(DataError, match="preprocess"):
        Preprocess.from_dict(values)


def test_shift_and_scale_are_the_nearest_to_what_was_measured() -> None:
    """The reciprocal is rounded to float32 once, from float64: that of a std in float32 may be another."""
    std = 3.0000001
    shift, scale = Preprocess((0.1, 2.0), (std, 0.5)).shift_and_scale()
    assert (shift.dtype, scale.dtype) == (np.float32, np.float32)
    assert shift.tolist() == [np.float32(0.1), 2.0]
    assert scale.tolist() == [np.float32(1 / std), 2.0]
