"""The numba backend on rows that end in the middle of a vector, for each kernel that works along rows or columns."""

from functools import partial

import numpy as np
import pytest
from specimens import POOLS, POOLS_BACKWARD, to_layout, values

import fastpool as fp

numba = pytest.importorskip("fastpool.backends.numba")
from fastpool.backends.numba.plan.forward import van_herk  # noqa: E402

DTYPES = ["float32", "uint8", "float16", "float64"]
WIDTHS = [*range(1, 20), 31, 32, 33, 47, 48, 63, 64, 65, 66, 127, 128, 129, 191, 193, 255, 257, 640]


def assert_pools_as_numpy(x, *window, **more):
    y, argmax = fp.max_pool2d(x, *window, **more, return_argmax=True)
    expected, expected_argmax = fp.max_pool2d(x, *window, **more, return_argmax=True, backend="numpy")
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, expected_argmax)
    np.testing.assert_array_equal(fp.max_pool2d(x, *window, **more), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        *((2, 1), (3, 1), (4, 1), (6, 1), (2, 2), (3, 2), (5, 2), (4, 4), (8, 8)),
        *((3, 3), (2, 3), (7, 3), (5, 5), (9, 5), (3, 4), (6, 6), (7, 7), (5, 11)),
    ],
)
def test_rows_of_every_length_give_what_numpy_gives(kernel, stride, padding, dtype):
    for width in WIDTHS:
        if width + 2 * padding >= kernel:
            x = values((1, 2, 3, width), dtype)
            assert_pools_as_numpy(x, (2, kernel), (1, stride), (0, padding))


NONOVERLAPPING = [(1, 1, 0, 1), (2, 2, 0, 1), ((3, 2), (3, 2), 0, 1), *((k, k, 0, 1) for k in (3, 4, 5, 7, 8, 11))]
OVERLAPPING = [
    *((3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 2, 1), (5, 2, 2, 1), (4, 1, 2, 1), (4, 2, 1, 1), (3, 3, 1, 1), (5, 3, 2, 1)),
    *(((3, 2), (1, 3), (1, 1), 1), ((2, 3), (2, 1), (0, 1), 1), (3, 1, 2, 2), (3, 2, 1, 2), (2, 1, 0, 1), (3, 2, 0, 1)),
]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), [*NONOVERLAPPING, *OVERLAPPING])
def test_gradients_of_rows_of_every_length(kernel, stride, padding, dilation, dtype, layout):
    for width in WIDTHS:
        x = to_layout(values((2, 3, 11 + width % 7, width), dtype), layout)
        window = kernel, stride, padding, dilation
        if np.min(np.broadcast_to(width + 2 * np.array(padding) - (np.array(kernel) - 1) * dilation, 2)) <= 0:
            continue
        y, argmax = fp.max_pool2d(x, *window, data_format=layout, return_argmax=True, backend="numpy")
        dy = (values(y.shape, "int32") % 5).astype(dtype)  # whose sums are exact in any order
        expected = fp.max_pool2d_backward(dy, argmax, x.shape, *window, data_format=layout, backend="numpy")
        dx = np.full(x.shape, np.nan, dtype)
        fp.max_pool2d_backward(dy, argmax, x.shape, *window, data_format=layout, out=dx)
        np.testing.assert_array_equal(dx, expected, f"{width} wide")


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 9), (2, 3, 40), (3, 2, 17)])
@pytest.mark.parametrize("window", [((2, 3, 2), None, 0), (2, 2, 0), (3, 2, 1), (3, 1, 1), ((1, 3, 2), (1, 2, 1), 1)])
def test_gradients_of_volumes_with_elements_that_no_window_covers(window, size):
    if np.any(np.array(size) + 2 * window[2] < window[0]):
        pytest.skip("a window larger than the volume")
    x = values((2, 3, *size), "float32")
    y, argmax = fp.max_pool3d(x, *window, return_argmax=True, backend="numpy")
    dy = (values(y.shape, "int32") % 5).astype("float32")
    dx = np.full(x.shape, np.nan, "float32")
    fp.max_pool3d_backward(dy, argmax, x.shape, *window, out=dx)
    np.testing.assert_array_equal(dx, fp.max_pool3d_backward(dy, argmax, x.shape, *window, backend="numpy"))


@pytest.mark.parametrize("index", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, 1), (3, 2, 1), (5, 1, 2), (13, 1, 6), ((3, 1), 1, (1, 0)), ((85, 1), 1, (42, 0))],
)
@pytest.mark.slow
def test_an_argmax_that_leaves_the_input_is_found_wherever_it_is(kernel, stride, padding, index):
    sizes = ((9, 10), 1), ((9, 10), 2), ((40, 37), 1), ((20, 300), 1), ((10, 12), 40), ((70, 80), 1), ((300, 20), 1)
    for size, inner in sizes:
        window = fp.window.Window.plan(2, size, kernel, stride, padding)
        _, kh, kw = window.kernel
        if kh > 2 * size[0]:
            continue  # some windows would have only padding
        _, valid = fp.max_pool2d(values(size, "float32"), kernel, stride, padding, return_argmax=True)
        valid = np.stack([valid[None, None]] * inner, -1)[[0] * 3].astype(index)
        fits = partial(numba.argmax_fits, window=window)
        for argmax in (valid, np.full_like(valid, kh * kw // 2)):
            assert fits(argmax)
            for oh in {0, 1, 2, argmax.shape[2] - 1}:
                for ow in {0, 1, argmax.shape[3] // 2, argmax.shape[3] - 1}:
                    for tap in range(0, kh * kw + 1, 1 if kh * kw < 30 else 7):
                        wrong = argmax.copy()
                        wrong[-1, 0, oh, ow, -1] = tap
                        h = oh * window.stride[1] - window.before[1] + tap // kw
                        w = ow * window.stride[2] - window.before[2] + tap % kw
                        real = tap < kh * kw and 0 <= h < size[0] and 0 <= w < size[1]
                        assert fits(wrong) == real, (size, inner, oh, ow, tap)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((9, 3), 1, (4, 1)), ((12, 4), (1, 2), 0), ((9, 5), (1, 5), (9, 2)), ((9, 4), (1, 7), (8, 1)), (17, 1, 8)],
)
@pytest.mark.slow
def test_tall_windows_in_tiles_of_every_width(kernel, stride, padding, layout, dtype, tuned):
    tuned(LEAST_WIDE=64, KEPT_MAXIMA=1)
    for windows in (194, 195, 255, 259, 383):
        x = to_layout(values((2, 3, 40, windows * np.broadcast_to(stride, 2)[1]), dtype), layout)
        plan = fp.window.Window.plan(2, x.shape, kernel, stride, padding, 1, False, layout)
        inner = 3 if layout == "channels_last" else 1
        _, tiles, _ = van_herk(plan, 6 // inner, inner, (x.dtype.itemsize, 1), 2)
        assert tiles.tile_columns < plan.out[2], "tiles that end inside of a row"
        out = np.empty(plan.y_shape, dtype), np.empty(plan.y_shape, plan.argmax_dtype)
        y, argmax = fp.max_pool2d(x, kernel, stride, padding, data_format=layout, return_argmax=True, out=out)
        expected = fp.max_pool2d(x, kernel, stride, padding, data_format=layout, return_argmax=True, backend="numpy")
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(argmax, expected[1])


EXTREME = [  # shapes with their channels first, kernel_size, stride, padding, dilation
    ((1, 3, 40), 17, 25, 8, 1),
    ((1, 2, 3), 171, 100, 171, 1),
    ((2, 1, 300), 64, 64, 32, 1),
    ((1, 2, 400), 150, 1, 75, 1),
    ((1, 3, 60), 5, 1, 20, 10),
    ((1, 2, 23, 29), 11, 2, 5, 1),
    ((1, 1, 80, 70), 31, 1, 15, 1),
    ((1, 2, 50, 80), (12, 7), (1, 3), (6, 3), (1, 2)),
    ((1, 2, 9, 11), (9, 2), (30, 1), (4, 1), (1, 4)),
    ((1, 20, 9, 8), 3, 2, 1, 1),
    ((1, 80, 5, 6), 4, 3, 2, 1),
    ((1, 2, 9, 10, 11), 5, 1, 2, 1),
    ((1, 2, 6, 7, 12), (3, 2, 6), (2, 40, 1), (1, 0, 3), 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("most", [700, 1 << 12, 1 << 14, 1 << 16])
def test_windows_whose_tiles_are_too_large_give_what_numpy_gives(most, layout, dtype, tuned):
    """A low limit on scratch makes small arrays use smaller tiles, or the kernels without scratch."""
    tuned(MOST_SCRATCH=most, MOST_SUMS_IN_SCRATCH=8, LEAST_WIDE=64)
    for shape, *window in EXTREME:
        axes = len(shape) - 2
        pool, backward = POOLS[axes], POOLS_BACKWARD[axes]
        x = to_layout(values(shape, dtype), layout)
        window = dict(zip(("kernel_size", "stride", "padding", "dilation"), window, strict=True), data_format=layout)
        expected, expected_argmax = pool(x, **window, return_argmax=True, backend="numpy")
        y, argmax = np.empty_like(expected), np.empty_like(expected_argmax)
        pool(x, **window, return_argmax=True, out=(y, argmax), backend="numba")
        np.testing.assert_array_equal(y, expected, str(shape))
        np.testing.assert_array_equal(argmax, expected_argmax, str(shape))
        pool(x, **window, out=y, backend="numba")
        np.testing.assert_array_equal(y, expected, str(shape))
        if x.dtype.kind == "f":
            dy = (values(y.shape, "int32") % 5).astype(dtype)  # whose sums are exact in any order
            dx = np.full(x.shape, np.nan, dtype)
            backward(dy, argmax, x.shape, **window, out=dx, backend="numba")
            np.testing.assert_array_equal(dx, backward(dy, argmax, x.shape, **window, backend="numpy"), str(shape))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.slow
def test_a_plane_of_tall_windows_is_cut_for_each_thread(threads):
    window = fp.window.Window.plan(2, (700, 700), 65, 1, 32)
    _, tiles, items = van_herk(window, 1, 1, (4, 2), threads)
    assert items >= threads
    assert tiles.tile_rows >= 65
    fp.set_num_threads(threads)
    try:
        assert_pools_as_numpy(values((160, 600), "float32"), 33, 1, 16)
    finally:
        fp.set_num_threads(None)
