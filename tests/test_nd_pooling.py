"""Pooling along any axes: against the definition, and against the pools of one to three axes."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import DTYPES, POOLS, values

import fastpool as fp
from fastpool.window import Window

bounded = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def by_definition(op, x, axes, kernel, stride, pads, dilation, out):
    """Extremes and offsets: of each window the first extreme, in row-major order; a NaN is the extreme."""
    moved = np.moveaxis(x, axes, range(-len(axes), 0))
    lead = moved.shape[: x.ndim - len(axes)]
    wins = np.greater if op == "max" else np.less
    info = np.finfo if x.dtype.kind == "f" else np.iinfo
    worst = (
        (-np.inf if op == "max" else np.inf)
        if x.dtype.kind == "f"
        else getattr(info(x.dtype), {"max": "min", "min": "max"}[op])
    )
    y, where = np.full((*lead, *out), worst, x.dtype), np.zeros((*lead, *out), np.int64)
    for first in np.ndindex(*lead):
        for place in np.ndindex(*out):
            found = None
            for offset, tap in enumerate(product(*map(range, kernel))):
                cell = tuple(
                    o * s - p[0] + t * d for o, s, p, t, d in zip(place, stride, pads, tap, dilation, strict=True)
                )
                if all(0 <= i < n for i, n in zip(cell, moved.shape[len(lead) :], strict=True)):
                    value = moved[(*first, *cell)]
                    if found is None or (value != value and found == found) or (found == found and wins(value, found)):
                        found, where[(*first, *place)] = value, offset
            if found is not None:
                y[(*first, *place)] = found
    return tuple(np.moveaxis(a, range(-len(axes), 0), axes) for a in (y, where))


@st.composite
def cases(draw):
    ndim = draw(st.integers(1, 6))
    axes = draw(st.permutations(range(ndim)))[: draw(st.integers(1, ndim))]
    size = st.integers(1, 4 if ndim < 5 else 2)
    shape = tuple(draw(st.integers(1, 4 if ndim < 5 else 3)) for _ in range(ndim))
    each = [
        (
            draw(size),
            draw(st.integers(1, 3)),
            (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
            draw(st.integers(1, 2)),
        )
        for _ in axes
    ]
    kernel, stride, pads, dilation = zip(*each, strict=True)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    pads = tuple((a, max(b, r - n - a)) for (a, b), r, n in zip(pads, reach, (shape[i] for i in axes), strict=True))
    return shape, tuple(axes), kernel, stride, pads, dilation, draw(st.booleans())


@bounded
@given(case=cases(), op=st.sampled_from(["max", "min"]), dtype=st.sampled_from([np.float32, np.int16]))
def test_extremes_of_any_axes_are_those_of_the_definition(case, op, dtype):
    shape, axes, kernel, stride, pads, dilation, ceil_mode = case
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(dtype)
    if dtype is np.float32:
        x[np.random.default_rng(1).random(shape) < 0.1] = np.nan
    out = tuple(
        Window.plan(1, (shape[axis],), *each, ceil_mode).out[2]
        for axis, *each in zip(axes, kernel, stride, [(p,) for p in pads], dilation, strict=True)
    )
    expected, where = by_definition(op, x, axes, kernel, stride, pads, dilation, out)
    arguments = (kernel, stride, pads, dilation, ceil_mode)
    name = f"arg{op}"
    y, found = getattr(fp, f"{op}_pool")(x, *arguments, axes=axes, **{f"return_{name}": True})
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(found, where)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(getattr(fp, f"{op}_pool")(x, *arguments, axes=axes), expected)
    dy = np.random.default_rng(2).integers(-9, 10, y.shape).astype(np.float64)
    dx = getattr(fp, f"{op}_pool_backward")(dy, found, shape, *arguments, axes=axes)
    moved, dy_moved, where_moved = (np.moveaxis(a, axes, range(-len(axes), 0)) for a in (np.zeros(shape), dy, found))
    lead = moved.shape[: x.ndim - len(axes)]
    for place in np.ndindex(*dy_moved.shape):
        tap = np.unravel_index(int(where_moved[place]), kernel)
        cell = tuple(
            o * s - p[0] + t * d for o, s, p, t, d in zip(place[len(lead) :], stride, pads, tap, dilation, strict=True)
        )
        if all(0 <= i < n for i, n in zip(cell, moved.shape[len(lead) :], strict=True)):
            moved[(*place[: len(lead)], *cell)] += dy_moved[place]
    np.testing.assert_array_equal(dx, np.moveaxis(moved, range(-len(axes), 0), axes))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_last_axes_of_any_number_are_pooled_as_images_are(n, dtype):
    x = values((2, 3, 2, *(7,) * n), dtype)
    images = x.reshape(6, 2, *(7,) * n)
    expected, where = POOLS[n](images, 3, 2, 1, return_argmax=True)
    y, argmax = fp.max_pool(x, (3,) * n, 2, 1, return_argmax=True)
    assert argmax.dtype == where.dtype
    np.testing.assert_array_equal(y.reshape(expected.shape).astype(float), expected.astype(float))
    np.testing.assert_array_equal(argmax.reshape(where.shape), where)


def test_results_go_to_out_and_tensors_come_back_as_tensors():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).random((4, 5, 6, 7, 8)).astype(">f4")
    expected, where = fp.max_pool(x, (2, 2, 2, 2), return_argmax=True)
    out = np.empty(expected.shape[::-1], np.float32).T, np.empty(expected.shape, np.uint8)
    got = fp.max_pool(x, (2, 2, 2, 2), return_argmax=True, out=out)
    assert got[0] is out[0]
    assert got[1] is out[1]
    np.testing.assert_array_equal(out[0], expected)
    np.testing.assert_array_equal(out[1], where)
    t = fp.max_pool(torch.from_numpy(x.astype("f4")), (2, 2, 2, 2))
    assert isinstance(t, torch.Tensor)
    np.testing.assert_array_equal(t.numpy(), expected)
    dx = np.empty(x.shape, np.float32)
    assert fp.max_pool_backward(expected, where, x.shape, (2, 2, 2, 2), out=dx) is dx
    np.testing.assert_array_equal(fp.max_pool(dx, (2, 2, 2, 2)), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: fp.max_pool(x, 2), "kernel_size must hold an integer for each axis where axes is None, got 2"),
        (lambda x: fp.max_pool(x, (2, 2), axes=1), "kernel_size must be one integer or 1"),
        (lambda x: fp.max_pool(x, 2, axes=(0, 3)), r"axes must be axes of an array of 3, from -3 to 2, got \(0, 3\)"),
        (lambda x: fp.max_pool(x, 2, axes=(0, -3)), "axes must be different from each other"),
        (lambda x: fp.max_pool(x, 2, axes=()), "axes must name one axis at least"),
        (lambda x: fp.max_pool(x, (2,) * 4), "kernel_size must have at most 3 integers"),
        (lambda x: fp.max_pool(x, (9, 1, 1)), "kernel_size"),
        (lambda x: fp.min_pool(x, (2, 2), out=np.empty((4, 2, 2))), r"out must have shape \(4, 2, 3\)"),
        (lambda x: fp.min_pool(x, (2, 2), padding="full"), "padding must be 'valid', 'same'"),
        (lambda x: fp.max_pool_backward(x, x, (4, 8, 6), (2, 2)), r"dy must have the shape \(4, 4, 3\)"),
        (
            lambda x: fp.min_pool_backward(x, np.full(x.shape, 4, np.uint8), (4, 10, 12), (2, 2)),
            "argmin must be below 4",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((4, 5, 6)))


def test_empty_arrays_stay_empty_and_offsets_that_no_dtype_holds_are_refused_first():
    y, argmax = fp.max_pool(np.ones((0, 3, 4, 5, 6, 2)), (2, 2, 2, 2), return_argmax=True)
    assert y.shape == argmax.shape == (0, 3, 2, 2, 3, 1)
    assert fp.max_pool_backward(y, argmax, (0, 3, 4, 5, 6, 2), (2, 2, 2, 2)).shape == (0, 3, 4, 5, 6, 2)
    with pytest.raises(ValueError, match=r"kernel_size makes windows of 8589934592 cells"):
        fp.max_pool(np.ones((1, 1, 1, 1)), (2**20, 1, 1, 2**13), padding="same", return_argmax=True)
    with pytest.raises(ValueError, match=r"kernel_size must have at most 3 integers, as x has axes"):
        fp.max_pool(np.ones((2, 2, 2)), (2,) * 4)
