"""Pooling made of convolutions is pooling, up to rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool as fp
from fastpool.identities import avg_pool2d_by_conv, max_pool2d_by_conv, relu_stages


@given(count=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_stages_take_the_maximum_of_any_number_of_values(count, seed):
    values = np.random.default_rng(seed).integers(-100, 101, count).astype(float)
    features = values
    for differences, kept in relu_stages(count):
        assert set(np.unique([*differences.ravel(), *kept.ravel()])) <= {-1, 0, 1}
        features = np.concatenate([np.maximum(differences @ features, 0), kept @ features])
    assert features.sum() == values.max()


@pytest.mark.parametrize("shape", [(2, 3, 13, 11), (3, 13, 11), (13, 11)], ids=str)
@pytest.mark.parametrize(
    ("kernel_size", "stride"),
    [(1, None), (1, 2), (2, None), (3, 2), ((3, 4), (2, 1)), (5, 5), (11, None), (9, 7)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
def test_any_window_equals_pooling_up_to_rounding(shape, kernel_size, stride, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y = max_pool2d_by_conv(x, kernel_size, stride)
    expected = fp.max_pool2d(x, kernel_size, stride)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(y, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(2, 3, 13, 11), (3, 13, 11), (13, 11), (0, 3, 13, 11)], ids=str)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding"),
    [
        (1, None, 0), (2, None, 0), (3, 2, 1), ((3, 4), (2, 1), ((0, 2), (3, 1))), (5, 1, "same"), (4, 3, "same_lower"),
        (11, None, 0), (2, 1, 3),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda t: t.__name__)
def test_any_window_of_equal_weights_is_average_pooling_up_to_rounding(shape, kernel_size, stride, padding, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    y = avg_pool2d_by_conv(x, kernel_size, stride, padding)
    expected = fp.avg_pool2d(x, kernel_size, stride, padding)
    assert (y.shape, y.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(y, expected, rtol=0, atol=8 * np.finfo(dtype).eps)


def test_infinity_and_nan_reach_the_averages_of_their_windows_alone():
    x = np.ones((4, 6))
    x[0, 0], x[3, 5] = np.inf, np.nan
    np.testing.assert_array_equal(avg_pool2d_by_conv(x, 2), [[np.inf, 1, 1], [1, 1, np.nan]])


def test_whole_numbers_come_out_exactly():
    x = np.random.default_rng(1).integers(-50, 51, (2, 2, 12, 12)).astype(np.float16)
    np.testing.assert_array_equal(max_pool2d_by_conv(x, 3, 1), fp.max_pool2d(x, 3, 1))


def test_whole_number_types_and_masks_are_refused():
    with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64"):
        max_pool2d_by_conv(np.zeros((4, 4), np.int64), 2)
    for pool in (avg_pool2d_by_conv, max_pool2d_by_conv):
        with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64"):
            pool(np.zeros((4, 4), bool), 2)
        with pytest.raises(TypeError, match="masked"):
            pool(np.ma.zeros((4, 4)), 2)
        with pytest.raises(ValueError, match="kernel_size"):
            pool(np.zeros((4, 4)), 5)
    with pytest.raises(ValueError, match="padding"):
        avg_pool2d_by_conv(np.zeros((4, 4)), 2, padding=-1)
