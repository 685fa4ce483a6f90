"""Dask arrays: results are lazy, and the same bits as in memory for any chunks."""

import os
import pickle
import re
import subprocess
import sys
import threading
import types
from collections import Counter
from importlib import import_module
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import DTYPES, FLOATS, LAYOUTS, POOLS, POOLS_BACKWARD, WINDOWS, grads, to_layout, values

import fastpool as fp
from fastpool import interop
from fastpool.array_library import ArrayLibrary

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
from chunks import (  # noqa: E402
    CHUNKS,
    bits,
    check,
    check_each,
    chunked,
    in_chunks,
    moved,
    never_computed,
    problems,
    some_chunks,
    tasks,
)


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.parametrize("chunks", ["one", pytest.param("of 1", marks=pytest.mark.slow), "of 5", "uneven"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name in WINDOWS if name not in ("13 s1 p6", "large window", "channels 67")])
def test_pooling_is_as_in_memory(name, layout, chunks):
    shape, window = WINDOWS[name]
    axes = len(shape) - 2
    x = to_layout(values(shape, np.float32), layout)
    plan = {**window, "data_format": layout}
    y, argmax = POOLS[axes](x, **plan, return_argmax=True)
    lazy = POOLS[axes](in_chunks(x, chunks), **plan, return_argmax=True)
    check_each(lazy, (y, argmax))
    check(POOLS[axes](in_chunks(x, chunks), **plan), y)
    dy = grads(y.shape, np.float32)
    dx = POOLS_BACKWARD[axes](dy, argmax, x.shape, **plan)
    check(POOLS_BACKWARD[axes](in_chunks(dy, chunks), lazy[1], x.shape, **plan), dx)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["3 s2 p1", "2 s2 odd", "windows of padding alone"])
def test_every_dtype_stays_what_it_is(name, dtype):
    shape, window = WINDOWS[name]
    x = values(shape, dtype)
    y, argmax = fp.max_pool2d(x, **window, return_argmax=True)
    check_each(fp.max_pool2d(chunked(x, 3), **window, return_argmax=True), (y, argmax))
    if dtype in FLOATS:
        dy = grads(y.shape, dtype)
        expected = fp.max_pool2d_backward(dy, argmax, x.shape, **window)
        check(fp.max_pool2d_backward(chunked(dy, 2), chunked(argmax, 3), x.shape, **window), expected)


def test_other_byte_orders_become_the_native_one():
    x = values((9, 9), np.float32)
    swapped = x.astype(x.dtype.newbyteorder())
    check(fp.max_pool2d(chunked(swapped, 4), (3, 3), 2), fp.max_pool2d(x, (3, 3), 2))
    check(fp.hard_swish(chunked(swapped, 4)), fp.hard_swish(x))


@settings(max_examples=100, deadline=None)
@given(problems(), st.data())
def test_any_window_over_any_chunks(problem, data):
    axes, shape, window, dtype = problem
    x = values(shape, dtype)
    source = chunked(x, some_chunks(data, shape))
    try:
        y, argmax = POOLS[axes](x, **window, return_argmax=True)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            POOLS[axes](source, **window, return_argmax=True)
        return
    lazy = POOLS[axes](source, **window, return_argmax=True)
    for got, expected in zip(dask.compute(*lazy), (y, argmax), strict=True):
        np.testing.assert_array_equal(bits(got), bits(expected))
    dy = grads(y.shape, dtype)
    dy.flat[::3] = -0.0
    expected = POOLS_BACKWARD[axes](dy, argmax, x.shape, **window)
    dx = POOLS_BACKWARD[axes](chunked(dy, some_chunks(data, y.shape)), lazy[1], x.shape, **window)
    np.testing.assert_array_equal(bits(dx.compute()), bits(expected))


@pytest.mark.parametrize("kernel", [2, 3, 7])
@pytest.mark.parametrize("chunks", [5, 8, 23])
def test_the_sign_of_a_zero_gradient_is_as_in_memory(chunks, kernel):
    x = values((1, 2, 23, 22), np.float32)
    y, argmax = fp.max_pool2d(x, kernel, return_argmax=True)
    dy = np.full_like(y, -0.0)
    expected = fp.max_pool2d_backward(dy, argmax, x.shape, kernel)
    lazy = fp.max_pool2d(da.from_array(x, chunks=chunks), kernel, return_argmax=True)[1]
    dx = fp.max_pool2d_backward(da.from_array(dy, chunks=chunks), lazy, x.shape, kernel)
    np.testing.assert_array_equal(bits(dx.compute()), bits(expected))


# Whole planes


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 9, 7), (0, 2, 3, 4), (1, 2, 5, 3, 4)], ids=str)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_global_pooling_is_as_in_memory(chunks, shape, layout, keepdims):
    x = to_layout(values(shape, np.float32), layout)
    plan = {"data_format": layout, "keepdims": keepdims}
    y, argmax = fp.global_max_pool(x, **plan, return_argmax=True)
    lazy = fp.global_max_pool(in_chunks(x, chunks), **plan, return_argmax=True)
    check_each(lazy, (y, argmax))
    np.testing.assert_array_equal(fp.global_max_pool(in_chunks(x, chunks), **plan).compute(), y)
    dy = grads(y.shape, np.float32)
    expected = fp.global_max_pool_backward(dy, argmax, x.shape, **plan)
    with dask.config.set({"array.chunk-size": "64 B"}):
        dx = fp.global_max_pool_backward(in_chunks(dy, chunks), lazy[1], x.shape, **plan)
    assert dx.npartitions > 4 or x.size < 100
    check(dx, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_global_pooling_in_every_dtype(dtype):
    x = values((2, 2, 12, 11), dtype)
    y, argmax = fp.global_max_pool(x, return_argmax=True)
    check_each(fp.global_max_pool(chunked(x, 3), return_argmax=True), (y, argmax))


def test_of_equal_maxima_the_first_in_the_plane_wins_not_the_first_in_the_chunks():
    x = np.zeros((1, 1, 8, 8), np.float32)
    x[0, 0, 3, 1] = x[0, 0, 2, 6] = x[0, 0, 5, 5] = 7
    _, argmax = fp.global_max_pool(chunked(x, 4), return_argmax=True)
    assert argmax.compute() == 2 * 8 + 6
    x[0, 0, 6, 0] = x[0, 0, 5, 7] = np.nan
    y, argmax = fp.global_max_pool(chunked(x, 4), return_argmax=True)
    assert argmax.compute() == 5 * 8 + 7
    assert np.isnan(y.compute())


def test_many_chunks_of_a_plane_are_merged_in_steps():
    x = np.random.default_rng(0).permutation(40 * 41).reshape(1, 1, 40, 41).astype(np.int32)
    y, argmax = fp.global_max_pool(chunked(x, 2), return_argmax=True)
    assert max(len(needs) for needs in y.dask.get_all_dependencies().values()) <= 16
    check_each((y, argmax), fp.global_max_pool(x, return_argmax=True))


# Maxout and activations


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("grouping", ["strided", "contiguous"])
@pytest.mark.parametrize(
    ("shape", "axis", "units"), [((5, 24), -1, 6), ((5, 24), 1, 24), ((12, 7), 0, 1), ((2, 18, 4, 3), 1, 6)], ids=str
)
def test_maxout_is_as_in_memory(shape, axis, units, grouping, chunks):
    x = values(shape, np.float32)
    y, argmax = fp.maxout(x, units, axis, grouping=grouping, return_argmax=True)
    lazy = fp.maxout(in_chunks(x, chunks), units, axis, grouping=grouping, return_argmax=True)
    check_each(lazy, (y, argmax))
    check(fp.maxout(in_chunks(x, chunks), units, axis, grouping=grouping), y)
    dy = grads(y.shape, np.float32)
    expected = fp.maxout_backward(dy, argmax, x.shape, axis, grouping=grouping)
    check(fp.maxout_backward(in_chunks(dy, chunks), lazy[1], x.shape, axis, grouping=grouping), expected)


def test_maxout_moves_nothing_where_the_units_lie_in_their_chunks():
    x = da.zeros((4, 24), chunks=(2, 8))
    y = fp.maxout(x, 6, grouping="contiguous")
    assert y.chunks == ((2, 2), (2, 2, 2))
    assert len(y.dask) == 2 * x.npartitions
    assert fp.maxout(x, 12).chunks == ((2, 2), (8, 4))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_activations_are_as_in_memory(dtype):
    x, dy = values((7, 9), dtype), grads((7, 9), dtype)
    a, b = chunked(x, (3, 4)), chunked(dy, (2, 9))
    check(fp.hard_swish(a), fp.hard_swish(x))
    check(fp.swish(a, 1.5), fp.swish(x, 1.5))
    check(fp.hard_swish_backward(b, a), fp.hard_swish_backward(dy, x))
    check(fp.swish_backward(b, a, 1.5), fp.swish_backward(dy, x, 1.5))


# Laziness and errors


def test_nothing_is_computed_before_it_is_asked_for():
    x = never_computed((4, 6, 12, 12), 5)
    y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
    fp.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1)
    fp.maxout_backward(*fp.maxout(x, 3, 1, return_argmax=True), x.shape, 1)
    fp.global_max_pool_backward(*fp.global_max_pool(x, return_argmax=True), x.shape)
    fp.swish_backward(fp.hard_swish(x), x)


def test_the_backend_chosen_where_the_graph_is_made_is_taken_where_it_runs(monkeypatch):
    x = da.ones((8, 8), chunks=4)
    with pytest.raises(ValueError, match="backend must be one of"):
        fp.max_pool2d(x, (2, 2), backend="abacus")
    with fp.use_backend("numpy"):
        ys = [fp.max_pool2d(x, (2, 2)), fp.hard_swish(x), fp.maxout(x, 2), fp.global_max_pool(x[None, None])]
    assert {y.name for y in ys}.isdisjoint(
        y.name for y in (fp.max_pool2d(x, (2, 2)), fp.hard_swish(x), fp.maxout(x, 2), fp.global_max_pool(x[None, None]))
    )
    ys.append(fp.max_pool2d(x, (2, 2), backend="naive"))
    with monkeypatch.context() as patch:
        patch.setattr(
            import_module("fastpool.backends"), "_default", lambda op: pytest.fail(f"{op} took the default backend")
        )
        dask.compute(*ys)


def test_names_are_the_same_for_the_same_call_alone():
    x = da.ones((20, 20), chunks=6)
    names = [
        fp.max_pool2d(x, (2, 2)).name,
        fp.max_pool2d(x, (2, 3)).name,
        fp.max_pool2d(x, (2, 2), 1).name,
        fp.max_pool2d(x, (2, 2), dilation=2).name,
        fp.max_pool2d(x, (2, 2), padding=1).name,
        fp.max_pool2d(x, (2, 2), return_argmax=True)[0].name,
        fp.max_pool2d(x, (2, 2), return_argmax=True)[1].name,
        fp.max_pool2d(x + 1, (2, 2)).name,
        fp.max_pool2d(x.rechunk(4), (2, 2)).name,
        fp.maxout(x, 5).name,
        fp.maxout(x, 5, 0).name,
        fp.maxout(x, 10).name,
        fp.maxout(x, 5, grouping="contiguous").name,
        fp.hard_swish(x).name,
        fp.swish(x).name,
        fp.swish(x, 2.0).name,
    ]
    assert len(set(names)) == len(names)
    assert fp.max_pool2d(x, (2, 2), 1).name == fp.max_pool2d(x, 2 * [2], 1).name


REFUSED = {
    "out": (lambda x: fp.max_pool2d(x, 2, out=np.empty((1, 2, 4, 4))), TypeError, "out must be None for a Dask array"),
    "complex": (lambda x: fp.max_pool2d(x.astype(complex), 2), TypeError, "x must be bool, an integer"),
    "integers": (lambda x: fp.hard_swish(x.astype(int)), TypeError, "x must be float16"),
    "masked": (lambda x: fp.max_pool2d(da.ma.masked_equal(x, 1), 2), TypeError, "x must not be a masked array"),
    "unknown": (lambda x: fp.maxout(x[x > 0], 1), ValueError, r"call x\.compute_chunk_sizes\(\) first"),
    "window": (lambda x: fp.max_pool2d(x, 9), ValueError, "does not fit into an axis of 8"),
    "units": (lambda x: fp.maxout(x, 3, 1), ValueError, "not a multiple of num_units"),
    "axis": (lambda x: fp.maxout(x, 3, 4), ValueError, "axis must be from -4 to 3"),
    "im2col": (lambda x: fp.im2col(x, 3), TypeError, "x must not be a Dask array here"),
    "conv2d": (lambda x: fp.conv2d(x, x), TypeError, "x must not be a Dask array here"),
    "unpool": (lambda x: fp.max_unpool2d(x, x, 2), TypeError, "y must not be a Dask array here"),
    "one of two": (
        lambda x: fp.max_pool2d_backward(x, np.zeros(x.shape, np.uint8), (1, 2, 16, 16), 2),
        TypeError,
        "argmax must be a Dask array as the other input is, got numpy.ndarray",
    ),
    "the other": (
        lambda x: fp.max_pool2d_backward(x.compute(), x.astype("u1"), (1, 2, 16, 16), 2),
        TypeError,
        "argmax must not be a Dask array here",
    ),
    "dy": (
        lambda x: fp.max_pool2d_backward(x, x.astype("u1"), (1, 2, 8, 8), 2),
        ValueError,
        r"dy must have the shape \(1, 2, 4, 4\)",
    ),
    "argmax": (
        lambda x: fp.max_pool2d_backward(x, x.astype("i8"), (1, 2, 16, 16), 2),
        TypeError,
        "argmax must have the dtype uint8",
    ),
    "shapes": (lambda x: fp.swish_backward(x[:, :1], x), ValueError, "dy must have the shape"),
    "dtypes": (lambda x: fp.swish_backward(x.astype("f4"), x), TypeError, "dy must have the dtype float64"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_runs(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(da.ones((1, 2, 8, 8), chunks=3))


@pytest.mark.parametrize("chunks", [-1, 1, 3])
def test_an_argmax_out_of_range_is_refused_when_it_is_computed(chunks):
    dy = da.ones((5, 5), chunks=chunks)
    plan = {"x_shape": (9, 9), "kernel_size": (3, 3), "stride": 2, "padding": 1}
    right = fp.max_pool2d(da.ones((9, 9), chunks=4), (3, 3), 2, 1, return_argmax=True)[1]
    for wrong, where, message in ((9, (2, 3), "argmax must be below 9"), (0, (0, 0), "names a cell of padding")):
        argmax = right.compute()
        argmax[where] = wrong
        dx = fp.max_pool2d_backward(dy, chunked(argmax, chunks), **plan)
        with pytest.raises(ValueError, match=message):
            dx.compute()
    of_plane = fp.global_max_pool_backward(da.ones((1, 1)), da.full((1, 1), 81, dtype="u1"), (1, 1, 9, 9))
    with pytest.raises(ValueError, match="argmax must be below 81"):
        of_plane.compute()


# The graph


def halo_calls(n):
    x = da.zeros((n * 8, 64), chunks=8)
    y, argmax = fp.max_pool2d(x, (3, 3), 2, 1, return_argmax=True)
    dx = fp.max_pool2d_backward(y, argmax, x.shape, (3, 3), 2, 1)
    return tasks(y), tasks(dx), tasks(fp.max_pool2d(x, (5, 5), 1, "same")), tasks(fp.maxout(x, 32, 0))


def test_the_graph_grows_linearly():
    small, large, larger = halo_calls(4), halo_calls(16), halo_calls(28)
    for a, b, c in zip(small, large, larger, strict=True):
        assert c - b == b - a


def test_chunks_smaller_than_the_window_are_put_together():
    x = da.zeros(1024, chunks=1)
    y = fp.max_pool1d(x, (65,), 1, 32)
    assert y.numblocks == (15,)
    assert tasks(y) == 1024 + 15
    assert max(len(needs) for needs in y.dask.get_all_dependencies().values()) <= 3 * 66


@pytest.mark.parametrize("optimised", [True, False])
def test_no_chunk_is_computed_twice(optimised):
    seen, lock = Counter(), threading.Lock()

    def noted(block, block_info=None):
        with lock:
            seen[tuple(block_info[0]["chunk-location"])] += 1
        return block

    source = np.random.default_rng(0).standard_normal((36, 30))
    x = chunked(source, 7).map_blocks(noted, meta=np.empty((0, 0)))
    y, argmax = fp.max_pool2d(x, (3, 3), 2, 1, return_argmax=True)
    dx = fp.max_pool2d_backward(y, argmax, x.shape, (3, 3), 2, 1)
    activated = fp.maxout(fp.hard_swish(fp.max_pool2d(x, (5, 5), 1, 2)), 15)
    opened = fp.morphology.white_tophat(x, fp.morphology.disk(2), "wrap")
    averages = fp.avg_pool2d(x, 3, 2, 1), fp.adaptive_avg_pool2d(x, 7), fp.global_avg_pool(x[None, None])
    with dask.config.set({"scheduler": "threads", "optimization.fuse.active": None if optimised else False}):
        dask.compute(y, argmax, dx, activated, opened, *averages, fp.global_max_pool(x[None, None]))
    assert set(seen) == set(product(range(6), range(5)))
    assert set(seen.values()) == {1}


def test_only_what_a_chunk_needs_moves():
    x = da.zeros((64, 64), chunks=16)
    y = fp.max_pool2d(x, (3, 3), 1, 1)
    assert y.chunks == x.chunks
    pieces = [prod(s.stop - s.start if s.stop else 16 for s in part) for part in moved(y)]
    # Rows and columns of one element between 4 x 4 chunks, in both directions, and the corners.
    assert sum(pieces) == 2 * (2 * 3 * 4) * 16 + 4 * 3 * 3
    assert fp.max_pool2d(x, (2, 2)).chunks == ((8,) * 4,) * 2
    assert tasks(fp.max_pool2d(x, (2, 2))) == 2 * 16


def test_chunks_of_the_result_follow_those_of_the_input():
    x = da.zeros((2, 3, 100, 101), chunks=(1, 3, 30, 40))
    y = fp.max_pool2d(x, 2)
    assert y.chunks == ((1, 1), (3,), (15, 15, 15, 5), (20, 20, 10))
    assert fp.max_pool2d(x, 3, 1, 1).chunks == x.chunks
    argmax = fp.max_pool2d(x, 2, return_argmax=True)[1]
    assert fp.max_pool2d_backward(y, argmax, x.shape, 2).chunks == x.chunks
    # A stride beyond the chunks, of which some hold no window: they are merged.
    assert fp.max_pool1d(da.zeros(12, chunks=1), (1,), 5).chunks == ((1, 2),)


# Chunks of another library


class Elsewhere(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that is no NumPy array, with the interface that Dask needs and an array library of its own."""

    def __init__(self, a):
        self.a = a

    shape = property(lambda self: self.a.shape)
    dtype = property(lambda self: self.a.dtype)
    ndim = property(lambda self: self.a.ndim)
    size = property(lambda self: self.a.size)

    def __array__(self, *more, **named):
        raise TypeError("taken to main memory")

    def __array_ufunc__(self, ufunc, method, *inputs, **named):
        return around(getattr(ufunc, method)(*inside(inputs), **inside(named)))

    def __array_function__(self, function, types, arguments, named):
        return around(function(*inside(arguments), **inside(named)))

    def __getitem__(self, where):
        return Elsewhere(self.a[where])

    def __getattr__(self, name):  # reshape, astype, copy, max, ...
        if name.startswith("_") or not callable(getattr(self.a, name)):
            raise AttributeError(name)
        return lambda *arguments, **named: around(getattr(self.a, name)(*arguments, **named))


def inside(x):
    if isinstance(x, (list, tuple)):
        return type(x)(map(inside, x))
    if isinstance(x, dict):
        return {key: inside(value) for key, value in x.items()}
    return x.a if isinstance(x, Elsewhere) else x


def around(x):
    return Elsewhere(x) if isinstance(x, (np.ndarray, np.generic)) else x


class ElsewhereLibrary(ArrayLibrary):
    def holds(self, x):
        return isinstance(x, Elsewhere)

    def read(self, name, x):
        return x.a

    def from_numpy(self, a, like):
        return Elsewhere(a)


@pytest.fixture
def elsewhere(monkeypatch):
    """A library whose arrays are these, as CuPy's are on a GPU."""
    monkeypatch.setitem(interop._LIBRARIES, "elsewhere", ElsewhereLibrary)
    monkeypatch.setitem(sys.modules, "elsewhere", types.ModuleType("elsewhere"))

    def made(a, chunks):
        return chunked(a, chunks).map_blocks(Elsewhere, meta=Elsewhere(np.empty((0,) * a.ndim, a.dtype)))

    return made


def test_chunks_of_another_library_stay_its_own(elsewhere):
    x, dy = values((2, 4, 13, 9), np.float32), grads((2, 4, 7, 5), np.float32)
    finite = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    lazy, dy_lazy = elsewhere(x, 4), elsewhere(dy, 3)
    y, argmax = fp.max_pool2d(x, 3, 2, 1, return_argmax=True)
    y_lazy, argmax_lazy = fp.max_pool2d(lazy, 3, 2, 1, return_argmax=True)
    z, units = fp.maxout(x, 2, 1, return_argmax=True)
    z_lazy, units_lazy = fp.maxout(lazy, 2, 1, return_argmax=True)
    top, where = fp.global_max_pool(x, return_argmax=True)
    top_lazy, where_lazy = fp.global_max_pool(lazy, return_argmax=True)
    pairs = [
        (y_lazy, y),
        (argmax_lazy, argmax),
        (
            fp.max_pool2d_backward(dy_lazy, argmax_lazy, x.shape, 3, 2, 1),
            fp.max_pool2d_backward(dy, argmax, x.shape, 3, 2, 1),
        ),
        (z_lazy, z),
        (fp.maxout_backward(z_lazy, units_lazy, x.shape, 1), fp.maxout_backward(z, units, x.shape, 1)),
        (top_lazy, top),
        (where_lazy, where),
        (
            fp.global_max_pool_backward(top_lazy, where_lazy, x.shape),
            fp.global_max_pool_backward(top, where, x.shape),
        ),
        (fp.avg_pool2d(lazy, 3, 2, 1), fp.avg_pool2d(x, 3, 2, 1)),
        (fp.avg_pool2d_backward(dy_lazy, x.shape, 3, 2, 1), fp.avg_pool2d_backward(dy, x.shape, 3, 2, 1)),
        (fp.global_avg_pool(elsewhere(finite, 4)), fp.global_avg_pool(finite)),
        (fp.global_avg_pool_backward(top_lazy, x.shape), fp.global_avg_pool_backward(top, x.shape)),
        (fp.maximum_filter(lazy, 3, mode="wrap"), fp.maximum_filter(x, 3, mode="wrap")),
        (fp.moving_min(lazy, 3), fp.moving_min(x, 3)),
        (fp.hard_swish_backward(lazy, lazy), fp.hard_swish_backward(x, x)),
        (fp.swish(lazy), fp.swish(x)),
    ]
    for got, expected in pairs:
        assert type(got._meta) is Elsewhere
        assert got.dtype == got._meta.dtype == expected.dtype
        computed = got.compute()
        assert type(computed) is Elsewhere
        np.testing.assert_array_equal(bits(computed.a), bits(expected))


def test_fastpool_imports_no_dask():
    code = "import sys, fastpool as fp, numpy as np; fp.hard_swish(np.ones(3)); assert 'dask' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_dask_with_expressions_is_refused():
    code = "import dask.array as da, fastpool as fp; fp.hard_swish(da.ones(3))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if hasattr(da, "array_expr_enabled"):
        assert "array.query-planning to False" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_graphs_are_pickled():
    x = chunked(values((1, 2, 9, 9), np.float32), 4)
    y, indices = fp.adaptive_max_pool2d(x, 4, return_indices=True)
    for lazy in (
        fp.max_pool2d(x, 3, 2, 1),
        fp.max_pool2d(x, 3, 2, 1, where=x > 0, nan="ignore"),
        fp.avg_pool2d_backward(fp.avg_pool2d(x, 3, 2, 1), x.shape, 3, 2, 1),
        fp.adaptive_max_pool2d_backward(y, indices, x.shape),
        fp.adaptive_avg_pool2d_backward(fp.adaptive_avg_pool2d(x, 4), x.shape),
        fp.global_max_pool(x),
        fp.global_avg_pool_backward(fp.global_avg_pool(x), x.shape),
        fp.morphology.white_tophat(x, fp.morphology.disk(1), axes=(2, 3)),
        fp.moving_max(x, 3),
    ):
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(lazy)).compute(), lazy.compute())
