"""Adaptive pools of Dask arrays: the windows of the whole array, whatever its chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import DTYPES, FLOATS, LAYOUTS, grads, to_layout, values

import fastpool as fp

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
from chunks import (  # noqa: E402
    CHUNKS,
    check,
    check_close,
    check_each,
    check_values,
    chunked,
    in_chunks,
    moved,
    never_computed,
    noise,
    some_chunks,
    tasks,
)


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


MAXIMA = {1: fp.adaptive_max_pool1d, 2: fp.adaptive_max_pool2d, 3: fp.adaptive_max_pool3d}
MAXIMA_BACKWARD = {
    1: fp.adaptive_max_pool1d_backward,
    2: fp.adaptive_max_pool2d_backward,
    3: fp.adaptive_max_pool3d_backward,
}
AVERAGES = {1: fp.adaptive_avg_pool1d, 2: fp.adaptive_avg_pool2d, 3: fp.adaptive_avg_pool3d}
AVERAGES_BACKWARD = {
    1: fp.adaptive_avg_pool1d_backward,
    2: fp.adaptive_avg_pool2d_backward,
    3: fp.adaptive_avg_pool3d_backward,
}

PROBLEMS = {
    "windows of two sizes": ((2, 3, 13, 11), (5, 4)),
    "windows at a stride": ((1, 2, 12, 8), (4, 2)),
    "windows at a stride along one axis": ((1, 2, 12, 9), (4, 4)),
    "one window": ((1, 2, 9, 7), 1),
    "all cells": ((1, 2, 5, 4), None),
    "more windows than cells": ((1, 2, 5, 3), (13, 8)),
    "signals": ((2, 3, 23), 7),
    "volumes": ((1, 2, 7, 5, 6), (3, 5, 4)),
}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_adaptive_pooling_is_as_in_memory(name, layout, chunks):
    shape, output_size = PROBLEMS[name]
    axes = len(shape) - 2
    x = to_layout(values(shape, np.float32), layout)
    y, indices = MAXIMA[axes](x, output_size, data_format=layout, return_indices=True)
    lazy = MAXIMA[axes](in_chunks(x, chunks), output_size, data_format=layout, return_indices=True)
    check_each(lazy, (y, indices))
    check(MAXIMA[axes](in_chunks(x, chunks), output_size, data_format=layout), y)
    dy = grads(y.shape, np.float32)
    dx = MAXIMA_BACKWARD[axes](dy, indices, x.shape, data_format=layout)
    check(MAXIMA_BACKWARD[axes](in_chunks(dy, chunks), lazy[1], x.shape, data_format=layout), dx)

    averages = AVERAGES[axes](x, output_size, data_format=layout)
    check_values(AVERAGES[axes](in_chunks(x, chunks), output_size, data_format=layout), averages)
    dx = AVERAGES_BACKWARD[axes](dy, x.shape, data_format=layout)
    check_close(AVERAGES_BACKWARD[axes](in_chunks(dy, chunks), x.shape, data_format=layout), dx)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_stays_what_it_is(dtype):
    x = values((1, 2, 11, 13), dtype)
    y, indices = fp.adaptive_max_pool2d(x, (4, 5), return_indices=True)
    lazy = fp.adaptive_max_pool2d(chunked(x, 3), (4, 5), return_indices=True)
    check_each(lazy, (y, indices))
    if dtype in FLOATS:
        dy = grads(y.shape, dtype)
        dx = fp.adaptive_max_pool2d_backward(chunked(dy, 2), lazy[1], x.shape)
        check(dx, fp.adaptive_max_pool2d_backward(dy, indices, x.shape))
        check_values(fp.adaptive_avg_pool2d(chunked(x, 3), (4, 5)), fp.adaptive_avg_pool2d(x, (4, 5)))


@pytest.mark.parametrize(
    ("backend", "output_size"), [("numpy", (5, 6)), ("numpy", (17, 3)), ("naive", (5, 6)), ("numba", (5, 6))], ids=str
)
def test_averages_of_any_numbers_have_the_same_bits(backend, output_size):
    if not fp.backends()[backend].available:
        pytest.skip(fp.backends()[backend].reason)
    x = noise((1, 2, 16, 14), np.float32)
    y = fp.adaptive_avg_pool2d(x, output_size, backend=backend)
    dy = noise(y.shape, np.float32)
    dx = fp.adaptive_avg_pool2d_backward(dy, x.shape, backend=backend)
    for chunks in (4, 7):
        check(fp.adaptive_avg_pool2d(chunked(x, chunks), output_size, backend=backend), y)
        check(fp.adaptive_avg_pool2d_backward(chunked(dy, chunks), x.shape, backend=backend), dx)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_windows_over_any_chunks(data):
    axes = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(1, (40, 14, 7)[axes - 1])] * axes))
    output_size = data.draw(st.tuples(*[st.one_of(st.none(), st.integers(1, (50, 18, 8)[axes - 1]))] * axes))
    dtype = data.draw(st.sampled_from(FLOATS))
    x = values(shape, dtype)
    source = chunked(x, some_chunks(data, shape))
    y, indices = MAXIMA[axes](x, output_size, return_indices=True)
    lazy = MAXIMA[axes](source, output_size, return_indices=True)
    check_values(lazy[0], y)
    check(lazy[1], indices)
    dy = grads(y.shape, dtype)
    dy.flat[::3] = -0.0
    lazy_dy = chunked(dy, some_chunks(data, y.shape))
    check(MAXIMA_BACKWARD[axes](lazy_dy, lazy[1], shape), MAXIMA_BACKWARD[axes](dy, indices, shape))
    check_values(AVERAGES[axes](source, output_size), AVERAGES[axes](x, output_size))
    dx = AVERAGES_BACKWARD[axes](lazy_dy, shape, backend="numpy")
    check_values(dx, AVERAGES_BACKWARD[axes](dy, shape, backend="numpy"))


def test_indices_of_other_windows_are_refused_when_they_are_computed():
    x = values((1, 1, 9, 9), np.float32)
    y, indices = fp.adaptive_max_pool2d(x, 4, return_indices=True)
    for wrong in (-1, 81, 40):
        indices[0, 0, 0, 0] = wrong
        dx = fp.adaptive_max_pool2d_backward(chunked(y, 2), chunked(indices, 2), x.shape)
        with pytest.raises(ValueError, match=rf"indices must be positions in their windows.*\(9, 9\), got {wrong}"):
            dx.compute()


# Graphs


def test_nothing_is_computed_before_it_is_asked_for():
    x = never_computed((2, 3, 13, 12), 5)
    y, indices = fp.adaptive_max_pool2d(x, 5, return_indices=True)
    fp.adaptive_max_pool2d_backward(y, indices, x.shape)
    fp.adaptive_avg_pool2d_backward(fp.adaptive_avg_pool2d(x, 5), x.shape)


def test_chunks_of_the_result_follow_those_of_the_input():
    x = da.zeros((100, 60), chunks=(25, 20))
    for pool in (fp.adaptive_max_pool2d, fp.adaptive_avg_pool2d):
        y = pool(x, (20, 6))
        assert y.chunks == ((5,) * 4, (2, 2, 2))
        assert tasks(y) == 2 * x.npartitions
    assert fp.adaptive_avg_pool2d_backward(y, x.shape).chunks == x.chunks
    assert fp.adaptive_avg_pool2d_backward(fp.adaptive_avg_pool2d(x, (7, 6)), x.shape).shape == x.shape


def test_only_the_cells_that_windows_share_move():
    x = da.zeros(100, chunks=25)
    y = fp.adaptive_max_pool1d(x, 30)
    # Windows 7, 15 and 22 begin at 23, 50 and 73: the first and the last hold cells of the next chunk.
    begin, end = np.arange(30) * 100 // 30, -(-(np.arange(30) + 1) * 100 // 30)
    beyond = sum(int(((begin < b) & (end > b)).sum() and (end[begin < b] - b).max()) for b in (25, 50, 75))
    owned_by_the_one_before = [part for (part,) in moved(y) if part.start == 0 and part.stop < 5]
    assert sum(part.stop for part in owned_by_the_one_before) == beyond > 0
    assert y.chunks == (tuple(np.diff([0, *np.searchsorted(begin, [25, 50, 75]), 30])),)


REFUSED = {
    "out": (lambda x: fp.adaptive_max_pool2d(x, 2, out=np.empty((1, 2, 2, 2))), TypeError, "out must be None for a Da"),
    "integers": (lambda x: fp.adaptive_avg_pool2d(x.astype(int), 2), TypeError, "x must be float16"),
    "sizes": (lambda x: fp.adaptive_max_pool2d(x, 0), ValueError, "output_size must be positive"),
    "axes": (lambda x: fp.adaptive_avg_pool2d(x, (1, 2, 3)), ValueError, "output_size must be one integer or 2"),
    "dy": (
        lambda x: fp.adaptive_avg_pool2d_backward(x, (1, 3, 9, 9)),
        ValueError,
        "dy must have the batch and the channels",
    ),
    "indices": (
        lambda x: fp.adaptive_max_pool2d_backward(x, x, (1, 2, 9, 9)),
        TypeError,
        "indices must be integers, got float64",
    ),
    "shapes": (
        lambda x: fp.adaptive_max_pool2d_backward(x, x.astype(int)[:, :1], (1, 2, 9, 9)),
        ValueError,
        "indices must have the shape",
    ),
    "fractional": (
        lambda x: fp.fractional_max_pool2d(x, 2, 3, random_samples=np.zeros((1, 2, 2))),
        TypeError,
        "x must not be a Dask array here",
    ),
    "gradient of fractional": (
        lambda x: fp.fractional_max_pool2d_backward(x, x.astype(int), (1, 2, 16, 16)),
        TypeError,
        "dy must not be a Dask array here",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_runs(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(never_computed((1, 2, 8, 8), 3))
