"""Pools of the cells that count: those of a mask, and those that are not NaN."""

import warnings

import numpy as np
import pytest
from conftest import BACKENDS, require_backend
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import FLOATS, LAYOUTS, to_layout

import fastpool as fp

few = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module", params=[name for name in BACKENDS if name != "cuda"])
def backend(request):
    require_backend(request.param)
    return request.param


def by_definition(op, x, counts, kernel, stride, padding):
    """Of planes (N, C, H, W): the first extreme of the cells of each window that count, and its offset."""
    out = tuple((n + 2 * padding - kernel) // stride + 1 for n in x.shape[2:])
    is_float = x.dtype.kind == "f"
    none = np.nan if is_float else getattr(np.iinfo(x.dtype), "min" if op == "max" else "max")
    y, where = np.full((*x.shape[:2], *out), none, x.dtype), np.zeros((*x.shape[:2], *out), np.uint8)
    for n, c, i, j in np.ndindex(y.shape):
        found, first = None, None
        for offset in range(kernel**2):
            h, w = i * stride - padding + offset // kernel, j * stride - padding + offset % kernel
            if not (0 <= h < x.shape[2] and 0 <= w < x.shape[3]):
                continue
            first = offset if first is None else first
            value = x[n, c, h, w]
            if not counts[n, c, h, w] or (found is not None and np.isnan(found)):
                continue
            if found is None or np.isnan(value) or (value > found if op == "max" else value < found):
                found, where[n, c, i, j] = value, offset
        if found is None:
            where[n, c, i, j] = first or 0
        else:
            y[n, c, i, j] = found
    return y, where


@few
@given(
    seed=st.integers(0, 10**6),
    op=st.sampled_from(["max", "min"]),
    nan=st.sampled_from(["propagate", "ignore"]),
    masked=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "float64", "uint8", "int32"]),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)),
    layout=st.sampled_from(LAYOUTS),
)
def test_only_the_cells_that_count_take_part(backend, seed, op, nan, masked, dtype, window, layout):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (2, 2, 4, 5)).astype(dtype)
    if x.dtype.kind == "f":
        x[rng.random(x.shape) < 0.4] = np.nan
        x[rng.random(x.shape) < 0.2] = -np.inf if op == "max" else np.inf
    else:
        x[rng.random(x.shape) < 0.3] = np.iinfo(dtype).min if op == "max" else np.iinfo(dtype).max
    masked = masked or nan == "propagate" or x.dtype.kind != "f"  # else all count, and the pool is any other
    mask = rng.random(x.shape) < 0.5 if masked else np.ones(x.shape, bool)
    counts = mask & ~np.isnan(x) if nan == "ignore" else mask
    expected, offsets = by_definition(op, x, counts, *window)
    pool, name = getattr(fp, f"{op}_pool2d"), f"arg{op}"
    options = {"nan": nan, "where": to_layout(mask, layout) if masked else None, "data_format": layout}
    y, found = pool(to_layout(x, layout), *window, **options, **{f"return_{name}": True}, backend=backend)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, to_layout(expected.astype(dtype), layout))
    np.testing.assert_array_equal(found, to_layout(offsets, layout))
    np.testing.assert_array_equal(pool(to_layout(x, layout), *window, **options, backend=backend), y)


def test_downsampling_without_nan_is_that_of_numpy():
    x = np.random.default_rng(0).standard_normal((3, 4, 12, 20)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.5] = np.nan
    blocks = x.reshape(3, 4, 3, 4, 5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy warns where a block holds NaN alone
        highest, lowest = np.nanmax(blocks, (3, 5)), np.nanmin(blocks, (3, 5))
    np.testing.assert_array_equal(fp.max_pool2d(x, 4, nan="ignore"), highest)
    np.testing.assert_array_equal(fp.min_pool2d(x, 4, nan="ignore"), lowest)
    np.testing.assert_array_equal(fp.max_pool(x, 4, axes=(2, 3), nan="ignore"), highest)
    np.testing.assert_array_equal(fp.min_pool(x, (3, 4, 4, 4), nan="ignore"), lowest.min((0, 1), keepdims=True)[:, :])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_global_pools_ignore_nan_in_every_floating_dtype(dtype):
    x = np.array([[[1, np.nan, 3], [np.nan, np.nan, np.nan]]]).astype(dtype)
    y, argmax = fp.global_max_pool(x, nan="ignore", return_argmax=True)
    np.testing.assert_array_equal(y.astype(float), [[3, np.nan]])
    np.testing.assert_array_equal(argmax, [[2, 0]])
    y, argmin = fp.global_min_pool(x, nan="ignore", return_argmin=True)
    np.testing.assert_array_equal(y.astype(float), [[1, np.nan]])
    np.testing.assert_array_equal(argmin, [[0, 0]])
    assert y.dtype == dtype


def test_a_mask_broadcasts_and_results_go_to_out():
    x = np.arange(32.0).reshape(2, 4, 4).astype(">f8")
    mask = np.array([True, False, True, False])
    out = np.full((2, 2, 2), 7.0)
    assert fp.max_pool2d(x, 2, where=mask, out=out) is out
    np.testing.assert_array_equal(out, x[:, 1::2, ::2])
    y, argmax = fp.max_pool2d(x, 2, where=mask, return_argmax=True)
    dx = fp.max_pool2d_backward(np.ones_like(y), argmax, x.shape, 2)
    assert not dx[:, :, 1::2].any()
    np.testing.assert_array_equal(x, np.arange(32.0).reshape(2, 4, 4))
    torch = pytest.importorskip("torch")
    t = fp.max_pool2d(torch.from_numpy(x.astype(float)), 2, where=torch.from_numpy(mask))
    assert isinstance(t, torch.Tensor)
    np.testing.assert_array_equal(t.numpy(), y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nan": "omit"}, ValueError, "nan must be 'propagate' or 'ignore', got 'omit'"),
        ({"nan": None}, ValueError, "nan must be 'propagate' or 'ignore', got None"),
        ({"nan": True, "where": True}, ValueError, "nan must be"),
        ({"where": np.ones((4, 4))}, TypeError, "where must hold bool, got float64"),
        (
            {"where": np.ones((4, 5), bool)},
            ValueError,
            r"where must have a shape that broadcasts to .*\(4, 4\).*\(4, 5\)",
        ),
        ({"where": np.ones((2, 4, 4), bool)}, ValueError, "where must have a shape that broadcasts"),
        ({"nan": "ignore", "out": np.ones(3)}, ValueError, r"out must have shape \(2, 2\)"),
        ({"nan": "ignore", "backend": "none"}, ValueError, "backend"),
    ],
)
def test_masks_that_do_not_fit_are_refused(options, error, message):
    for pool in (fp.max_pool2d, fp.min_pool2d):
        with pytest.raises(error, match=message):
            pool(np.ones((4, 4)), 2, **options)
    with pytest.raises(error, match=message):
        fp.max_pool(np.ones((4, 4)), (2, 2), **options)


def test_the_cells_of_nan_are_given_by_a_mask_too():
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 9))
    x[0, 0, 2:6, 2:6] = np.nan
    for window in ((3, 2, 1), (5, 1, 0)):
        ignored = fp.max_pool2d(x, *window, nan="ignore", return_argmax=True)
        masked = fp.max_pool2d(x, *window, where=~np.isnan(x), return_argmax=True)
        for a, b in zip(ignored, masked, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_empty_batch_stays_empty():
    assert fp.max_pool2d(np.ones((0, 3, 4, 4)), 2, nan="ignore").shape == (0, 3, 2, 2)
    assert fp.max_pool2d(np.ones((0, 3, 4, 4), int), 2, where=True).shape == (0, 3, 2, 2)
