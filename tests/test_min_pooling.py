"""Min pooling: the specification against maxima in reversed order, PyTorch and NumPy, and what is its own."""

import numpy as np
import pytest
from conftest import BACKENDS, require_backend
from numpy.lib.stride_tricks import sliding_window_view
from specimens import DTYPES, FLOATS, INTEGERS, LAYOUTS, WINDOWS, reverse_order, to_layout, values

import fastpool as fp


@pytest.fixture(params=BACKENDS)
def backend(request):
    require_backend(request.param)
    return request.param


def assert_equal(got, expected):
    """NumPy does not know the NaN of bfloat16."""
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(*(a.astype(float) if a.dtype in FLOATS else a for a in (got, expected)))


def both(extreme, x, window, axes, **more):
    return getattr(fp, f"{extreme}_pool{axes}d")(x, **window, **{f"return_arg{extreme}": True}, **more)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_specification_is_the_maximum_in_reversed_order(layout, dtype):
    for name in ("3 s2 p1", "3 s1 d2", "windows of padding alone", "1-D", "3-D 3 s2 p1"):
        shape, window = WINDOWS[name]
        x, axes = to_layout(values(shape, dtype), layout), len(shape) - 2
        y, argmin = both("min", x, window, axes, data_format=layout, backend="naive")
        expected, argmax = both("max", reverse_order(x), window, axes, data_format=layout, backend="naive")
        assert_equal(y, reverse_order(expected))
        assert_equal(argmin, argmax)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d in INTEGERS or d.kind in "bf"], ids=str)
def test_equals_the_minimum_of_sliding_windows(dtype, backend):
    x = values((2, 3, 9, 11), dtype)
    expected = sliding_window_view(x, (3, 2), (2, 3))[:, :, ::2].min((-2, -1))
    assert_equal(fp.min_pool2d(x, (3, 2), (2, 1), backend=backend), expected)


@pytest.mark.parametrize("padding", [0, 1])
def test_equals_pytorch_on_the_negated_input(padding, backend):
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 3, 9, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected, indices = torch.nn.functional.max_pool2d(-x, 3, 2, padding, return_indices=True)
    y, argmin = fp.min_pool2d(x.detach(), 3, 2, padding, return_argmin=True, backend=backend)
    assert torch.equal(y, -expected)
    assert torch.equal(fp.argmax_to_indices(argmin, x.shape, 3, 2, padding), indices)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (-expected).backward(dy)
    dx = fp.min_pool2d_backward(dy, argmin, x.shape, 3, 2, padding, backend=backend)
    torch.testing.assert_close(dx, x.grad)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_lowest_integer_is_found_and_not_wrapped_around(dtype, backend):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.array([[high, low, low + 1, high], [high, high, high, high]], dtype)
    y, argmin = fp.min_pool1d(x, 2, return_argmin=True, backend=backend)
    assert_equal(y, np.array([[low, low + 1], [high, high]], dtype))
    np.testing.assert_array_equal(argmin, [[1, 0], [0, 0]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_padding_never_wins_and_alone_gives_the_highest_value(dtype, backend):
    highest = True if dtype.kind == "b" else np.inf if dtype in FLOATS else np.iinfo(dtype).max
    x = np.full((1, 1, 2), highest, dtype)
    y, argmin = fp.min_pool1d(x, 2, 1, 3, return_argmin=True, backend=backend)
    assert_equal(y, np.full((1, 1, 7), highest, dtype))
    np.testing.assert_array_equal(argmin, [[[0, 0, 1, 0, 0, 0, 0]]])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_first_nan_wins(dtype, backend):
    x = np.array([[1, np.nan, -np.inf, np.nan, 0, -1]], dtype)
    y, argmin = fp.min_pool1d(x, 3, return_argmin=True, backend=backend)
    np.testing.assert_array_equal(np.isnan(y.astype(float)), [[True, True]])
    np.testing.assert_array_equal(argmin, [[1, 0]])
    y, argmin = fp.global_min_pool(x[None], return_argmin=True, backend=backend)
    np.testing.assert_array_equal(argmin, [[1]])


def test_first_minimum_wins_a_tie(backend):
    x = np.array([[2, 1, 1, 1, 3, 1]], np.int16)
    _, argmin = fp.min_pool1d(x, 3, return_argmin=True, backend=backend)
    np.testing.assert_array_equal(argmin, [[1, 0]])


def test_errors_name_the_argmin():
    x, dy = np.zeros((1, 1, 4)), np.zeros((1, 1, 2))
    with pytest.raises(TypeError, match="return_argmin must be True or False"):
        fp.min_pool1d(x, 2, return_argmin=2)
    with pytest.raises(ValueError, match="argmin must be below 2"):
        fp.min_pool1d_backward(dy, np.full((1, 1, 2), 2, np.uint8), (1, 1, 4), 2)
    with pytest.raises(ValueError, match="argmin must have the shape"):
        fp.min_pool1d_backward(dy, np.zeros((1, 1, 3), np.uint8), (1, 1, 4), 2)
    with pytest.raises(ValueError, match="argmin must have the shape"):
        fp.global_min_pool_backward(np.zeros((1, 1)), np.zeros((1, 2), np.uint8), (1, 1, 4))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32], ids=lambda t: t.__name__)
def test_dask_gives_what_numpy_gives(dtype):
    da = pytest.importorskip("dask.array")
    x = reverse_order(values((2, 3, 21, 17), dtype))
    chunked = da.from_array(x, chunks=(1, 2, 8, 5))
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "backend": "numpy"}
    y, argmin = fp.min_pool2d(chunked, **window, return_argmin=True)
    expected = fp.min_pool2d(x, **window, return_argmin=True)
    np.testing.assert_array_equal(y.compute(), expected[0])
    np.testing.assert_array_equal(argmin.compute(), expected[1])
    found = fp.global_min_pool(chunked, return_argmin=True, backend="numpy")
    for a, b in zip(found, fp.global_min_pool(x, return_argmin=True, backend="numpy"), strict=True):
        np.testing.assert_array_equal(a.compute(), b)
    if np.issubdtype(dtype, np.floating):
        dy = da.ones(y.shape, dtype=dtype, chunks=y.chunks)
        dx = fp.min_pool2d_backward(dy, argmin, x.shape, **window)
        np.testing.assert_array_equal(
            dx.compute(), fp.min_pool2d_backward(np.ones(y.shape, dtype), expected[1], x.shape, **window)
        )
        y, argmin = found
        dx = fp.global_min_pool_backward(da.ones(y.shape, dtype=dtype, chunks=y.chunks), argmin, x.shape)
        assert dx.compute().sum() == 6


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_minimum_of_positive_zeros_is_one(dtype, backend):
    x = np.zeros((2, 3, 12, 40), dtype)
    for window in (2, 3, 9):
        y, _ = fp.min_pool2d(x, window, 1, return_argmin=True, backend=backend)
        for result in (y, fp.min_pool2d(x, window, 1, backend=backend), fp.global_min_pool(x, backend=backend)):
            assert not np.signbit(result.astype(float)).any()
