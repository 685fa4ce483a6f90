"""The numba backend where rows end in the middle of lanes, for each way of going along them and down between them."""

import numpy as np
import pytest
from specimens import laid_out, values

import fastpool as fp

numba = pytest.importorskip("fastpool.backends.numba")

DTYPES = ["float32", "uint8", "float16", "float64"]
WIDTHS = [*range(1, 20), 31, 32, 33, 47, 48, 63, 64, 65, 66, 127, 128, 129, 191, 193, 255, 257, 640]


def pools_as_numpy_does(x, *window, **more):
    y, argmax = fp.max_pool2d(x, *window, **more, return_argmax=True)
    expected, winners = fp.max_pool2d(x, *window, **more, return_argmax=True, backend="numpy")
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(argmax, winners)
    np.testing.assert_array_equal(fp.max_pool2d(x, *window, **more), expected)
    return True


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
            assert pools_as_numpy_does(x, (2, kernel), (1, stride), (0, padding))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((9, 3), 1, (4, 1)), ((12, 4), (1, 2), 0), ((9, 5), (1, 5), (9, 2)), ((9, 4), (1, 7), (8, 1)), (17, 1, 8)],
)
def test_tall_windows_in_blocks_of_every_width(kernel, stride, padding, layout, dtype, monkeypatch):
    monkeypatch.setattr(numba, "LEAST_WIDE", 64)
    monkeypatch.setattr(numba, "MOST_KEPT", 1)
    numba._tall_plan.cache_clear()
    try:
        for windows in (194, 195, 255, 259, 383):
            x = laid_out(values((2, 3, 40, windows * np.broadcast_to(stride, 2)[1]), dtype), layout)
            plan = fp.window.Window.plan(2, x.shape, kernel, stride, padding, 1, False, layout)
            inner = 3 if layout == "channels_last" else 1
            (_, columns), _ = numba._tall_plan(plan, 6 // inner, inner, 2)
            assert columns < plan.out[2], "blocks that end inside of a row"
            room = np.empty(plan.y_shape, dtype), np.empty(plan.y_shape, plan.argmax_dtype)
            y, argmax = fp.max_pool2d(x, kernel, stride, padding, data_format=layout, return_argmax=True, out=room)
            expected = fp.max_pool2d(
                x, kernel, stride, padding, data_format=layout, return_argmax=True, backend="numpy"
            )
            np.testing.assert_array_equal(y, expected[0])
            np.testing.assert_array_equal(argmax, expected[1])
    finally:
        numba._tall_plan.cache_clear()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_plane_of_tall_windows_is_cut_for_each_thread(threads):
    window = fp.window.Window.plan(2, (700, 700), 65, 1, 32)
    (rows, _), units = numba._tall_plan(window, 1, 1, threads)
    assert units >= threads
    assert rows >= 65
    fp.set_num_threads(threads)
    try:
        assert pools_as_numpy_does(values((160, 600), "float32"), 33, 1, 16)
    finally:
        fp.set_num_threads(None)
