"""Max and min pools of Dask arrays over the cells that count: `nan=` and `where=`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import LAYOUTS, values

import fastpool as fp

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
from chunks import check_values, chunked, never_computed, problems, some_chunks  # noqa: E402

MAXIMA = {1: fp.max_pool1d, 2: fp.max_pool2d, 3: fp.max_pool3d}
MINIMA = {1: fp.min_pool1d, 2: fp.min_pool2d, 3: fp.min_pool3d}


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_any_mask_over_any_chunks(problem, data):
    axes, shape, window, dtype = problem
    if data.draw(st.booleans()):
        dtype = np.dtype(np.int16)
    x = values(shape, dtype)
    nan = data.draw(st.sampled_from(["ignore", "propagate"]))
    mask_shape = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
    where = np.random.default_rng(0).random(mask_shape[data.draw(st.integers(0, len(shape) - 1)) :]) < 0.6
    lazy_where = chunked(where, some_chunks(data, where.shape))
    if data.draw(st.integers(0, 3)) == 0:
        where = lazy_where = None
    source = chunked(x, some_chunks(data, shape))
    for pools, argument in ((MAXIMA, "return_argmax"), (MINIMA, "return_argmin")):
        plan = {**window, "nan": nan, argument: True}
        try:
            expected = pools[axes](x, **plan, where=where)
        except ValueError:
            return
        for got, each in zip(pools[axes](source, **plan, where=lazy_where), expected, strict=True):
            check_values(got, each)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_in_which_nothing_counts(layout):
    x = values((1, 8, 9, 3), np.float32)
    where = np.zeros((8, 1, 1), bool)
    plan = {"kernel_size": 3, "stride": 1, "padding": 4, "data_format": layout, "return_argmax": True}
    expected = fp.max_pool2d(x, **plan, where=where)
    assert np.isnan(expected[0]).all()
    for got, each in zip(fp.max_pool2d(chunked(x, 2), **plan, where=chunked(where, 3)), expected, strict=True):
        check_values(got, each)


REFUSED = {
    "a mask in memory": (
        lambda x, where: fp.max_pool2d(x, 2, where=np.ones((8, 8), bool)),
        TypeError,
        "where must be a Dask array as the other input is, got numpy.ndarray",
    ),
    "dtype": (lambda x, where: fp.max_pool2d(x, 2, where=where.astype(int)), TypeError, "where must hold bool"),
    "shape": (
        lambda x, where: fp.max_pool2d(x, 2, where=where[1:]),
        ValueError,
        r"where must have a shape that broadcasts to that of x, \(1, 2, 8, 8\), got \(7, 8\)",
    ),
    "more axes": (
        lambda x, where: fp.max_pool2d(x[0], 2, where=where[None, None]),
        ValueError,
        "where must have a shape that broadcasts",
    ),
    "nan": (lambda x, where: fp.max_pool2d(x, 2, nan="skip"), ValueError, "nan must be"),
    "out": (
        lambda x, where: fp.max_pool2d(x, 2, where=where, out=np.empty((1, 2, 4, 4))),
        TypeError,
        "out must be None for a Dask array",
    ),
    "planes": (
        lambda x, where: fp.global_max_pool(x, where=where),
        TypeError,
        "x must not be a Dask array here",
    ),
    "any axes": (lambda x, where: fp.max_pool(x, (2, 2)), TypeError, "x must not be a Dask array here"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_runs(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(never_computed((1, 2, 8, 8), 3), never_computed((8, 8), 3, bool))
