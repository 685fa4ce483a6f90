"""The rules of docs/semantics.md, one test each: the results of calls, and their errors."""

import sys
import threading
import tracemalloc
from importlib import import_module
from math import prod

import ml_dtypes
import numpy as np
import pytest
from specimens import DTYPES, FLOATS, INTEGERS, INTERPRETED, LAYOUTS, POOLS, has, to_layout, values

import fastpool as fp
from fastpool import calls, interop
from fastpool.backends import chosen, kernel, naive
from fastpool.window import Window

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
EYE = np.eye(4, dtype=np.float32)
IMAGES = np.arange(96, dtype=np.float32).reshape(2, 3, 4, 4)


def lowest(dtype):
    if dtype.kind == "b":
        return False
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


# Shapes, defaults and sizes


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_pool_takes_batches_single_images_and_bare_planes(axes, layout, backend):
    space, pooled = (4, 6, 2)[:axes], (2, 3, 1)[:axes]
    for lead in ((), (3,), (5, 3)):
        first = layout == "channels_first"
        shape = lead + space if first else (*lead[:-1], *space, *lead[-1:])
        expected = lead + pooled if first else (*lead[:-1], *pooled, *lead[-1:])
        assert POOLS[axes](np.zeros(shape), 2, data_format=layout, backend=backend).shape == expected


def test_the_stride_is_the_kernel_by_default():
    assert fp.max_pool2d(EYE, (2, 1), backend="numpy").shape == (2, 4)


def test_a_kernel_is_one_number_or_one_for_each_axis():
    np.testing.assert_array_equal(
        fp.max_pool2d(EYE, 2, backend="numpy"), fp.max_pool2d(EYE, np.array([2, 2]), backend="numpy")
    )


def test_stride_and_padding_may_be_numpy_integers():
    y = fp.max_pool2d(EYE, np.int64(3), np.uint8(2), np.int32(1), np.int16(1), backend="numpy")
    np.testing.assert_array_equal(y, np.ones((2, 2)))


def test_lists_of_numbers_are_arrays():
    np.testing.assert_array_equal(fp.max_pool1d([1, 3, 2, 5], 2, backend="numpy"), [3, 5])


@pytest.mark.parametrize(
    ("size", "window", "expected"),
    [
        (10, {"kernel_size": 3, "stride": 2}, 4),
        (10, {"kernel_size": 3, "stride": 2, "ceil_mode": True}, 5),
        (10, {"kernel_size": 3, "stride": 2, "padding": 1}, 5),
        (10, {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}, 6),
        (9, {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True}, 5),  # a sixth would start in the padding
        (5, {"kernel_size": 1, "stride": 3, "ceil_mode": True}, 2),  # a third would start at 6, outside
        (2, {"kernel_size": 3, "stride": 2, "ceil_mode": True}, 1),  # the only window extends past the end
        (10, {"kernel_size": 3, "stride": 1, "dilation": 4}, 2),
        (10, {"kernel_size": 3, "stride": 2, "padding": ((0, 5),)}, 7),
        (10, {"kernel_size": 3, "stride": 3, "padding": "valid"}, 3),
        (10, {"kernel_size": 3, "stride": 3, "padding": "same"}, 4),
        (10, {"kernel_size": 3, "stride": 3, "padding": "same_lower"}, 4),
        (10, {"kernel_size": 1, "stride": 3, "padding": "same"}, 4),
        (3, {"kernel_size": 2, "stride": 2, "padding": 9}, 10),
    ],
    ids=str,
)
def test_output_size(size, window, expected, backend):
    assert fp.max_pool1d(np.zeros(size), **window, backend=backend).shape == (expected,)


def test_same_puts_the_odd_element_of_padding_at_the_end_and_same_lower_at_the_start(backend):
    x = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_array_equal(fp.max_pool1d(x, 2, 1, "same", backend=backend), [2, 3, 4, 4])
    np.testing.assert_array_equal(fp.max_pool1d(x, 2, 1, "same_lower", backend=backend), [1, 2, 3, 4])


def test_padding_pairs_are_before_and_after_of_each_axis(backend):
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    y = fp.max_pool2d(x, 1, padding=((0, 1), (2, 0)), backend=backend)
    np.testing.assert_array_equal(y, np.pad(x, ((0, 1), (2, 0)), constant_values=-np.inf))


def test_padding_has_no_limit_of_half_a_kernel(backend):
    np.testing.assert_array_equal(
        fp.max_pool1d(np.array([7]), 2, 1, 3, backend=backend),
        [np.iinfo(int).min] * 2 + [7, 7] + [np.iinfo(int).min] * 2,
    )


# The maximum and its argmax


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_padding_is_never_the_maximum_not_even_of_lowest_values(dtype, backend):
    x = np.full((1, 1, 3, 3), lowest(dtype), dtype)
    y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(y, x[..., :2, :2])
    np.testing.assert_array_equal(argmax[0, 0], [[4, 3], [1, 0]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_of_padding_alone_gives_the_lowest_value(dtype, layout, backend):
    x = to_layout(np.ones((1, 3, 2, 2), dtype), layout)
    y, argmax = fp.max_pool2d(x, 1, padding=1, data_format=layout, return_argmax=True, backend=backend)
    expected = np.full((1, 3, 4, 4), lowest(dtype), dtype)
    expected[:, :, 1:3, 1:3] = 1
    np.testing.assert_array_equal(y, to_layout(expected, layout))
    assert not argmax.any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel_size", [(1, 1, 3), (1, 2, 2)])
def test_padding_behind_the_only_slice_of_a_volume_makes_windows_of_padding_alone(kernel_size, layout, backend):
    """Volumes of one slice were pooled as images, and the windows after the slice were left uninitialised."""
    x = to_layout(np.arange(1, 41, dtype=np.float32).reshape(2, 1, 1, 4, 5), layout)
    window = {"stride": kernel_size, "padding": ((0, 4), (0, 0), (0, 1)), "data_format": layout}
    y, argmax = fp.max_pool3d(x, kernel_size, **window, return_argmax=True, backend=backend)
    image = window | {"padding": ((0, 0), (0, 0), (0, 1))}
    expected, offsets = fp.max_pool3d(x, kernel_size, **image, return_argmax=True, backend="naive")
    depth = 2 if layout == "channels_first" else 1
    np.testing.assert_array_equal(y.take([0], depth), expected)
    np.testing.assert_array_equal(argmax.take([0], depth), offsets)
    assert (y.take(range(1, 5), depth) == -np.inf).all()
    assert not argmax.take(range(1, 5), depth).any()
    dx = fp.max_pool3d_backward(np.abs(y), argmax, x.shape, kernel_size, **window, backend=backend)
    expected = fp.max_pool3d_backward(expected, offsets, x.shape, kernel_size, **image, backend="naive")
    np.testing.assert_array_equal(dx, expected)


def test_padding_before_the_only_slice_of_a_volume_makes_a_window_of_padding_alone(backend):
    """Tall windows in wide rows pooled the slice, as if it had no padding."""
    x, window = np.ones((1, 1, 1, 20, 520), np.float32), ((1, 9, 3), (2, 1, 1), ((1, 0), (4, 4), (1, 1)))
    y, argmax = fp.max_pool3d(x, *window, return_argmax=True, backend=backend)
    assert y.shape == x.shape
    assert (y == -np.inf).all()
    assert not argmax.any()
    assert not fp.max_pool3d_backward(np.ones_like(y), argmax, x.shape, *window, backend=backend).any()


def test_taps_further_apart_than_any_array_are_refused_and_the_dilation_of_one_tap_means_nothing(backend):
    """Gradients raised an OverflowError that named nothing."""
    x = np.arange(256.0, dtype=np.float32).reshape(8, 32)
    y, argmax = fp.max_pool2d(x, (1, 13), 1, dilation=(2**62, 1), return_argmax=True, backend=backend)
    dx = fp.max_pool2d_backward(y, argmax, x.shape, (1, 13), 1, dilation=(2**62, 1), backend=backend)
    assert dx.sum() == y.sum()
    with pytest.raises(ValueError, match=r"dilation .* overflows: taps are further apart than any array is long"):
        fp.max_pool2d(x, (2, 13), 1, (2**60, 0), (2**61, 1), backend=backend)
    with pytest.raises(ValueError, match=r"dilation .* overflows: taps are further apart than any array is long"):
        fp.max_pool1d(np.ones((1, 1, 8)), 3, 1, ((2**60, 0),), 2**59, data_format="channels_last", backend=backend)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_window_of_padding_alone_sends_no_gradient(dtype, backend):
    dx = fp.max_pool1d_backward(
        np.array([8, 1, 2, 8], dtype), np.zeros(4, np.uint8), (2,), 1, padding=1, backend=backend
    )
    np.testing.assert_array_equal(dx.astype(float), [1, 2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_maximum_wins_a_tie(layout, dtype, backend):
    x = to_layout(np.ones((1, 3, 8, 8), dtype), layout)
    x[(..., 0, 0) if layout == "channels_first" else (0, 0, 0)] = 0
    argmax = fp.max_pool2d(x, 4, return_argmax=True, data_format=layout, backend=backend)[1]
    expected = np.zeros((1, 3, 2, 2))
    expected[..., 0, 0] = 1
    np.testing.assert_array_equal(argmax, to_layout(expected, layout))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_argmax_is_what_numpy_argmax_gives_for_each_window(dtype, backend):
    x = values((2, 3, 8, 12), dtype)
    windows = x.reshape(2, 3, 2, 4, 4, 3).swapaxes(3, 4).reshape(2, 3, 2, 4, 12)
    y, argmax = fp.max_pool2d(x, (4, 3), return_argmax=True, backend=backend)
    like_numpy = windows.astype(np.float64) if dtype in FLOATS else windows
    np.testing.assert_array_equal(argmax, like_numpy.argmax(-1))
    np.testing.assert_array_equal(y.astype(like_numpy.dtype), like_numpy.max(-1))


@pytest.mark.parametrize("sign", [1, -1], ids=["+nan", "-nan"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_first_nan_beats_everything(dtype, sign, backend):
    x = np.array([[1, np.inf, 3, 2, 5, 4]], dtype)
    x[0, [2, 3]] = np.copysign(np.nan, sign).astype(dtype)
    for window, expected in (((1, 6), [2]), ((1, 3), [2, 0]), ((1, 2), [1, 0, 0])):
        y, argmax = fp.max_pool2d(x, window, return_argmax=True, backend=backend)
        np.testing.assert_array_equal(argmax, [expected])
        alone = fp.max_pool2d(x, window, backend=backend)
        np.testing.assert_array_equal(np.isnan(alone), np.isnan(y))
        assert np.isnan(y[0, 0]) == (window != (1, 2))


def test_bytes_of_a_bool_other_than_1_are_true(backend):
    """As in NumPy. A kernel that compares bytes would return the largest."""
    x = np.array([[0, 1, 2, 255], [0, 0, 128, 1]], np.uint8).view(bool)
    clean = np.array([[False, True, True, True], [False, False, True, True]])
    for call in (
        lambda x: fp.max_pool2d(x, (2, 4), return_argmax=True, backend=backend),
        lambda x: fp.max_pool2d(x[:, ::-1], (1, 2), return_argmax=True, backend=backend),
        lambda x: fp.maxout(x, 1, return_argmax=True, backend=backend),
        lambda x: (fp.im2col(x[None, None], 2, backend=backend),),
        lambda x: (fp.max_unpool2d(x, np.arange(8).reshape(2, 4), 1, backend=backend),),
    ):
        for got, expected in zip(call(x), call(clean), strict=True):
            np.testing.assert_array_equal(got.view(np.uint8), expected.view(np.uint8))
    assert x.view(np.uint8).max() == 255


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_negative_zero_ties_with_zero_whichever_wins(dtype, backend):
    x = np.array([[-0.0, 0.0, -0.0, -1.0]], dtype)
    y, argmax = fp.max_pool2d(x, (1, 4), return_argmax=True, backend=backend)
    assert y[0, 0] == 0
    assert argmax[0, 0] in (0, 1, 2)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nan_and_infinity_in_a_gradient_reach_only_the_argmax(dtype, backend):
    dy = np.array([np.nan, np.inf, 1], dtype)
    dx = fp.max_pool1d_backward(dy, np.array([1, 0, 1], np.uint8), (6,), 2, backend=backend)
    np.testing.assert_array_equal(dx.astype(float), [0, np.nan, np.inf, 0, 0, 1])


# Dtypes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_pool_gives_back_the_dtype_that_came(dtype, backend):
    assert fp.max_pool2d(np.zeros((4, 4), dtype), 2, backend=backend).dtype == dtype
    assert fp.maxout(np.zeros((4, 4), dtype), 2, backend=backend).dtype == dtype


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_the_extremes_of_an_integer_survive(dtype, backend):
    info = np.iinfo(dtype)
    x = np.array([info.min, info.max, info.max - 1, info.min], dtype)
    np.testing.assert_array_equal(fp.max_pool1d(x, 2, backend=backend), x[1:3])
    np.testing.assert_array_equal(fp.max_pool1d(x, 2, 1, backend=backend), x[[1, 1, 2]])


UNSUPPORTED = ["c8", "c16", "U3", "S3", "M8[s]", "m8[s]", "V4", [("a", "f4")]]
UNSUPPORTED += [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4]


@pytest.mark.parametrize("dtype", [*UNSUPPORTED, np.longdouble], ids=str)
def test_other_dtypes_are_refused_by_name_with_what_is_supported(dtype):
    x = np.zeros((4, 4), dtype)
    if x.dtype == np.float64:
        pytest.skip("long double is float64 here")
    for call in (
        lambda: fp.max_pool2d(x, 2),
        lambda: fp.maxout(x, 2),
        lambda: fp.im2col(x, (2, 2)),
        lambda: fp.max_unpool2d(x, np.zeros((4, 4), int), 2),
    ):
        with pytest.raises(TypeError, match=r"must be bool, an integer, float16, bfloat16.*float32 or float64, got"):
            call()


@pytest.mark.parametrize("dtype", [np.dtype(bool), *INTEGERS, *UNSUPPORTED, np.longdouble], ids=str)
def test_gradients_and_activations_take_the_floats_only(dtype):
    x, argmax = np.zeros((2, 2), dtype), np.zeros((2, 2), np.uint8)
    if x.dtype == np.float64:
        pytest.skip("long double is float64 here")
    for call in (
        lambda: fp.max_pool2d_backward(x, argmax, (4, 4), 2),
        lambda: fp.maxout_backward(x, argmax, (2, 4)),
        lambda: fp.avg_pool2d(x, 2),
        lambda: fp.avg_pool2d_backward(x, (4, 4), 2),
        lambda: fp.global_avg_pool(x[None]),
        lambda: fp.global_avg_pool_backward(x, (2, 2, 4)),
        lambda: fp.hard_swish(x),
        lambda: fp.swish(x),
        lambda: fp.hard_swish_backward(x, x),
        lambda: fp.swish_backward(x, x),
        lambda: fp.conv2d(x[None, None], x[None, None]),
    ):
        with pytest.raises(TypeError, match="must be float16, bfloat16, float32 or float64, got ") as raised:
            call()
        assert str(x.dtype) in str(raised.value)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
def test_half_gradients_are_summed_in_float32_and_rounded_once(dtype, backend):
    dtype = np.dtype(dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)
    dy = np.array([1, eps / 2, eps / 2, eps / 2], dtype)  # added one by one, all would be lost
    argmax = np.array([3, 2, 1, 0], np.uint8)
    dx = fp.max_pool1d_backward(dy, argmax, (7,), 4, 1, backend=backend)
    assert float(dx[3]) == float(np.float32(1 + 1.5 * eps).astype(dtype)) > 1
    if has(backend, "col2im"):
        x = fp.col2im(dy[None, ::-1].reshape(1, 4, 1).copy(), (1, 1, 1, 4), (1, 4), backend=backend)
        np.testing.assert_array_equal(x.ravel(), dy[::-1])


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"),
    [((7, 8), 1, 0, 1), ((5, 4), 2, ((4, 1), (0, 3)), 1), ((4, 3), 3, 2, 2), ((9, 1), (1, 5), (1, 0), 1)],
)
def test_half_columns_of_more_taps_than_windows_are_summed_in_the_same_order(
    kernel_size, stride, padding, dilation, layout, dtype, backend
):
    if not has(backend, "col2im"):
        pytest.skip(f"{backend} has no col2im")
    shape = (2, 3, 8, 9) if layout == "channels_first" else (2, 8, 9, 3)
    window = {"stride": stride, "padding": padding, "dilation": dilation, "data_format": layout}
    cols = fp.im2col(np.zeros(shape, np.float32), kernel_size, **window, backend="naive")
    cols = np.random.default_rng(0).standard_normal(cols.shape).astype(dtype)
    expected = fp.col2im(cols, shape, kernel_size, **window, backend="naive")
    got = fp.col2im(cols, shape, kernel_size, **window, backend=backend)
    np.testing.assert_array_equal(got.astype(np.float32), expected.astype(np.float32))


@pytest.mark.skipif(not fp.backends()["cython"].available, reason="is about the cython backend")
def test_half_columns_of_one_large_window_are_not_added_up_tap_by_tap():
    """A Python loop over 262,144 taps took three hundred times as long as the sums."""
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1

    cols = np.ones((1, 512 * 512, 1), np.float16)
    sys.setprofile(count)
    try:
        x = fp.col2im(cols, (1, 1, 512, 512), 512, backend="cython")
    finally:
        sys.setprofile(None)
    assert (x == 1).all()
    assert steps < 10_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
def test_half_gradients_beyond_the_largest_number_become_infinite_without_a_warning(dtype, backend):
    dtype = np.dtype(dtype)
    most = ml_dtypes.finfo(dtype).max
    dy, argmax = np.full((2,), most, dtype), np.array([1, 0], np.uint8)
    dx = fp.max_pool1d_backward(dy, argmax, (3,), 2, 1, backend=backend)
    np.testing.assert_array_equal(dx.astype(float), [0, np.inf, 0])
    if has(backend, "col2im"):
        x = fp.col2im(np.full((1, 2, 2), most, dtype), (1, 1, 3), 2, backend=backend)
        np.testing.assert_array_equal(x.astype(float), [[[float(most), np.inf, float(most)]]])


def test_a_fill_value_is_held_as_it_is_or_rounded_where_it_is_a_float_of_python(backend):
    if not has(backend, "im2col"):
        pytest.skip(f"{backend} has no im2col")
    for dtype, value, expected in (
        (np.float32, 0.1, np.float32(0.1)),
        (np.float16, 0.1, np.float16(0.1)),
        (np.float16, np.float64(0.5), 0.5),
        (np.float32, np.float16(0.1), np.float16(0.1)),
        (np.float32, 2**24, 2**24),
        (np.float32, -np.inf, -np.inf),
        (np.float16, np.nan, np.nan),
        (BFLOAT16, 1.5, 1.5),
        (np.uint64, 2**64 - 1, 2**64 - 1),
        (np.uint8, 255.0, 255),
        (np.int64, np.uint64(2**63 - 1), 2**63 - 1),
        (bool, 1, True),
    ):
        cols = fp.im2col(np.zeros((1, 1, 1), dtype), (1,), padding=1, fill_value=value, backend=backend)
        np.testing.assert_array_equal(cols, np.array([[[expected, 0, expected]]], dtype))


def test_integer_columns_wrap_around(backend):
    cols = np.full((1, 2, 2), 200, np.uint8)
    np.testing.assert_array_equal(fp.col2im(cols, (1, 1, 3), 2, backend=backend), [[[200, 144, 200]]])


def test_bool_columns_cannot_be_added_up():
    with pytest.raises(TypeError, match=r"cols must be of an integer or floating dtype.*got bool"):
        fp.col2im(np.ones((1, 2, 2), bool), (1, 1, 3), 2)


def test_gradient_and_argmax_dtypes_are_never_cast():
    with pytest.raises(TypeError, match=r"argmax must have the dtype uint8 .*got int64"):
        fp.max_pool2d_backward(np.ones((2, 2)), np.zeros((2, 2), int), (4, 4), 2)
    with pytest.raises(TypeError, match="dy must have the dtype float32 of x, got float64"):
        fp.hard_swish_backward(np.ones(3), np.ones(3, np.float32))
    with pytest.raises(TypeError, match="w must have the dtype float32 of x, got float64"):
        fp.conv2d(np.ones((1, 1, 3, 3), np.float32), np.ones((1, 1, 2, 2)))


# Convolution


def test_a_convolution_ignores_the_elements_after_its_last_window(backend):
    if not has(backend, "im2col"):
        pytest.skip(f"{backend} has no im2col")
    x, w = np.arange(16, dtype=np.float32).reshape(2, 2, 2, 2), np.ones((1, 2, 1, 1), np.float32)
    y = fp.conv2d(x, w, stride=2, backend=backend)
    np.testing.assert_array_equal(y, (x[:, :1, :1, :1] + x[:, 1:, :1, :1]))
    last = fp.conv2d(np.moveaxis(x, 1, -1), w, stride=2, data_format="channels_last", backend=backend)
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), y)
    dx, dw, db = fp.conv2d_backward(y, x, w, stride=2, backend=backend)
    np.testing.assert_array_equal(dx[:, :, :1, :1], np.broadcast_to(y, (2, 2, 1, 1)))
    assert np.count_nonzero(dx) == np.count_nonzero(dx[:, :, :1, :1])
    np.testing.assert_array_equal(dw, (x[:, :, :1, :1] * y).sum(0, keepdims=True))
    np.testing.assert_array_equal(db, y.sum(keepdims=True).reshape(1))


# The argmax


@pytest.mark.parametrize(
    ("kernel_size", "dtype"),
    [((1, 1), np.uint8), ((16, 16), np.uint8), ((1, 257), np.uint16), ((256, 256), np.uint16), ((1, 65537), np.uint32)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_argmax_takes_the_fewest_bytes(kernel_size, dtype):
    argmax = fp.max_pool2d(np.zeros(kernel_size, bool), kernel_size, return_argmax=True, backend="numpy")[1]
    assert argmax.dtype == dtype


@pytest.mark.skipif(not fp.backends()["numba"].available, reason=fp.backends()["numba"].reason or "-")
def test_a_window_too_large_for_an_argmax_is_refused_only_if_the_argmax_is_requested():
    """Only numba takes time in proportion to the elements instead of the taps."""
    size, padding = 2**33, 2**32
    for x in (np.arange(4.0), np.arange(8.0)[::2]):
        np.testing.assert_array_equal(fp.max_pool1d(x, size, padding=padding, backend="numba"), x.max(keepdims=True))
        with pytest.raises(ValueError, match="more than an argmax in uint32 can name"):
            fp.max_pool1d(x, size, padding=padding, return_argmax=True, backend="numba")


def test_argmax_is_the_row_major_offset_in_the_window(backend):
    x = np.zeros((1, 1, 2, 3, 4), np.float32)
    x[0, 0, 1, 0, 2] = 1
    argmax = fp.max_pool3d(x, (2, 3, 4), return_argmax=True, backend=backend)[1]
    assert argmax.item() == (1 * 3 + 0) * 4 + 2


def test_argmax_counts_taps_not_elements(backend):
    x = np.array([0, 0, 0, 0, 9, 0.0])
    assert fp.max_pool1d(x, 3, dilation=2, return_argmax=True, backend=backend)[1].tolist() == [2]


def test_argmax_is_the_same_in_both_layouts(backend):
    x = values((2, 5, 7, 6), np.float32)
    first = fp.max_pool2d(x, 3, 2, 1, return_argmax=True, backend=backend)[1]
    swapped = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    last = fp.max_pool2d(swapped, 3, 2, 1, data_format="channels_last", return_argmax=True, backend=backend)[1]
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), first)


@pytest.mark.parametrize(
    ("window", "wrong", "message"),
    [
        ({"kernel_size": 2}, 4, "argmax must be below 4.*got 4"),
        ({"kernel_size": 2}, 255, "argmax must be below 4.*got 255"),
        ({"kernel_size": 3, "padding": 1}, 0, "argmax names a cell of padding"),
        ({"kernel_size": 3, "stride": 2, "padding": ((0, 1), (0, 1))}, 8, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_argmax_that_does_not_fit_raises_and_leaves_out_untouched(window, wrong, message, layout, backend):
    x = np.zeros((2, 3, 4, 4))
    x = x if layout == "channels_first" else np.moveaxis(x, 1, -1).copy()
    y, argmax = fp.max_pool2d(x, **window, data_format=layout, return_argmax=True, backend="naive")
    out = np.full_like(x, 7)
    argmax[(0, 0, 0, 0) if message else (-1, 1, 1, 1)] = wrong
    with pytest.raises(ValueError, match=message or "argmax names a cell of padding"):
        fp.max_pool2d_backward(y, argmax, x.shape, **window, data_format=layout, out=out, backend=backend)
    assert (out == 7).all()


@pytest.mark.parametrize("op", ["maxout", "global"])
def test_the_argmax_of_other_ops_is_checked_too(op, backend):
    dy, argmax, out = np.ones((2, 3)), np.full((2, 3), 200, np.uint8), np.full((2, 12), 7.0)
    call = {
        "maxout": lambda: fp.maxout_backward(dy, argmax, (2, 12), out=out, backend=backend),
        "global": lambda: fp.global_max_pool_backward(dy, argmax, (2, 3, 4), out=out.reshape(2, 3, 4), backend=backend),
    }[op]
    with pytest.raises(ValueError, match=r"argmax must be below 4.*got 200"):
        call()
    assert (out == 7).all()


CORRUPTED = {
    "2 s2": {"kernel_size": 2},
    "3 s2 p1": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3 s1 p1": {"kernel_size": 3, "stride": 1, "padding": 1},
    "windows of padding alone": {"kernel_size": 2, "stride": 5, "padding": 4, "dilation": 3},
    "padding (4,0) (0,3)": {"kernel_size": 3, "stride": 1, "padding": ((4, 0), (0, 3)), "dilation": 2},
    "offsets of two bytes": {"kernel_size": 17, "stride": 3, "padding": 8},
    "ceil": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (1, 1, 6, 17), (2, 2, 3, 6, 8)], ids=str)
@pytest.mark.parametrize("name", CORRUPTED)
def test_all_backends_agree_which_argmax_fits(name, shape, layout, backend):
    arguments = dict(CORRUPTED[name])
    if len(shape) == 5:
        arguments["kernel_size"] = (1, arguments["kernel_size"], arguments["kernel_size"])
        if "padding" in arguments:
            p = arguments["padding"]
            arguments["padding"] = (0, p, p) if isinstance(p, int) else ((0, 0), *p)
    shape = shape if layout == "channels_first" else (shape[0], *shape[2:], shape[1])
    window = Window.plan(len(shape) - 2, shape, **arguments, data_format=layout)
    inside = layout == "channels_last" and window.channels > 1
    outer, inner = (window.batch, window.channels) if inside else (window.batch * window.channels, 1)
    x = values((outer, *window.size, inner), np.float32)
    y, right = (np.empty((outer, *window.out, inner), dtype) for dtype in (x.dtype, window.argmax_dtype))
    naive.max_pool(x, window, y, right)
    fits = kernel("argmax_fits", backend)
    assert fits(right, window)
    rng, verdicts = np.random.default_rng(0), []
    for _ in range(40):
        argmax = right.copy()
        argmax.reshape(-1)[rng.integers(argmax.size)] = rng.integers(window.volume + 2)
        verdicts.append(bool(naive.argmax_fits(argmax, window)))
        assert bool(fits(argmax, window)) == verdicts[-1]
    assert not all(verdicts)


@pytest.mark.parametrize("at", ["the first", "the last"])
def test_one_offset_among_millions_that_does_not_fit_is_found(at, backend):
    if backend == "naive" or INTERPRETED:
        pytest.skip("that takes minutes")
    window = Window.plan(2, (40, 3, 256, 256), 2, stride=2)
    argmax = np.zeros((120, 1, 128, 128, 1), np.uint8)
    fits = kernel("argmax_fits", backend)
    assert fits(argmax, window)
    argmax.reshape(-1)[0 if at == "the first" else -1] = 4
    assert not fits(argmax, window)


@pytest.mark.parametrize("taps", [2**16, 2**31, 2**32 - 1, 2**32])
def test_gradients_of_windows_as_long_as_an_argmax_can_count_arrive(taps):
    """With 2**32 taps along an axis, a division by 2**32 was computed in 32 bits, where it is 0."""
    x, window = np.arange(6, dtype=np.float32), {"stride": 1, "padding": taps // 2}
    y, argmax = fp.max_pool1d(x, taps, **window, return_argmax=True)
    np.testing.assert_array_equal(y, np.full(7 - taps % 2, 5))
    dx = fp.max_pool1d_backward(np.ones_like(y), argmax, x.shape, taps, **window)
    np.testing.assert_array_equal(dx, [0, 0, 0, 0, 0, y.size])


def test_a_gradient_that_does_not_fit_raises():
    argmax = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"dy must have the shape \(2, 2\).*got \(2, 3\)"):
        fp.max_pool2d_backward(np.ones((2, 3)), argmax, (4, 4), 2)
    with pytest.raises(ValueError, match=r"argmax must have the shape \(2, 2\).*got \(3, 2\)"):
        fp.max_pool2d_backward(np.ones((2, 2)), np.zeros((3, 2), np.uint8), (4, 4), 2)
    with pytest.raises(ValueError, match=r"cols must have shape \(1, 4, 9\).*got \(1, 4, 8\)"):
        fp.col2im(np.ones((1, 4, 8)), (1, 1, 4, 4), 2)


def test_an_argmax_of_another_framework_is_sent_to_the_converter():
    with pytest.raises(ValueError, match="indices_to_argmax"):
        fp.max_pool2d_backward(np.ones((2, 2)), np.full((2, 2), 99, np.uint8), (4, 4), 2)


# Memory


@pytest.fixture
def seen(monkeypatch):
    """The first array that each kernel gets, with the specification as the backend."""
    arrays = []

    def spy(usual):
        def run(x, *rest, **options):
            arrays.append(x)
            return usual(x, *rest, **options)

        return run

    monkeypatch.setattr(calls, "_plans", {})
    for op in ("max_pool", "im2col", "hard_swish"):
        monkeypatch.setattr(naive, op, spy(getattr(naive, op)))
    with fp.use_backend("naive"):
        yield arrays


CONTIGUOUS = {
    "NCHW": lambda: np.ones((2, 3, 4, 5)),
    "NHWC seen as NCHW": lambda: np.moveaxis(np.ones((2, 4, 5, 3)), -1, 1),
    "NHWC seen as NCHW, rows of one": lambda: np.moveaxis(np.ones((2, 4, 3))[:, :, None], -1, 1),
    "CHW, seen as a batch of one": lambda: np.ones((3, 4, 5))[None],
    "HWC seen as a batch of one": lambda: np.moveaxis(np.ones((4, 5, 3)), -1, 0)[None],
    "one channel": lambda: np.ones((2, 1, 4, 5)),
    "one channel, last": lambda: np.moveaxis(np.ones((2, 4, 5, 1)), -1, 1),
    "read-only": lambda: np.broadcast_to(np.ones((2, 3, 4, 5)), (2, 3, 4, 5)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("memory", CONTIGUOUS)
def test_an_array_contiguous_in_either_layout_is_not_copied(memory, layout, seen):
    x = CONTIGUOUS[memory]()
    x = x if layout == "channels_first" else np.moveaxis(x, 1, -1)
    fp.max_pool2d(x, (2, 1), data_format=layout)
    fp.im2col(x, (2, 1), data_format=layout)
    fp.maxout(x, 1, axis=1 if layout == "channels_first" else -1)
    fp.hard_swish(x)
    assert len(seen) == 4
    for array in seen:
        assert np.shares_memory(array, x)


def test_any_other_array_is_copied_once(monkeypatch):
    monkeypatch.setattr(calls, "_plans", {})
    monkeypatch.setattr(naive, "max_pool", lambda *arrays: None)
    x = np.ones((1, 4, 512, 512), np.float32)[..., ::-1, ::2]
    out = np.empty((1, 4, 8, 4), np.float32)
    fp.max_pool2d(x, 64, out=out, backend="naive")  # so that modules imported by the first call do not count as copies
    tracemalloc.start()
    try:
        fp.max_pool2d(x, 64, out=out, backend="naive")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert x.nbytes < peak < 1.1 * x.nbytes


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (1, 4, 5, 3), (1, 1, 5, 1), (1, 1, 1, 1), (2, 1, 5, 1)], ids=str)
def test_columns_of_one_window_may_have_any_stride_along_axes_of_one(shape, backend):
    """Such an axis may have any stride, which was used: memory outside the arrays was read and written."""
    n, c, k, positions = shape
    x_shape, window = (n, c, k + positions - 1), {"kernel_size": (k,), "order": "windows", "backend": backend}
    columns = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for axis in (a for a in range(4) if shape[a] == 1):
        strides = list(columns.strides)
        strides[axis] = 4 * 12345
        odd = np.lib.stride_tricks.as_strided(columns, shape, strides)
        np.testing.assert_array_equal(
            fp.col2im(odd, x_shape, **window), fp.col2im(columns, x_shape, **(window | {"backend": "naive"}))
        )
        x, memory = np.arange(1, np.prod(x_shape) + 1, dtype=np.float32).reshape(x_shape), np.zeros(shape, np.float32)
        fp.im2col(x, **window, out=np.lib.stride_tricks.as_strided(memory, shape, strides))
        np.testing.assert_array_equal(memory, fp.im2col(x, **(window | {"backend": "naive"})))


def test_columns_written_before_others_leave_these_alone(backend):
    memory = np.zeros((1, 4, 6), np.float32)
    out = np.moveaxis(memory[:, :2], 0, -1)
    fp.im2col(np.ones((2, 6), np.float32), (6,), order="windows", out=out, backend=backend)
    np.testing.assert_array_equal(memory[0], [[1] * 6, [1] * 6, [0] * 6, [0] * 6])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_lies_in_memory_as_the_input_does(layout, backend):
    first = np.ones((2, 3, 4, 6))
    last = np.moveaxis(np.ones((2, 4, 6, 3)), -1, 1)
    for x, inner in ((first, -1), (last, 1)):
        seen_as = x if layout == "channels_first" else np.moveaxis(x, 1, -1)
        y = fp.max_pool2d(seen_as, 2, data_format=layout, backend=backend)
        y = y if layout == "channels_first" else np.moveaxis(y, -1, 1)
        assert y.strides[inner] == y.itemsize


# out=

OUT_CALLS = {
    "max_pool2d": lambda out: fp.max_pool2d(IMAGES, 2, out=out),
    "max_pool2d_backward": lambda out: fp.max_pool2d_backward(
        IMAGES, np.zeros(IMAGES.shape, np.uint8), (2, 3, 4, 4), 1, out=out
    ),
    "maxout": lambda out: fp.maxout(IMAGES, 2, out=out),
    "im2col": lambda out: fp.im2col(IMAGES, 2, out=out),
    "col2im": lambda out: fp.col2im(IMAGES[:, 0], (2, 1, 2, 5), (2, 2), out=out),
    "global_max_pool": lambda out: fp.global_max_pool(IMAGES, out=out),
    "avg_pool2d": lambda out: fp.avg_pool2d(IMAGES, 2, out=out),
    "avg_pool2d_backward": lambda out: fp.avg_pool2d_backward(IMAGES, (2, 3, 4, 4), 1, out=out),
    "global_avg_pool": lambda out: fp.global_avg_pool(IMAGES, out=out),
    "hard_swish": lambda out: fp.hard_swish(IMAGES, out=out),
    "conv2d": lambda out: fp.conv2d(IMAGES, IMAGES, out=out),
    "max_unpool2d": lambda out: fp.max_unpool2d(IMAGES, np.zeros(IMAGES.shape, int), 1, out=out),
}


@pytest.fixture(params=["numpy", "numba"])
def planned_or_not(request):
    """numba replays pools of contiguous arrays, with `out` too; numpy does not."""
    if not fp.backends()[request.param].available:
        pytest.skip(fp.backends()[request.param].reason)
    with fp.use_backend(request.param):
        yield


@pytest.mark.usefixtures("planned_or_not")
@pytest.mark.parametrize("op", OUT_CALLS)
class TestOut:
    def new_out(self, op):
        shapes = {
            "max_pool2d": (2, 3, 2, 2), "maxout": (2, 3, 4, 2), "im2col": (2, 12, 9), "col2im": (2, 1, 2, 5),
            "global_max_pool": (2, 3), "global_avg_pool": (2, 3), "avg_pool2d": (2, 3, 2, 2), "conv2d": (2, 2, 1, 1),
        }  # fmt: skip
        return np.zeros(shapes.get(op, IMAGES.shape), np.float32)

    def test_is_written_and_returned(self, op):
        out = np.full_like(self.new_out(op), np.nan)
        assert OUT_CALLS[op](out) is out
        assert not np.isnan(out).any()

    def test_of_another_shape_is_refused(self, op):
        with pytest.raises(ValueError, match=r"out must .*shape \(2, .*got"):
            OUT_CALLS[op](np.zeros((2, 3, 9, 9), np.float32))

    def test_of_another_dtype_is_refused(self, op):
        with pytest.raises(ValueError, match="out must have dtype float32, got float64"):
            OUT_CALLS[op](self.new_out(op).astype(np.float64))

    def test_read_only_is_refused(self, op):
        out = self.new_out(op)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out must be writeable"):
            OUT_CALLS[op](out)

    def test_that_is_no_array_is_refused(self, op):
        with pytest.raises((TypeError, ValueError), match="out must be"):
            OUT_CALLS[op]([1.0])


class _Claims(np.ndarray):
    """An array that claims to be writeable."""

    flags = property(lambda self: np.zeros(1).flags)


@pytest.mark.parametrize("op", OUT_CALLS)
def test_out_may_be_of_a_subclass_and_is_returned_itself(op, tmp_path):
    expected = OUT_CALLS[op](None)
    out = np.memmap(tmp_path / "out", expected.dtype, "w+", shape=expected.shape)
    assert OUT_CALLS[op](out) is out
    np.testing.assert_array_equal(out, expected)


def test_out_that_only_says_it_is_writeable_is_refused():
    memory = np.frombuffer(bytes(16), np.float32).view(_Claims)
    with pytest.raises(ValueError, match="out must be writeable"):
        fp.max_pool1d(np.ones(8, np.float32), 2, out=memory)
    assert not np.asarray(memory).any()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_a_matrix_takes_a_result_too():
    out = np.matrix(np.zeros((2, 2), np.float32))
    assert fp.max_pool2d(EYE, 2, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), [[1, 0], [0, 1]])


@pytest.mark.usefixtures("planned_or_not")
@pytest.mark.parametrize(
    "call",
    [
        lambda a: fp.max_pool2d(a, 1, out=a),
        lambda a: fp.max_pool2d(a[:, :2], 1, out=a[:, 1:3]),
        lambda a: fp.max_pool2d_backward(a, np.zeros(a.shape, np.uint8), a.shape, 1, out=a),
        lambda a: fp.max_pool2d_backward(
            np.zeros((2, 3, 2, 2), a.dtype),
            a.reshape(-1).view(np.uint8)[:24].reshape(2, 3, 2, 2),
            a.shape,
            2,
            out=a,
        ),
        lambda a: fp.maxout(a, 4, out=a),
        lambda a: fp.avg_pool2d(a, 1, out=a),
        lambda a: fp.avg_pool2d_backward(a, a.shape, 1, out=a),
        lambda a: fp.hard_swish(a, out=a),
        lambda a: fp.swish_backward(np.ones_like(a), a, out=a),
        lambda a: fp.swish_backward(a, np.ones_like(a), out=a),
        lambda a: fp.im2col(a[:, :1], 1, out=a[:, :1].reshape(2, 1, 16)),
        lambda a: fp.conv2d(a[:, :1], np.ones((1, 1, 1, 1), a.dtype), out=a[:, :1]),
        lambda a: fp.conv2d(a[1:, :1] + 1, a[1:, :1, :1, :1] + 1, a[0, 0, 0, :1], out=a[:1, :1]),
        lambda a: fp.max_unpool2d(a, np.zeros(a.shape, int), 1, out=a),
        lambda a: fp.max_unpool2d(np.ones(a.shape, np.int32), a.view(np.int32), 1, out=a.view(np.int32)),
    ],
    ids=[
        "pool", "overlapping views", "backward", "argmax of backward", "maxout",
        "average", "backward of average", "hard_swish", "x of swish",
        "dy of swish", "im2col",
        "conv2d", "bias of conv2d", "unpool", "indices of unpool",
    ],
)  # fmt: skip
def test_out_that_shares_memory_with_an_input_is_refused(call):
    a = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(ValueError, match="out must not share memory with an input"):
        call(a)


@pytest.mark.parametrize("second", [lambda y: y, lambda y: y.T], ids=["as it lies", "transposed"])
def test_y_and_argmax_may_not_share_memory(second, backend):
    """The message said that they shared it with an input."""
    y = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="out must be arrays that share no memory with each other"):
        fp.max_pool2d(np.zeros((4, 4), np.uint8), 2, return_argmax=True, out=(y, second(y)), backend=backend)


def test_nothing_is_written_where_the_second_of_two_outs_is_refused(backend):
    y = np.full((2, 2), 7, np.float32)
    for wrong in (np.zeros((2, 2), int), np.zeros((2, 3), np.uint8)):
        with pytest.raises(ValueError, match="out must have"):
            fp.max_pool2d(EYE, 2, return_argmax=True, out=(y, wrong), backend=backend)
        with pytest.raises(ValueError, match="out must have"):
            fp.maxout(EYE, 2, return_argmax=True, out=(np.zeros((4, 2), np.float32), wrong), backend=backend)
    assert (y == 7).all()


def test_out_between_the_elements_of_an_input_is_accepted(backend):
    a = np.arange(12.0)
    fp.max_pool1d(a[::2], 1, out=a[1::2], backend=backend)
    np.testing.assert_array_equal(a, np.repeat(np.arange(0.0, 12, 2), 2))


def test_out_is_a_pair_exactly_where_argmax_is_returned(backend):
    out = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8)
    y, argmax = fp.max_pool2d(EYE, 2, return_argmax=True, out=out, backend=backend)
    assert y is out[0]
    assert argmax is out[1]
    with pytest.raises(ValueError, match="for the results of this call, got a tuple of 2"):
        fp.max_pool2d(EYE, 2, out=out, backend=backend)


# Empty and refused


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_batch_of_none_gives_a_batch_of_none(axes, backend):
    y, argmax = POOLS[axes](np.zeros((0, 3, 4, 4, 4)[: axes + 2]), 2, return_argmax=True, backend=backend)
    assert y.shape == argmax.shape == (0, 3, 2, 2, 2)[: axes + 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fp.max_pool2d(np.zeros((1, 1, 0, 4)), 1), r"each spatial axis of x .*\(1, 1, 0, 4\)"),
        (lambda: fp.max_pool2d(np.zeros((1, 1, 0, 4)), 1, padding=2), r"each spatial axis of x .*\(1, 1, 0, 4\)"),
        (lambda: fp.global_max_pool(np.zeros((1, 1, 0))), r"each spatial axis of x .*\(1, 1, 0\)"),
        (lambda: fp.max_pool2d(EYE, 5), "kernel_size: a window of 5 cells does not fit into an axis of 4"),
        (lambda: fp.max_pool2d(EYE, 3, dilation=2), "kernel_size: a window of 5 cells does not fit into an axis of 4"),
        (lambda: fp.im2col(IMAGES, 5), "kernel_size: a window of 5 cells does not fit"),
        (lambda: fp.max_pool2d(EYE, 0), "kernel_size must be positive in every axis, got 0"),
        (lambda: fp.max_pool2d(EYE, (3, -1)), r"kernel_size must be positive in every axis, got \(3, -1\)"),
        (lambda: fp.max_pool2d(EYE, 2, 0), "stride must be positive in every axis, got 0"),
        (lambda: fp.max_pool2d(EYE, 2, -2), "stride must be positive in every axis, got -2"),
        (lambda: fp.max_pool2d(EYE, 2, dilation=0), "dilation must be positive in every axis, got 0"),
        (lambda: fp.max_pool2d(EYE, 2, padding=-1), "padding must be 0 or more in every axis, got -1"),
        (lambda: fp.max_pool2d(EYE, 2, padding=((0, 1), (0, -1))), "padding must be 0 or more .*-1"),
        (lambda: fp.max_pool2d(EYE, (2, 2, 2)), r"kernel_size must be one integer or 2, .*got \(2, 2, 2\)"),
        (lambda: fp.max_pool2d(EYE, 2, (1, 1, 1)), r"stride must be one integer or 2, .*got \(1, 1, 1\)"),
        (lambda: fp.max_pool2d(EYE, 2, padding=(1,)), r"padding must be one integer or 2, .*got \(1,\)"),
        (lambda: fp.max_pool2d(EYE, 2, padding=((1, 1),)), r"padding must hold a \(before, after\) pair for each"),
        (lambda: fp.max_pool2d(EYE, 2, padding=((1, 1), 1)), r"padding must hold a \(before, after\) pair for each"),
        (lambda: fp.max_pool2d(EYE, 2, padding="full"), "padding must be 'valid', 'same', 'same_lower' .*got 'full'"),
        (lambda: fp.max_pool2d(EYE, 2, data_format="NCHW"), "data_format must be 'channels_first' or .*got 'NCHW'"),
        (lambda: fp.max_pool2d(np.zeros(4), 2), r"x must have 2 to 4 axes.*got shape \(4,\)"),
        (lambda: fp.max_pool2d(np.zeros((1,) * 5), 1), r"x must have 2 to 4 axes.*got shape \(1, 1, 1, 1, 1\)"),
        (lambda: fp.max_pool2d(EYE, 2, 2**63), "stride is too large"),
        (lambda: fp.max_pool2d(EYE, 2**70, padding=2**70), "kernel_size is too large"),
        (lambda: fp.max_pool2d(EYE, 2**40, 1, 2**40), "overflows"),
        (lambda: fp.max_pool2d(np.zeros((1, 1)), 1, 1, 2**33), "overflows"),
        (lambda: fp.maxout(IMAGES, 3, 1, grouping="odd"), "grouping must be 'strided' or 'contiguous', got 'odd'"),
        (lambda: fp.maxout(IMAGES, 0), "num_units must be positive, got 0"),
        (lambda: fp.maxout(IMAGES, 2, 4), "axis must be from -4 to 3 .*got 4"),
        (lambda: fp.maxout(np.array(3.0), 1), r"x must have at least one axis, got the shape \(\)"),
        (lambda: fp.maxout_backward(EYE, EYE, ()), r"x_shape must have at least one axis, got the shape \(\)"),
        (lambda: fp.max_pool2d([[1, 2], [3]], 1), "x must be an array, or nested sequences of the same lengths"),
        (lambda: fp.maxout_backward(EYE, np.zeros((4, 4), np.uint8), (4, 6)), r"dy must have the shape .*got \(4, 4\)"),
        (
            lambda: fp.im2col(IMAGES, 2, order="cols"),
            "order must be 'unfold', 'gemm', 'columns', 'rows', 'rows_channels_last' or 'windows', got 'cols'",
        ),
        (lambda: fp.im2col(IMAGES.astype(np.uint8), 2, fill_value=-1), "fill_value must be .*uint8.*got -1"),
        (lambda: fp.im2col(IMAGES.astype(int), 2, fill_value=0.5), "fill_value must be .*int64.*got 0.5"),
        (lambda: fp.im2col(IMAGES, 2, fill_value="zero"), "fill_value must be .*float32.*got 'zero'"),
        (lambda: fp.im2col(IMAGES, 2, fill_value="1"), "fill_value must be .*float32.*got '1'"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=None), "fill_value must be .*float32.*got None"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=1j), "fill_value must be .*float32.*got 1j"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=[1, 2]), r"fill_value must be .*float32.*got \[1, 2\]"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=[[1], [1, 2]]), r"fill_value must be .*float32.*got \[\[1"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=1e40), "fill_value must be .*float32.*got 1e"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=-(10**400)), "fill_value must be .*float32.*got -1000"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=2**24 + 1), "fill_value must be .*float32.*got 16777217"),
        (lambda: fp.im2col(IMAGES, 2, fill_value=np.float64(0.1)), "fill_value must be .*float32.*rounded"),
        (lambda: fp.im2col(IMAGES.astype("f2"), 2, fill_value=65520.0), "fill_value must be .*float16.*got 65520"),
        (lambda: fp.im2col(IMAGES.astype("f8"), 2, fill_value=2**53 + 1), "fill_value must be .*float64.*9007199"),
        (lambda: fp.im2col(IMAGES.astype("i8"), 2, fill_value=2.0**63), "fill_value must be .*int64.*got 9.2"),
        (lambda: fp.im2col(IMAGES.astype("i8"), 2, fill_value=np.nan), "fill_value must be .*int64.*got nan"),
        (lambda: fp.conv2d(IMAGES, IMAGES[:, :2]), "w must have 3 channels .*got 2"),
        (lambda: fp.conv2d(IMAGES, IMAGES, groups=2), "groups must divide .*got 2"),
        (lambda: fp.conv2d(IMAGES, IMAGES, EYE[0]), r"b must have the shape \(2,\).*got \(4,\)"),
        (lambda: fp.conv2d(IMAGES[0], IMAGES), r"x must have shape \(N, C, H, W\).*got \(3, 4, 4\)"),
        (lambda: fp.swish(EYE, np.inf), "beta must be finite, got inf"),
        (lambda: fp.swish(EYE, 10**400), "beta must be finite, got 1000"),
        (lambda: fp.swish(EYE, -3.5e38), "beta must be finite in float32, in which float32 is computed, got -3.5e"),
        (lambda: fp.swish(EYE[:, ::2], 1e39), "beta must be finite in float32"),
        (lambda: fp.swish_backward(*[EYE.astype("f2")] * 2, 1e39), "beta must be finite in float32, in which float16"),
        (lambda: fp.swish(EYE.astype(BFLOAT16), 1e39), "beta must be finite in float32, in which bfloat16"),
        (lambda: fp.hard_swish_backward(EYE[0], EYE), r"dy must have the shape \(4, 4\) of x, got \(4,\)"),
        (lambda: fp.max_pool2d_backward(EYE, EYE, (-4, 4), 1), r"x_shape must not be negative .*\(-4, 4\)"),
        (lambda: fp.argmax_to_indices(np.zeros(4, np.uint8), (4,), (1,), convention="jax"), "convention .*'jax'"),
        (lambda: fp.max_pool1d_backward(np.ones(2), np.zeros(2, np.uint8), (2**62,), 1, 2**62, 1), "overflows"),
        (lambda: fp.avg_pool2d(EYE, 5), "kernel_size: a window of 5 cells does not fit into an axis of 4"),
        (lambda: fp.avg_pool2d(EYE, 2, divisor_override=0), "divisor_override must be positive, got 0"),
        (lambda: fp.avg_pool2d(EYE, 2, divisor_override=2**63), "divisor_override is too large for any window"),
        (lambda: fp.avg_pool2d_backward(EYE, (8,), 2), r"x_shape must have 2 to 4 axes .*got shape \(8,\)"),
        (lambda: fp.global_avg_pool_backward(EYE, (1, 1, 0)), r"each spatial axis of x_shape .*\(1, 1, 0\)"),
        (lambda: fp.avg_pool2d(EYE, 2, padding="full"), "padding must be 'valid', 'same', 'same_lower' .*got 'full'"),
        (lambda: fp.avg_pool2d_backward(EYE, (4, 4), 2), r"dy must have the shape \(2, 2\) of the pooled .*\(4, 4\)"),
        (lambda: fp.global_avg_pool_backward(EYE, (4, 2, 3)), r"dy must have the shape \(4, 2\) .*got \(4, 4\)"),
        (lambda: fp.global_avg_pool(EYE), r"x must have a batch, a channel and one to three .*got shape \(4, 4\)"),
        (lambda: fp.set_num_threads(0), "n must be positive, got 0"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_argument_and_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fp.max_pool2d(np.ma.zeros((4, 4)), 2), "x must not be a masked array.*filled"),
        (lambda: fp.maxout(np.ma.zeros((4, 4)), 2), "x must not be a masked array"),
        (lambda: fp.max_pool2d([[1, 2], np.ma.zeros(2)], 2), "x must not hold masked arrays"),
        (lambda: fp.max_pool1d((1, np.ma.masked), 2), "x must not hold masked arrays"),
        (lambda: fp.max_pool2d(np.zeros((4, 4), object), 2), "x must be bool, .*got object"),
        (lambda: fp.max_pool2d(np.zeros((4, 4), np.dtypes.StringDType()), 2), "x must be bool, .*got StringDType"),
        (lambda: fp.max_pool2d([[1, None]], 1), "x must be bool, .*got object"),
        (lambda: fp.max_pool2d("image", 2), "x must be an array, got builtins.str"),
        (lambda: fp.max_pool2d(None, 2), "x must be an array, got builtins.NoneType"),
        (lambda: fp.max_pool2d(EYE, True), "kernel_size must be an integer, got True"),
        (lambda: fp.max_pool2d(EYE, 2.0), "kernel_size must be an integer, got 2.0"),
        (lambda: fp.max_pool2d(EYE, (2, 2.5)), "kernel_size must be an integer, got 2.5"),
        (lambda: fp.max_pool2d(EYE, None), "kernel_size must be an integer, got None"),
        (lambda: fp.max_pool2d(EYE, "2"), "kernel_size must be an integer, got '2'"),
        (lambda: fp.max_pool2d(EYE, 2, True), "stride must be an integer, got True"),
        (lambda: fp.max_pool2d(EYE, 2, 1.5), "stride must be an integer, got 1.5"),
        (lambda: fp.max_pool2d(EYE, 2, padding=0.5), "padding must be an integer, got 0.5"),
        (lambda: fp.max_pool2d(EYE, 2, padding=False), "padding must be an integer, got False"),
        (lambda: fp.max_pool2d(EYE, 2, dilation=np.bool_(True)), "dilation must be an integer, got .*True"),
        (lambda: fp.max_pool2d(EYE, 2, ceil_mode=2), "ceil_mode must be True or False, got 2"),
        (lambda: fp.max_pool2d(EYE, 2, ceil_mode=None), "ceil_mode must be True or False, got None"),
        (lambda: fp.max_pool2d(EYE, 2, return_argmax="False"), "return_argmax must be True or False, got 'False'"),
        (lambda: fp.max_pool2d(EYE, 2, return_argmax=EYE), r"return_argmax must be True or False, got array\("),
        (lambda: fp.maxout(EYE, 2, return_argmax=[1]), r"return_argmax must be True or False, got \[1\]"),
        (lambda: fp.global_max_pool(IMAGES, keepdims="no"), "keepdims must be True or False, got 'no'"),
        (lambda: fp.global_max_pool(IMAGES, return_argmax=1.0), "return_argmax must be True or False, got 1.0"),
        (lambda: fp.global_max_pool_backward(EYE, EYE, (4, 4, 1), keepdims=-1), "keepdims must be .*got -1"),
        (lambda: fp.avg_pool2d(EYE, 2, count_include_pad=None), "count_include_pad must be True or False, got None"),
        (lambda: fp.avg_pool2d(EYE, 2, divisor_override=2.0), "divisor_override must be an integer, got 2.0"),
        (lambda: fp.avg_pool2d(EYE, 2, ceil_mode=2), "ceil_mode must be True or False, got 2"),
        (lambda: fp.global_avg_pool(IMAGES, keepdims="no"), "keepdims must be True or False, got 'no'"),
        (lambda: fp.im2col(IMAGES, 2, None), "stride must be one integer or one for each axis, got None"),
        (lambda: fp.col2im(IMAGES, (1, 1, 4, 4), 2, None), "stride must be one integer .*got None"),
        (lambda: fp.conv2d(IMAGES, IMAGES, stride=None), "stride must be one integer .*got None"),
        (lambda: fp.conv2d_backward(IMAGES, IMAGES, IMAGES, None), "stride must be one integer .*got None"),
        (lambda: fp.maxout(EYE, 2.0), "num_units must be an integer, got 2.0"),
        (lambda: fp.maxout(EYE, 2, 0.0), "axis must be an integer, got 0.0"),
        (lambda: fp.max_pool2d_backward(EYE, EYE, 4, 1), "x_shape must be a tuple of integers, got 4"),
        (lambda: fp.swish(EYE, "1"), "beta must be a number, got '1'"),
        (lambda: fp.swish(EYE, True), "beta must be a number, got True"),
        (lambda: fp.max_unpool2d(EYE, EYE, 1), "indices must be integers, got float32"),
        (lambda: fp.set_num_threads(2.0), "n must be an integer, got 2.0"),
        (lambda: fp.max_pool2d(EYE, 1, out=np.ma.array(EYE)), "out must be a NumPy array, got MaskedArray"),
    ],
)  # fmt: skip
def test_the_wrong_kind_of_value_is_refused_with_the_argument_and_the_value(call, message):
    with pytest.raises(TypeError, match=message):
        call()


class WithInterface:
    """Whatever claims to be an array on a GPU, by an interface that may raise."""

    def __init__(self, interface):
        self.interface = interface

    @property
    def __cuda_array_interface__(self):
        if isinstance(self.interface, Exception):
            raise self.interface
        return self.interface


class WithDlpack:
    """Whatever claims to have DLPack, by methods that give these or raise them."""

    def __init__(self, device, capsule=None):
        self.device, self.capsule = device, capsule

    def __dlpack_device__(self):
        if isinstance(self.device, Exception):
            raise self.device
        return self.device

    def __dlpack__(self, **more):
        if isinstance(self.capsule, Exception):
            raise self.capsule
        return self.capsule


@pytest.mark.parametrize(
    "liar",
    [
        WithInterface(3),
        WithInterface({}),
        WithInterface(ZeroDivisionError()),
        WithInterface({"data": (0, False), "shape": (2,), "typestr": "<f4"}),
        WithInterface({"data": (8, False), "shape": ("2",), "typestr": "<f4"}),
        WithInterface({"data": (8, False), "shape": (2,), "typestr": "<f4", "strides": ()}),
        WithInterface({"data": (8, False), "shape": (2,), "typestr": "none"}),
        WithDlpack(None),
        WithDlpack(KeyError("device")),
        WithDlpack((1, 0)),
        WithDlpack((1, 0), ZeroDivisionError()),
        WithDlpack((2, 0)),
        WithDlpack((2, 0), ZeroDivisionError()),
    ],
    ids=lambda liar: f"{type(liar).__name__} {vars(liar)}",
)
def test_an_object_that_lies_about_its_memory_is_refused_with_the_argument_and_the_cause(liar, monkeypatch):
    monkeypatch.setattr(interop, "_protocol", lambda protocol: protocol(None))
    with pytest.raises(TypeError, match=r"x must be an array that can be read by its __.*__, got .*With") as raised:
        fp.max_pool1d(liar, 1)
    assert isinstance(raised.value.__cause__, Exception)
    with pytest.raises(TypeError, match="x must be an array that can be read by its __"):
        fp.hard_swish_backward(np.ones(2), liar)


@pytest.mark.parametrize("true", [True, np.True_, 1, np.int8(1)], ids=repr)
def test_a_flag_is_a_bool_or_the_integer_0_or_1(true):
    false = type(true)(0)
    for name in ("return_argmax", "ceil_mode"):
        assert repr(fp.max_pool2d(EYE, 3, 2, **{name: true})) == repr(fp.max_pool2d(EYE, 3, 2, **{name: True}))
        assert repr(fp.max_pool2d(EYE, 3, 2, **{name: false})) == repr(fp.max_pool2d(EYE, 3, 2))
    assert fp.global_max_pool(IMAGES, keepdims=true).shape == (2, 3, 1, 1)
    assert fp.global_max_pool(IMAGES, keepdims=false).shape == (2, 3)


@pytest.mark.parametrize("argument", ["return_argmax", "ceil_mode", "data_format", "backend"])
def test_an_integer_that_python_refuses_to_write_is_refused_by_the_name_of_its_argument(argument):
    with pytest.raises((TypeError, ValueError), match=rf"{argument} must be .*, got an object of type int"):
        fp.max_pool2d(EYE, 3, 2, **{argument: 10**5000})


def test_maxout_refuses_an_axis_that_is_no_multiple_with_both_numbers():
    with pytest.raises(ValueError, match=r"number of features \(7\) is not a multiple of num_units \(3\)"):
        fp.maxout(np.zeros((2, 7)), 3)


# Unpooling


def test_unpooling_puts_zeros_elsewhere_and_passes_over_minus_one(backend):
    x = fp.max_unpool1d(np.array([5, 6, 7]), np.array([3, -1, 0]), 2, output_shape=(6,), backend=backend)
    np.testing.assert_array_equal(x, [7, 0, 0, 5, 0, 0])


def test_the_last_of_several_values_for_one_cell_stays(backend):
    y, indices = np.arange(1.0, 7).reshape(1, 1, 2, 3), np.array([[[[0, 5, 5], [5, 0, 3]]]])
    x = fp.max_unpool2d(y, indices, 2, output_shape=(2, 3), backend=backend)
    np.testing.assert_array_equal(x, [[[[5, 0, 0], [6, 0, 4]]]])


@pytest.mark.parametrize("wrong", [16, -2, 10**12, -(2**63)])
def test_an_index_outside_the_output_raises_and_writes_nothing(wrong, backend):
    out = np.full((4, 4), 7.0)
    with pytest.raises(ValueError, match=rf"indices must name cells.*below 16.*got {wrong}"):
        fp.max_unpool2d(np.ones((2, 2)), np.array([[0, 1], [2, wrong]]), 2, out=out, backend=backend)
    assert (out == 7).all()


@pytest.mark.parametrize("convention", ["torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer"])
def test_the_largest_unsigned_index_is_not_minus_one(convention, backend):
    indices = np.array([[0, 1], [2, 2**64 - 1]], np.uint64)
    with pytest.raises(ValueError, match=r"indices must name cells.*got 18446744073709551615"):
        fp.max_unpool2d(np.ones((2, 2)), indices, 2, convention=convention, backend=backend)
    with pytest.raises(ValueError, match=r"indices must name cells.*got 18446744073709551615"):
        fp.indices_to_argmax(indices, (4, 4), (2, 2), convention=convention)


def test_indices_that_no_int64_holds_are_refused():
    """Of a few windows far apart, in planes larger than memory: of 2**62 elements in six channels, and of 2**64."""
    argmax = np.zeros((2, 3, 2, 2), np.uint8)
    large, larger = ((2, 3, 2**n, 2**n) for n in (31, 32))
    too_many = "x_shape must have no more cells than an index in int64 can name"
    indices = fp.argmax_to_indices(argmax, large, 1, 2**30)
    np.testing.assert_array_equal(indices[0, 0], [[0, 2**30], [2**61, 2**61 + 2**30]])
    np.testing.assert_array_equal(fp.indices_to_argmax(indices, large, 1, 2**30), argmax)
    for shape, stride, convention in (
        (large, 2**30, "onnx"),
        (large, 2**30, "tensorflow"),
        (larger, 2**31, "torch"),
    ):
        for convert, found in ((fp.argmax_to_indices, argmax), (fp.indices_to_argmax, argmax.astype(int))):
            with pytest.raises(ValueError, match=too_many):
                convert(found, shape, 1, stride, convention=convention)
    assert not fp.argmax_to_indices(argmax, larger, 1, 2**31, convention="chainer").any()


@pytest.mark.parametrize(
    ("convention", "wrong", "index"),
    [("tensorflow", "another channel's", 1), ("onnx", "another plane's", 16), ("chainer", "no tap of the window", 4)],
)
def test_an_index_into_another_plane_raises(convention, wrong, index):
    y, indices = np.ones((1, 2, 2, 2)), np.zeros((1, 2, 2, 2), int)
    indices[0, 1] += {"onnx": 16, "tensorflow": 1, "chainer": 0}[convention]
    fp.max_unpool2d(y, indices, 2, convention=convention, backend="numpy")
    indices[0, 0, 0, 0] = index
    with pytest.raises(ValueError, match=f"indices must name cells of their own plane.*got {index}"):
        fp.max_unpool2d(y, indices, 2, convention=convention, backend="numpy")


@pytest.mark.parametrize("convention", ["caffe", ["torch"], None])
def test_an_unknown_convention_is_refused(convention):
    argmax = np.zeros((2, 2), np.uint8)
    for call in (
        lambda: fp.argmax_to_indices(argmax, (4, 4), (2, 2), convention=convention),
        lambda: fp.indices_to_argmax(argmax, (4, 4), (2, 2), convention=convention),
        lambda: fp.max_unpool2d(np.ones((2, 2)), argmax, 2, convention=convention),
    ):
        with pytest.raises(ValueError, match="convention must be 'torch'"):
            call()


def test_unpooling_refuses_windows_that_lie_beyond_any_number():
    """The last of them started at 2**64, which became 0."""
    with pytest.raises(ValueError, match="where they lie overflows"):
        fp.max_unpool1d(np.ones(5), np.zeros(5, int), 1, 2**62, output_shape=(4,), convention="chainer")


def test_an_offset_of_chainer_that_names_padding_is_said_to():
    for call in (
        lambda indices: fp.max_unpool2d(np.ones((2, 2)), indices, 2, padding=1, convention="chainer"),
        lambda indices: fp.indices_to_argmax(indices, (2, 2), (2, 2), padding=1, convention="chainer"),
    ):
        with pytest.raises(ValueError, match=r"from 0 below 4 as chainer counts, got 1, a cell of padding"):
            call(np.array([[3, 2], [1, 1]]))


# More windows than are converted at once, in one plane or in several, and the channels of one window in one block.
@pytest.mark.parametrize("shape", [(1, 2, 520, 520), (1, 520, 520, 2), (300, 3, 18, 18), (2, 2, 2, 70_000)])
@pytest.mark.parametrize("convention", ["torch", "onnx", "tensorflow", "tensorflow_with_batch", "chainer"])
def test_indices_of_many_blocks_bring_each_value_back(convention, shape, backend):
    if INTERPRETED or backend == "naive":
        pytest.skip("takes minutes")
    last = shape[-1] == 2
    plan = {"convention": convention, "data_format": "channels_last" if last else "channels_first"}
    x = np.random.default_rng(0).permutation(prod(shape)).astype(np.float32).reshape(shape) + 1
    y, argmax = fp.max_pool2d(x, 2, data_format=plan["data_format"], return_argmax=True)
    spread = y.repeat(2, 1).repeat(2, 2) if last else y.repeat(2, 2).repeat(2, 3)
    expected = np.where(x == spread, x, 0)
    indices = fp.argmax_to_indices(argmax, shape, (2, 2), **plan)
    np.testing.assert_array_equal(fp.indices_to_argmax(indices, shape, (2, 2), **plan), argmax)
    for out in (None, np.full_like(x, 7)):
        for same in (indices, indices.astype(">i8"), indices.astype(np.int32)):
            got = fp.max_unpool2d(y, same, 2, out=out, backend=backend, **plan)
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("convention", "wrong"), [("torch", 1 << 18), ("onnx", 0), ("tensorflow", 0), ("chainer", 4)])
def test_an_invalid_index_behind_many_blocks_leaves_out_as_it_is(convention, wrong, backend):
    shape = (1, 2, 512, 512)
    argmax = np.zeros((1, 2, 256, 256), np.uint8)
    indices = fp.argmax_to_indices(argmax, shape, 2, convention=convention)
    indices[0, 1, -1, -1] = wrong
    out = np.full(shape, 7, np.float32)
    with pytest.raises(ValueError, match=f"indices must name cells of their own plane.*got {wrong}"):
        fp.max_unpool2d(argmax.astype(np.float32), indices, 2, convention=convention, out=out, backend=backend)
    assert (out == 7).all()


# Backends and threads


def test_unknown_backends_are_refused_with_the_known_ones():
    known = "must be one of 'numba', 'cython', 'numpy', 'naive', 'cuda', got 'torch'"
    with pytest.raises(ValueError, match="backend " + known):
        fp.max_pool2d(EYE, 2, backend="torch")
    with pytest.raises(ValueError, match="backend " + known), fp.use_backend("torch"):
        pass


def test_unknown_backends_are_refused_for_empty_batches_too():
    x, flat = np.zeros((0, 1, 4, 4), np.float32), np.zeros((0, 4), np.float32)
    w, argmax = np.zeros((1, 1, 2, 2), np.float32), np.zeros((0, 1, 2, 2), np.uint8)
    for call in (
        lambda: fp.max_pool2d(x, 2, backend="torch"),
        lambda: fp.max_pool2d_backward(x[..., :2, :2], argmax, x.shape, 2, backend="torch"),
        lambda: fp.global_max_pool(x, backend="torch"),
        lambda: fp.maxout(flat, 2, backend="torch"),
        lambda: fp.im2col(x, 2, backend="torch"),
        lambda: fp.hard_swish(flat, backend="torch"),
        lambda: fp.hard_swish(flat[:, ::2], backend="torch"),
        lambda: fp.swish_backward(flat, flat, backend="torch"),
        lambda: fp.conv2d(x, w, backend="torch"),
        lambda: fp.conv2d_backward(x[..., :3, :3], x, w, backend="torch"),
        # One window of only padding, which has no columns.
        lambda: fp.conv2d(w[..., :1, :1], w[..., :1, :1], stride=9, padding=((2, 0), (0, 0)), backend="torch"),
    ):
        with pytest.raises(ValueError, match="backend must be one of"):
            call()


@pytest.fixture
def only(monkeypatch):
    """Make each backend return its own name instead of pooling."""

    class Said(Exception):
        pass

    def speaker(name):
        def max_pool(*_):
            raise Said(name)

        return max_pool

    def said(call):
        with pytest.raises(Said) as raised:
            call()
        return str(raised.value)

    for name in ("naive", "numpy"):
        monkeypatch.setattr(import_module(f"fastpool.backends.{name}"), "max_pool", speaker(name))
    return said


def test_the_argument_beats_use_backend(only):
    with fp.use_backend("numpy"):
        assert only(lambda: fp.max_pool2d(EYE, 2)) == "numpy"
        assert only(lambda: fp.max_pool2d(EYE, 2, backend="naive")) == "naive"
        with fp.use_backend("naive"):
            assert only(lambda: fp.max_pool2d(EYE, 2)) == "naive"
        assert only(lambda: fp.max_pool2d(EYE, 2)) == "numpy"


def test_use_backend_ends_with_its_block_even_by_an_exception(only):
    with fp.use_backend("naive"):
        with pytest.raises(ZeroDivisionError), fp.use_backend("numpy"):
            raise ZeroDivisionError
        assert only(lambda: fp.max_pool2d(EYE, 2)) == "naive"


def test_use_backend_may_be_entered_again_and_within_itself(only):
    """What it gave could be entered once."""
    outside = chosen(None)
    numpy, naive = fp.use_backend("numpy"), fp.use_backend("naive")
    for _ in range(2):
        with numpy, naive, numpy:
            with naive:
                assert only(lambda: fp.max_pool2d(EYE, 2)) == "naive"
            assert only(lambda: fp.max_pool2d(EYE, 2)) == "numpy"
        assert chosen(None) == outside

    @naive
    def pool(depth):
        return pool(depth - 1) if depth else fp.max_pool2d(EYE, 2)

    assert only(lambda: pool(2)) == "naive"


def test_use_backend_holds_for_its_own_thread_alone(only):
    heard = []
    with fp.use_backend("naive"):
        thread = threading.Thread(target=lambda: heard.append(kernel("max_pool", None)))
        thread.start()
        thread.join()
        assert only(lambda: fp.max_pool2d(EYE, 2)) == "naive"
        assert kernel("max_pool", None) is naive.max_pool
    assert heard == [kernel("max_pool", None)]
    assert heard != [naive.max_pool]


SAY = """
import numpy as np, fastpool as fp
from fastpool.backends import kernel
print(kernel("max_pool", None).__module__, kernel("max_pool", "naive").__module__)
with fp.use_backend("naive"):
    print(kernel("max_pool", None).__module__)
"""


def test_the_environment_beats_the_default_and_use_backend_beats_the_environment(python):
    named, argument, context = python("-c", SAY, FASTPOOL_BACKEND="numpy").split()
    assert (named, argument, context) == tuple(f"fastpool.backends.{n}" for n in ("numpy", "naive", "naive"))


def test_the_default_is_the_first_backend_that_runs_here(python):
    first = next(name for name, status in fp.backends().items() if status.available)
    assert python("-c", SAY, FASTPOOL_BACKEND=None).startswith(f"fastpool.backends.{first}")


def test_an_unknown_backend_in_the_environment_is_refused_at_the_first_call(python):
    message = python("-c", SAY, FASTPOOL_BACKEND="torch", fails=True)
    assert (
        "ValueError: FASTPOOL_BACKEND must be one of 'numba', 'cython', 'numpy', 'naive', 'cuda', got 'torch'"
        in message
    )


def test_a_missing_op_names_the_backends_that_have_it(monkeypatch):
    monkeypatch.delattr(import_module("fastpool.backends.numpy"), "hard_swish")
    with pytest.raises(NotImplementedError, match=r"backend 'numpy' has no hard_swish; these have: .*naive"):
        fp.hard_swish(EYE, backend="numpy")


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None
import numpy as np, fastpool as fp
status = fp.backends()["numba"]
print(status.available, status.reason)
print(fp.max_pool1d([1, 3, 2, 5], 2), fp.hard_swish(np.zeros(2)))
fp.max_pool1d([1], 1, backend="numba")
"""


def test_without_numba_another_backend_is_used_and_the_reason_is_reported(python):
    out = python("-c", WITHOUT_NUMBA, FASTPOOL_BACKEND=None, FASTPOOL_KERNELS="jit", fails=True)
    assert out.startswith("False ")
    assert "[3 5] [0. 0.]" in out
    assert "RuntimeError: backend 'numba' cannot run here: " in out
    assert 'pip install "fastpool[numba]"' in out


def test_where_the_compiled_modules_are_missing_numba_is_no_remedy(python):
    code = WITHOUT_NUMBA.replace('"numba"] = None', '"fastpool.backends.numba._launch"] = None', 1)
    out = python("-c", code, FASTPOOL_BACKEND=None, fails=True)
    assert out.startswith("False ")
    assert "remedy: reinstall fastpool where a C compiler is at hand" in out
    assert "pip install" not in out


WITHOUT_A_GPU = """
import sys
if "without numba-cuda" in sys.argv:
    sys.modules["numba_cuda"] = None
import numpy as np, fastpool as fp
status = fp.backends()["cuda"]
print(status.available, status.reason)
fp.max_pool1d(np.ones(2), 1)
fp.max_pool1d(np.ones(2), 1, backend="cuda")
"""


@pytest.mark.parametrize("missing", ["without numba-cuda", "without a driver"])
def test_without_a_gpu_the_reason_is_reported(missing, python):
    if missing == "without a driver":
        pytest.importorskip("numba_cuda", reason="needs numba-cuda")
        if fp.backends()["cuda"].available and not INTERPRETED:
            pytest.skip("a GPU is here")
    out = python("-c", WITHOUT_A_GPU, missing, fails=True, FASTPOOL_TEST_CUDA=None)
    assert out.startswith("False ")
    assert "RuntimeError: backend 'cuda' cannot run here: " in out
    assert 'remedy: pip install "fastpool[cuda]"' in out


def test_set_num_threads_holds_until_it_is_reset():
    before = fp.get_num_threads()
    try:
        fp.set_num_threads(3)
        assert fp.get_num_threads() == 3
    finally:
        fp.set_num_threads(None)
    assert fp.get_num_threads() == before >= 1


def test_the_environment_sets_the_number_of_threads(python):
    ask = "import fastpool as fp; print(fp.get_num_threads())"
    assert python("-c", ask, FASTPOOL_NUM_THREADS=5) == "5\n"
    message = python("-c", ask, FASTPOOL_NUM_THREADS="many", fails=True)
    assert "ValueError: FASTPOOL_NUM_THREADS must be a positive integer, got 'many'" in message


# Global pooling and maxout


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keepdims", [False, True])
def test_global_pooling_is_the_maximum_over_space_and_its_gradient_goes_there(keepdims, layout, backend):
    x = np.random.default_rng(0).permutation(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.float64)
    axes = (2, 3) if layout == "channels_first" else (1, 2)
    y, argmax = fp.global_max_pool(x, data_format=layout, keepdims=keepdims, return_argmax=True, backend=backend)
    np.testing.assert_array_equal(y, x.max(axes, keepdims=keepdims))
    dx = fp.global_max_pool_backward(y, argmax, x.shape, data_format=layout, keepdims=keepdims, backend=backend)
    np.testing.assert_array_equal(dx, np.where(x == x.max(axes, keepdims=True), x, 0))


@pytest.fixture
def averager(backend):
    """Every backend that has averages."""
    if not has(backend, "avg_pool"):
        pytest.skip(f"the backend {backend} has no avg_pool")
    return backend


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_an_average_of_padding_alone_is_zero_and_sends_no_gradient(dtype, averager):
    x = np.full((1, 1, 2, 2), 6, dtype)
    for include in (True, False):
        plan = {"stride": 2, "padding": 2, "count_include_pad": include, "backend": averager}
        y = fp.avg_pool2d(x, 2, **plan)
        np.testing.assert_array_equal(y.astype(float), [[[[0, 0, 0], [0, 6, 0], [0, 0, 0]]]])
        dx = fp.avg_pool2d_backward(np.full(y.shape, 8, dtype), x.shape, 2, **plan)
        np.testing.assert_array_equal(dx.astype(float), np.full(x.shape, 2))


def test_padding_counts_if_it_is_told_to_that_of_same_too(averager):
    x = np.full((1, 1, 3), 6.0)
    for padding in (1, "same", ((1, 1),)):
        with_padding = fp.avg_pool1d(x, 3, 1, padding, backend=averager)
        np.testing.assert_array_equal(with_padding, [[[4, 6, 4]]])
        np.testing.assert_array_equal(fp.avg_pool1d(x, 3, 1, padding, False, False, backend=averager), [[[6, 6, 6]]])
    np.testing.assert_array_equal(fp.avg_pool1d(x, 3, 1, "same", divisor_override=2, backend=averager), [[[6, 9, 6]]])


def test_what_hangs_over_the_end_of_the_padding_never_counts(averager):
    y = fp.avg_pool1d(np.full((1, 1, 3), 6.0), 3, 3, 1, ceil_mode=True, backend=averager)
    np.testing.assert_array_equal(y, [[[4, 3]]])
    y = fp.avg_pool1d(np.full((1, 1, 5), 6.0), 3, 2, ((0, 1),), ceil_mode=True, backend=averager)
    np.testing.assert_array_equal(y, [[[6, 6, 3]]])


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
def test_half_averages_are_summed_in_float32_and_rounded_once(dtype, averager):
    dtype = np.dtype(dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)
    x = np.array([4, *[eps] * 3], dtype)
    y = fp.avg_pool1d(x, 4, divisor_override=1, backend=averager)
    np.testing.assert_array_equal(y.astype(float), np.array([4 + 3 * eps]).astype(dtype).astype(float))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_values_have_themselves_as_their_average(layout, averager):
    x = np.full((2, 5, 15, 21), 0.1, np.float64)
    for window in (2, 3, 5, 7, (15, 21)):
        plan = {"count_include_pad": False, "padding": 1, "data_format": layout, "backend": averager}
        np.testing.assert_allclose(fp.avg_pool2d(to_layout(x, layout), window, **plan), 0.1, rtol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_the_windows_that_cover_them_and_no_others(value, averager):
    x = np.zeros((1, 1, 9, 9))
    x[0, 0, 4, 4] = value
    y = fp.avg_pool2d(x, 3, 1, 1, backend=averager)[0, 0]
    np.testing.assert_array_equal(y[3:6, 3:6], value)
    y[3:6, 3:6] = 0
    assert not y.any()
    dx = fp.avg_pool2d_backward(x, x.shape, 3, 1, 1, backend=averager)[0, 0]
    np.testing.assert_array_equal(dx[3:6, 3:6], value)
    dx[3:6, 3:6] = 0
    assert not dx.any()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keepdims", [False, True])
def test_the_global_average_is_the_mean_over_space(keepdims, layout, averager):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7))
    y = fp.global_avg_pool(to_layout(x, layout), data_format=layout, keepdims=keepdims, backend=averager)
    expected = x.mean((2, 3), keepdims=keepdims)
    np.testing.assert_allclose(y, to_layout(expected, layout) if keepdims else expected, rtol=1e-13)
    dx = fp.global_avg_pool_backward(
        y, to_layout(x, layout).shape, data_format=layout, keepdims=keepdims, backend=averager
    )
    np.testing.assert_allclose(dx, to_layout(np.broadcast_to(x.mean((2, 3), keepdims=True) / 35, x.shape), layout))


def test_a_backend_without_averages_is_told_which_have_them():
    with pytest.raises(NotImplementedError, match=r"backend 'cython' has no avg_pool; these have: .*numpy, naive"):
        fp.avg_pool2d(EYE, 2, backend="cython")


@pytest.mark.parametrize("axis", range(-4, 4))
def test_maxout_takes_every_axis_in_both_groupings(axis, backend):
    x = values((4, 4, 8, 4), np.int16)
    pieces = np.moveaxis(x, axis, -1)
    strided = pieces.reshape(*pieces.shape[:-1], -1, 2).max(-2)
    contiguous = pieces.reshape(*pieces.shape[:-1], 2, -1).max(-1)
    np.testing.assert_array_equal(np.moveaxis(fp.maxout(x, 2, axis, backend=backend), axis, -1), strided)
    y = fp.maxout(x, 2, axis, grouping="contiguous", backend=backend)
    np.testing.assert_array_equal(np.moveaxis(y, axis, -1), contiguous)


# Activations


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_hard_swish_at_its_knees_and_beyond(dtype, backend):
    if not has(backend, "hard_swish"):
        pytest.skip(f"{backend} has no hard_swish")
    x = np.array([-np.inf, -4, -3, 0, 1.5, 3, 4, np.inf, np.nan], dtype)
    np.testing.assert_array_equal(
        fp.hard_swish(x, backend=backend).astype(float), [0, 0, 0, 0, 1.125, 3, 4, np.inf, np.nan]
    )
    dx = fp.hard_swish_backward(np.ones_like(x), x, backend=backend).astype(float)
    np.testing.assert_array_equal(dx, [0, 0, 0, 0.5, 1, 1, 1, 1, np.nan])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_largest_beta_makes_a_step_of_swish(dtype, sign, backend):
    if not has(backend, "swish"):
        pytest.skip(f"{backend} has no swish")
    beta = sign * float(np.finfo(np.float64 if dtype == np.float64 else np.float32).max)
    x = np.array([-2, -0.0, 0, 2], dtype)
    np.testing.assert_array_equal(
        fp.swish(x, beta, backend=backend).astype(float), [0, 0, 0, 2] if sign > 0 else [-2, 0, 0, 0]
    )
    dx = fp.swish_backward(np.ones_like(x), x, beta, backend=backend).astype(float)
    np.testing.assert_array_equal(dx, [0, 0.5, 0.5, 1] if sign > 0 else [1, 0.5, 0.5, 0])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_swish_has_its_limits_at_infinity(dtype, backend):
    if not has(backend, "swish"):
        pytest.skip(f"{backend} has no swish")
    x = np.array([-np.inf, -60000, 0, 60000, np.inf, np.nan], dtype)
    y = fp.swish(x, backend=backend).astype(float)
    np.testing.assert_array_equal(y, np.where(x.astype(float) > 0, x.astype(float), [0, 0, 0, 0, 0, np.nan]))
    dx = fp.swish_backward(np.ones_like(x), x, backend=backend).astype(float)
    np.testing.assert_array_equal(dx, [0, 0, 0.5, 1, 1, np.nan])


def test_activations_take_arrays_without_axes_and_without_elements(backend):
    if not has(backend, "swish"):
        pytest.skip(f"{backend} has no swish")
    for op in (fp.hard_swish, fp.swish):
        assert op(np.array(100.0), backend=backend).shape == ()
        assert op(np.array(100.0), backend=backend) == 100
        assert op(np.zeros((0, 3)), backend=backend).shape == (0, 3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op", ["hard_swish", "hard_swish_backward", "swish", "swish_backward"])
def test_activations_raise_nothing_where_numpy_is_told_to_raise_everything(op, dtype, backend):
    """Exponentials of large numbers underflow, and so do small results that are rounded to a half."""
    with np.errstate(all="ignore"):
        small, large = np.finfo(np.float32).tiny * 2, np.finfo(np.float32).max
        x = np.array([-large, -1e4, -100, -20, -1e-7, 0, small, 1, 50, large, np.inf, -np.inf, np.nan]).astype(dtype)
    if not has(backend, op):
        pytest.skip(f"{backend} has no {op}")
    inputs = (x[::-1].copy(), x) if op.endswith("backward") else (x,)
    expected = getattr(fp, op)(*inputs, backend=backend)
    with np.errstate(all="raise"):
        found = getattr(fp, op)(*inputs, backend=backend)
    assert found.tobytes() == expected.tobytes()


def test_the_slope_of_swish_is_not_lost_where_the_sigmoid_is_subnormal(backend):
    """In the numpy backend it was 0: the exponential of its argument's negative is infinite in float32."""
    if not has(backend, "swish_backward"):
        pytest.skip(f"{backend} has no swish_backward")
    dx = fp.swish_backward(np.float32([-1e38]), np.float32([-100]), backend=backend)
    np.testing.assert_allclose(dx, [3.6829e-4], rtol=0.02)
    assert fp.swish_backward(np.float16([-np.inf]), np.float16([-100]), backend=backend) == np.inf


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_raise_nothing_where_numpy_is_told_to_raise_everything(dtype, backend):
    with np.errstate(all="ignore"):
        dy = np.array([6e-8, 1e-45, -6e-8, np.inf, -np.inf, np.nan, 1e-45, 1e38]).astype(dtype).reshape(1, 1, 8)
    argmax, columns = np.array([[[1, 1, 0, 1, 0, 1, 0, 1]]], np.uint8), np.concatenate([dy, dy[..., ::-1]], 1)

    def gradients():
        pool = fp.max_pool1d_backward(dy, argmax, (1, 1, 9), 2, 1, backend=backend)
        return pool, fp.col2im(columns, (1, 1, 9), 2, backend=backend)

    expected = gradients()
    with np.errstate(all="raise"):
        found = gradients()
    assert [a.tobytes() for a in found] == [a.tobytes() for a in expected]


def test_an_average_of_one_element_in_far_padding_takes_no_scratch_for_the_padding(averager):
    if averager == "numpy":
        pytest.skip("the baseline holds the whole padded plane")
    y = fp.avg_pool1d(np.ones((1, 1)), 3, 2**40, ((2**33, 0),), backend=averager)
    np.testing.assert_array_equal(y, [[0.0]])


# Arrays of the array API standard, of a library that has nothing but the standard.


def results_of(xp):
    x = xp.reshape(xp.arange(32, dtype=xp.float32), (1, 2, 4, 4))
    y, argmax = fp.max_pool2d(x, 2, return_argmax=True)
    cols = fp.im2col(x, 2)
    return x, {
        "pool": y,
        "argmax": argmax,
        "gradient": fp.max_pool2d_backward(y, argmax, x.shape, 2),
        "second derivative": fp.max_pool2d_double_backward(x, argmax, 2),
        "minimum": fp.min_pool2d(x, 2),
        "average": fp.avg_pool2d(x, 2),
        "adaptive": fp.adaptive_max_pool2d(x, 3),
        "any axes": fp.max_pool(x, (2, 2, 2)),
        "masked": fp.max_pool2d(x, 2, where=x > 3),
        "unpooled": fp.max_unpool2d(y, fp.argmax_to_indices(argmax, x.shape, 2), 2),
        "maxout": fp.maxout(x, 1, axis=1),
        "columns": cols,
        "from columns": fp.col2im(cols, x.shape, 2),
        "convolution": fp.conv2d(x, x[:, :, :2, :2]),
        "activation": fp.hard_swish(x),
        "swish": fp.swish(x),
        "filter": fp.maximum_filter(x, 3),
        "moving": fp.moving_max(x, 2),
        "dilation": fp.morphology.dilate(x[0, 0, ...], np.ones((3, 3), bool)),
    }


def test_arrays_of_the_array_api_standard_come_back_as_such():
    xp = pytest.importorskip("array_api_strict")
    (x, results), (plain, expected) = results_of(xp), results_of(np)
    for name, result in results.items():
        assert type(result) is type(x), name
        np.testing.assert_array_equal(np.asarray(result), expected[name], name)
    if np.lib.NumpyVersion(np.__version__) < "2.1.0":  # whose from_dlpack gives read-only arrays
        return
    out = xp.zeros((1, 2, 2, 2), dtype=xp.float32)
    assert fp.max_pool2d(x, 2, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), fp.max_pool2d(plain, 2))


def test_arrays_of_other_libraries_in_main_memory_need_no_numba(python):
    pytest.importorskip("array_api_strict")
    script = """if True:
        import sys
        sys.modules["numba"] = sys.modules["numba.cuda"] = None
        import array_api_strict as xp, fastpool as fp
        print(type(fp.max_pool2d(xp.ones((4, 4)), 2, backend="numpy")).__module__)
    """
    assert python("-c", script).split() == ["array_api_strict._array_object"]
