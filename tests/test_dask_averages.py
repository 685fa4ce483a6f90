"""Averages of Dask arrays: those of the whole array's windows, whatever its chunks."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import AVERAGES, AVERAGES_BACKWARD, FLOATS, LAYOUTS, WINDOWS, grads, to_layout, values

import fastpool as fp

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
from chunks import (  # noqa: E402
    CHUNKS,
    check,
    check_close,
    check_values,
    chunked,
    in_chunks,
    moved,
    never_computed,
    noise,
    problems,
    some_chunks,
    tasks,
)


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


UNDILATED = [name for name, (_, window) in WINDOWS.items() if "dilation" not in window]
LARGE = ("13 s1 p6", "large window", "channels 67")


@pytest.mark.parametrize("counting", [{}, {"count_include_pad": False}, {"divisor_override": 7}], ids=str)
@pytest.mark.parametrize("chunks", [chunks for chunks in CHUNKS if chunks != "of 2"])
@pytest.mark.parametrize("name", [name for name in UNDILATED if name not in LARGE])
def test_averages_are_as_in_memory(name, chunks, counting):
    shape, window = WINDOWS[name]
    axes = len(shape) - 2
    plan = {**window, **counting}
    for layout in LAYOUTS:
        x = to_layout(values(shape, np.float32), layout)
        y = AVERAGES[axes](x, **plan, data_format=layout)
        check_values(AVERAGES[axes](in_chunks(x, chunks), **plan, data_format=layout), y)
        dy = grads(y.shape, np.float32)
        dx = AVERAGES_BACKWARD[axes](dy, x.shape, **plan, data_format=layout, backend="numpy")
        lazy = AVERAGES_BACKWARD[axes](in_chunks(dy, chunks), x.shape, **plan, data_format=layout, backend="numpy")
        check_values(lazy, dx)


@pytest.mark.parametrize("backend", ["numpy", "naive"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_backends_that_add_in_the_order_of_the_window_give_the_same_bits(dtype, backend):
    x = noise((1, 2, 13, 11), dtype)
    window = {"kernel_size": (4, 3), "stride": (3, 2), "padding": 2, "ceil_mode": True, "backend": backend}
    y = fp.avg_pool2d(x, **window)
    dy = noise(y.shape, dtype)
    for chunks in (1, 4, (1, 2, 6, 11)):
        check(fp.avg_pool2d(chunked(x, chunks), **window), y)
        dx = fp.avg_pool2d_backward(chunked(dy, chunks), x.shape, **window)
        check(dx, fp.avg_pool2d_backward(dy, x.shape, **window))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [2, 3, 4, 7])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_averages_of_any_numbers_differ_in_the_last_bits_at_most(stride, kernel, layout):
    x = to_layout(noise((2, 3, 37, 35), np.float32), layout)
    window = {"kernel_size": kernel, "stride": stride, "padding": 1, "data_format": layout}
    y = fp.avg_pool2d(x, **window)
    dy = noise(y.shape, np.float32)
    dx = fp.avg_pool2d_backward(dy, x.shape, **window)
    for chunks in (5, 16):
        check_close(fp.avg_pool2d(chunked(x, chunks), **window), y)
        check_close(fp.avg_pool2d_backward(chunked(dy, chunks), x.shape, **window), dx)


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_any_window_over_any_chunks(problem, data):
    axes, shape, window, dtype = problem
    del window["dilation"]
    window["count_include_pad"] = data.draw(st.booleans())
    window["divisor_override"] = data.draw(st.sampled_from([None, None, 5]))
    x = values(shape, dtype)
    source = chunked(x, some_chunks(data, shape))
    try:
        y = AVERAGES[axes](x, **window)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            AVERAGES[axes](source, **window)
        return
    check_values(AVERAGES[axes](source, **window), y)
    dy = grads(y.shape, dtype)
    lazy = chunked(dy, some_chunks(data, y.shape))
    dx = AVERAGES_BACKWARD[axes](lazy, shape, **window, backend="numpy")
    check_values(dx, AVERAGES_BACKWARD[axes](dy, shape, **window, backend="numpy"))
    check_close(AVERAGES_BACKWARD[axes](lazy, shape, **window), AVERAGES_BACKWARD[axes](dy, shape, **window))


# Whole planes


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 9, 7), (0, 2, 3, 4), (1, 2, 5, 3, 4)], ids=str)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_global_averages_are_as_in_memory(chunks, shape, layout, keepdims):
    plan = {"data_format": layout, "keepdims": keepdims}
    for dtype in (np.float16, np.float32):
        x = to_layout(values(shape, dtype), layout)
        y = fp.global_avg_pool(x, **plan)
        check_values(fp.global_avg_pool(in_chunks(x, chunks), **plan), y)
        dy = grads(y.shape, dtype)
        with dask.config.set({"array.chunk-size": "64 B"}):
            dx = fp.global_avg_pool_backward(in_chunks(dy, chunks), x.shape, **plan)
        assert dx.npartitions > 2 or x.size < 100
        check(dx, fp.global_avg_pool_backward(dy, x.shape, **plan))


def test_sums_of_two_byte_floats_are_kept_in_float32_between_chunks():
    x = np.full((1, 1, 40, 40), 60000, np.float16)
    assert fp.global_avg_pool(chunked(x, 4)).compute() == 60000


def test_many_chunks_of_a_plane_are_added_up_in_steps():
    x = np.arange(40 * 41, dtype=np.float64).reshape(1, 1, 40, 41)
    y = fp.global_avg_pool(chunked(x, 2))
    assert max(len(needs) for needs in y.dask.get_all_dependencies().values()) <= 16
    check(y, fp.global_avg_pool(x))


# Graphs


def test_names_are_the_same_for_the_same_call_alone():
    x = da.ones((20, 20), chunks=6)

    def names(**plan):
        y = fp.avg_pool2d(x, 3, 2, **plan)
        return y.name, fp.avg_pool2d_backward(y.persist(), x.shape, 3, 2, **plan).name.replace(y.name, "")

    plans = [{"padding": ((0, 1), (0, 0))}, {"padding": ((1, 0), (0, 0))}, {"ceil_mode": True}]
    plans += [{**plan, "count_include_pad": False} for plan in plans[:2]] + [{**plans[0], "divisor_override": 2}]
    found = [name for plan in plans for name in names(**plan)]
    assert len(set(found)) == len(found)
    assert names(**plans[0]) == names(padding=[[0, 1], [0, 0]])
    planes = [fp.global_avg_pool(x[None, None]), fp.global_avg_pool(x[None, None], keepdims=True)]
    assert planes[0].name != planes[1].name


def test_nothing_is_computed_before_it_is_asked_for():
    x = never_computed((4, 6, 12, 12), 5)
    y = fp.avg_pool2d(x, 3, 2, 1)
    fp.avg_pool2d_backward(y, x.shape, 3, 2, 1)
    fp.global_avg_pool_backward(fp.global_avg_pool(x), x.shape)


def test_only_what_a_chunk_needs_moves():
    x = da.zeros((64, 64), chunks=16)
    y = fp.avg_pool2d(x, 3, 1, 1)
    assert y.chunks == x.chunks
    # Rows and columns of one element between 4 x 4 chunks, in both directions, and the corners.
    parts = sum(np.prod([s.stop - s.start if s.stop else 16 for s in part]) for part in moved(y))
    assert parts == 2 * (2 * 3 * 4) * 16 + 4 * 3 * 3
    assert tasks(fp.avg_pool2d(x, 2)) == 2 * 16


REFUSED = {
    "out": (lambda x: fp.avg_pool2d(x, 2, out=np.empty((1, 2, 4, 4))), TypeError, "out must be None for a Dask array"),
    "integers": (lambda x: fp.avg_pool2d(x.astype(int), 2), TypeError, "x must be float16"),
    "window": (lambda x: fp.avg_pool2d(x, 9), ValueError, "does not fit into an axis of 8"),
    "override": (lambda x: fp.avg_pool2d(x, 2, divisor_override=0), ValueError, "divisor_override must be positive"),
    "dy": (lambda x: fp.avg_pool2d_backward(x, x.shape, 2), ValueError, r"dy must have the shape \(1, 2, 4, 4\)"),
    "planes": (lambda x: fp.global_avg_pool(x[0, 0]), ValueError, "x must have a batch, a channel"),
    "dy of planes": (lambda x: fp.global_avg_pool_backward(x, x.shape), ValueError, "dy must have the shape"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_runs(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(never_computed((1, 2, 8, 8), 3))
