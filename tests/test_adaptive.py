"""Adaptive and fractional pools: the specification against PyTorch, every backend against the specification."""

import numpy as np
import pytest
from conftest import BACKENDS, require_backend
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import DTYPES, FLOATS, LAYOUTS, to_layout, values

import fastpool as fp
from fastpool.window_tables import adaptive, fractional

OUTPUTS = {1: (1, 3, 5, 9, 14), 2: (1, (3, 5), (9, 4), (None, 2), (13, 14)), 3: (1, (2, 3, 5), (4, None, 2), 7)}
SHAPES = {1: (2, 3, 13), 2: (2, 3, 9, 13), 3: (1, 2, 5, 6, 7)}
CASES = [(axes, out) for axes, outputs in OUTPUTS.items() for out in outputs]


@pytest.fixture(params=[name for name in BACKENDS if name not in ("naive", "cuda")])
def backend(request):
    require_backend(request.param)
    return request.param


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def pool(kind, axes, *arguments, **options):
    return getattr(fp, f"{kind}_pool{axes}d")(*arguments, **options)


def same(got, expected):
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(*(a.astype(float) if a.dtype in FLOATS else a for a in (got, expected)))


def samples_for(x, axes, dtype=np.float32):
    return np.random.default_rng(3).random((*x.shape[:2], axes)).astype(dtype)


# The specification


@pytest.mark.parametrize(("axes", "out"), CASES)
def test_maxima_and_their_gradient_are_those_of_pytorch(axes, out, torch):
    x = torch.from_numpy(np.round(values(SHAPES[axes], np.dtype(np.float32)), 0)).requires_grad_()
    if bool(torch.isnan(x).any()):
        x = torch.nan_to_num(x.detach(), 3.0).requires_grad_()
    expected, expected_indices = getattr(torch.nn.functional, f"adaptive_max_pool{axes}d")(x, out, return_indices=True)
    y, indices = pool("adaptive_max", axes, x.detach(), out, return_indices=True, backend="naive")
    assert torch.equal(y, expected)
    assert torch.equal(indices, expected_indices)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(dy)
    dx = getattr(fp, f"adaptive_max_pool{axes}d_backward")(dy, indices, tuple(x.shape), backend="naive")
    torch.testing.assert_close(dx, x.grad)


@pytest.mark.parametrize(("axes", "out"), CASES)
def test_averages_and_their_gradient_are_those_of_pytorch(axes, out, torch):
    x = torch.randn(SHAPES[axes], generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = getattr(torch.nn.functional, f"adaptive_avg_pool{axes}d")(x, out)
    torch.testing.assert_close(pool("adaptive_avg", axes, x.detach(), out, backend="naive"), expected)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(dy)
    dx = getattr(fp, f"adaptive_avg_pool{axes}d_backward")(dy, tuple(x.shape), backend="naive")
    torch.testing.assert_close(dx, x.grad)


@pytest.mark.parametrize(
    ("axes", "kernel", "out"), [(2, 2, 4), (2, (3, 1), (2, 9)), (3, 2, 3), (3, (1, 2, 3), (2, 1, 4))]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_fractional_pools_are_those_of_pytorch(axes, kernel, out, dtype, torch):
    x = np.random.default_rng(0).normal(size=SHAPES[axes]).astype(dtype)
    samples = samples_for(x, axes, dtype)
    expected, expected_indices = getattr(torch.nn.functional, f"fractional_max_pool{axes}d")(
        torch.from_numpy(x), kernel, out, return_indices=True, _random_samples=torch.from_numpy(samples)
    )
    y, indices = pool("fractional_max", axes, x, kernel, out, samples, return_indices=True, backend="naive")
    same(y, expected.numpy())
    same(indices, expected_indices.numpy())


@given(n=st.integers(1, 200), out=st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_no_adaptive_window_is_longer_than_two_of_the_shortest(n, out):
    table = adaptive(n, out)
    sizes = table.end - table.begin
    assert table.shortest >= 1
    assert sizes.max() <= table.shortest + 1
    if table.stride is not None:
        assert table.begin.tolist() == [i * table.stride for i in range(out)]
        assert sizes.max() == sizes.min()
    covered = np.zeros(n, int)
    for begin, end in zip(*table, strict=True):
        covered[begin:end] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("sample", [0, 0.3, 1])
def test_no_fractional_window_leaves_an_axis_whose_length_float32_rounds(sample):
    """The last but one began a cell too late."""
    n = 16_777_756
    begin, end = fractional(n, n - 3, 1, np.array([sample], np.float32))
    assert begin.min() >= 0
    assert end.max() == n


# Every backend


F32 = np.dtype(np.float32)
OF_EACH_DTYPE = [(2, (3, 5)), (2, (13, 14))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("axes", "out", "dtype"),
    [(*case, F32) for case in CASES] + [(*case, dtype) for case in OF_EACH_DTYPE for dtype in DTYPES if dtype != F32],
)
def test_maxima_agree_with_the_specification(axes, out, dtype, layout, backend):
    x = to_layout(values(SHAPES[axes], dtype), layout)
    options = {"data_format": layout, "return_indices": True}
    got, indices = pool("adaptive_max", axes, x, out, **options, backend=backend)
    expected, expected_indices = pool("adaptive_max", axes, x, out, **options, backend="naive")
    same(got, expected)
    same(indices, expected_indices)
    same(pool("adaptive_max", axes, x, out, data_format=layout, backend=backend), expected)
    if dtype in FLOATS:
        dy = to_layout(values(expected.shape, dtype), "channels_first")
        arguments = dy, indices, x.shape
        dx = getattr(fp, f"adaptive_max_pool{axes}d_backward")(*arguments, data_format=layout, backend=backend)
        same(dx, getattr(fp, f"adaptive_max_pool{axes}d_backward")(*arguments, data_format=layout, backend="naive"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("axes", "out", "dtype"),
    [(*case, F32) for case in CASES] + [(*case, dtype) for case in OF_EACH_DTYPE for dtype in FLOATS if dtype != F32],
)
def test_averages_agree_with_the_specification(axes, out, dtype, layout, backend):
    if backend == "cython":
        pytest.skip("cython has no averages")
    x = to_layout(np.random.default_rng(0).normal(size=SHAPES[axes]).astype(dtype), layout)
    rounding = 2.0**-6 if dtype.name == "bfloat16" else 2.0**-9 if dtype.itemsize == 2 else 1e-5
    options = {"data_format": layout}
    got, expected = (pool("adaptive_avg", axes, x, out, **options, backend=each) for each in (backend, "naive"))
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=rounding, atol=rounding)
    backward = getattr(fp, f"adaptive_avg_pool{axes}d_backward")
    got, expected = (backward(expected, x.shape, **options, backend=each) for each in (backend, "naive"))
    assert got.dtype == dtype
    np.testing.assert_allclose(got.astype(float), expected.astype(float), rtol=rounding, atol=rounding)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.dtype(np.uint8), *FLOATS], ids=str)
@pytest.mark.parametrize(("axes", "kernel", "out"), [(2, 2, 4), (2, (3, 1), (3, 9)), (3, 2, 4)])
def test_fractional_pools_agree_with_the_specification(axes, kernel, out, dtype, layout, backend):
    x = values(SHAPES[axes], dtype)
    samples = samples_for(x, axes)
    arguments, options = (to_layout(x, layout), kernel, out, samples), {"data_format": layout, "return_indices": True}
    got, indices = pool("fractional_max", axes, *arguments, **options, backend=backend)
    expected, expected_indices = pool("fractional_max", axes, *arguments, **options, backend="naive")
    same(got, expected)
    same(indices, expected_indices)
    if dtype in FLOATS:
        backward = getattr(fp, f"fractional_max_pool{axes}d_backward")
        dx, reference = (
            backward(expected, indices, arguments[0].shape, data_format=layout, backend=each)
            for each in (backend, "naive")
        )
        same(dx, reference)


def test_infinities_and_nan_stay_in_the_windows_that_hold_them(backend):
    x = np.zeros((1, 7), np.float32)
    x[0, 2], x[0, 6] = np.inf, np.nan
    same(fp.adaptive_max_pool1d(x, 3, backend=backend), np.array([[np.inf, np.inf, np.nan]], np.float32))
    if backend != "cython":
        same(fp.adaptive_avg_pool1d(x, 3, backend=backend), np.array([[np.inf, np.inf, np.nan]], np.float32))
        dy = np.array([[0, np.inf, 0]], np.float32)
        dx = fp.adaptive_avg_pool1d_backward(dy, (1, 7), backend=backend)
        same(dx, np.array([[0, 0, np.inf, np.inf, np.inf, 0, 0]], np.float32))


def test_the_first_of_equal_maxima_is_named_and_the_first_nan(backend):
    x = np.zeros((7, 7), np.float32)
    assert fp.adaptive_max_pool2d(x, 3, return_indices=True, backend=backend)[1].tolist() == [
        [0, 2, 4], [14, 16, 18], [28, 30, 32]
    ]  # fmt: skip
    x[3, 4] = x[4, 2] = np.nan
    assert fp.adaptive_max_pool2d(x, 1, return_indices=True, backend=backend)[1].tolist() == [[25]]


# Arguments


@pytest.mark.parametrize("order", [">", "<"])
def test_strided_swapped_and_empty_arrays(order, backend):
    x = np.random.default_rng(0).normal(size=(2, 6, 18, 11))[:, ::2, ::-2].astype(f"{order}f4")
    same(fp.adaptive_max_pool2d(x, 4, backend=backend), fp.adaptive_max_pool2d(x.astype("=f4"), 4, backend="naive"))
    y, indices = fp.adaptive_max_pool2d(x[:0], 4, return_indices=True, backend=backend)
    assert y.shape == indices.shape == (0, 3, 4, 4)
    assert fp.adaptive_max_pool2d_backward(y, indices, (0, 3, 9, 11), backend=backend).shape == (0, 3, 9, 11)


def test_results_go_to_out():
    x = np.random.default_rng(0).normal(size=(2, 3, 9, 11)).astype(np.float32)
    expected = fp.adaptive_max_pool2d(x, 4, return_indices=True)
    out = np.empty((2, 4, 4, 3), np.float32).transpose(0, 3, 1, 2), np.empty((2, 3, 4, 4), np.int64)
    assert fp.adaptive_max_pool2d(x, 4, return_indices=True, out=out)[0] is out[0]
    for got, one in zip(out, expected, strict=True):
        same(got, one)
    out = np.empty_like(x)
    assert fp.adaptive_avg_pool2d_backward(expected[0], x.shape, out=out) is out
    same(out, fp.adaptive_avg_pool2d_backward(expected[0], x.shape))


def test_an_image_without_channels():
    x = np.arange(30.0).reshape(5, 6)
    same(fp.adaptive_max_pool2d(x, 2), np.array([[14.0, 17.0], [26.0, 29.0]]))
    y, indices = fp.fractional_max_pool2d(x, 2, (2, 3), np.array([[[0.5, 0.5]]]), return_indices=True)
    same(y, x.reshape(-1)[indices])


X = np.zeros((2, 3, 8, 9), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fp.adaptive_max_pool2d(X, 0), ValueError, "output_size must be positive"),
        (lambda: fp.adaptive_max_pool2d(X, (2, 3, 4)), ValueError, "output_size must be one integer or 2"),
        (lambda: fp.adaptive_max_pool2d(X, 2.5), TypeError, "output_size"),
        (lambda: fp.adaptive_max_pool2d(X, 2**40), ValueError, "output_size 1099511627776 is too large for the result"),
        (lambda: fp.adaptive_avg_pool1d(X[0, 0], 2**61), ValueError, "output_size .* is too large for the result"),
        (lambda: fp.adaptive_max_pool2d(X, 2, return_indices=2), TypeError, "return_indices must be True or False"),
        (lambda: fp.adaptive_max_pool2d(X.astype(complex), 2), TypeError, "x must be bool"),
        (lambda: fp.adaptive_avg_pool2d(X.astype(int), 2), TypeError, "x must be float16"),
        (lambda: fp.adaptive_max_pool3d(X[0, 0], 2), ValueError, "x must have 3 to 5 axes"),
        (lambda: fp.adaptive_max_pool2d(X, 2, out=np.empty((2, 3, 2, 3), "f4")), ValueError, "out must have shape"),
        (lambda: fp.adaptive_max_pool2d_backward(X, X, X.shape), TypeError, "indices must be integers"),
        (
            lambda: fp.adaptive_max_pool2d_backward(X[:, :, :2, :2], np.full((2, 3, 2, 2), 72), X.shape),
            ValueError,
            "from 0 below 72, got 72",
        ),
        (
            lambda: fp.adaptive_max_pool2d_backward(X[:1], np.zeros((1, 3, 8, 9), int), X.shape),
            ValueError,
            "dy must have the batch and the channels of x_shape",
        ),
        (lambda: fp.fractional_max_pool2d(X, 3, 7, np.zeros((2, 3, 2))), ValueError, "choose a smaller kernel_size"),
        (lambda: fp.fractional_max_pool2d(X, 2, 4, np.zeros((2, 2))), ValueError, "random_samples must have the shape"),
        (lambda: fp.fractional_max_pool2d(X, 2, 4, np.full((2, 3, 2), 1.5)), ValueError, "must be from 0 to 1"),
        (lambda: fp.fractional_max_pool2d(X, 2, 4, np.full((2, 3, 2), np.nan)), ValueError, "must be from 0 to 1"),
        (
            lambda: fp.fractional_max_pool2d(X, 2, 4, np.zeros((2, 3, 2), int)),
            TypeError,
            "random_samples must be float",
        ),
        (
            lambda: fp.adaptive_max_pool2d(X, 2, backend="cuda"),
            (NotImplementedError, RuntimeError, ImportError),
            "cuda",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
