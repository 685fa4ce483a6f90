"""Sliding filters and morphology of Dask arrays: the values of the whole array, also across borders and chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from specimens import DTYPES, FLOATS, values

import fastpool as fp
from fastpool import morphology
from fastpool.borders import MODES

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
from chunks import CHUNKS, check_values, chunked, in_chunks, moved, never_computed, some_chunks, tasks  # noqa: E402


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


FILTERS = {"maximum": fp.maximum_filter, "minimum": fp.minimum_filter}
MORPHOLOGY = {
    name: getattr(morphology, name)
    for name in ("dilate", "erode", "opening", "closing", "morphological_gradient", "white_tophat", "black_tophat")
}
L_SHAPE = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]], bool)

WINDOWS = {
    "3": {"size": 3},
    "(2, 5)": {"size": (2, 5)},
    "at one side": {"size": (4, 3), "origin": (-2, 1)},
    "longer than the axis": {"size": (5, 41)},
    "a whole period at one side": {"size": (33, 29), "origin": (16, -14)},
    "a footprint": {"footprint": L_SHAPE},
    "a footprint at one side": {"footprint": L_SHAPE, "origin": (1, -1)},
    "a disk": {"footprint": morphology.disk(4)},
    "a footprint longer than the axes": {"footprint": np.eye(31, dtype=bool)},
    "one axis": {"size": 6, "axes": 1},
    "axes in another order": {"size": (2, 5), "axes": (1, 0), "origin": (0, 2)},
    "a footprint of one axis": {"footprint": [1, 0, 0, 1, 0], "axes": (0,)},
    "no axes": {"size": (), "axes": ()},
}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if "grid" not in mode])
@pytest.mark.parametrize("name", WINDOWS)
def test_filters_are_as_in_memory(name, mode, chunks):
    x = values((13, 14), np.float32)
    for call in FILTERS.values():
        expected = call(x, **WINDOWS[name], mode=mode, cval=0.5)
        check_values(call(in_chunks(x, chunks), **WINDOWS[name], mode=mode, cval=0.5), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_stays_what_it_is(dtype):
    x = values((9, 12), dtype)
    for window in ({"size": 3}, {"footprint": L_SHAPE}):
        check_values(fp.maximum_filter(chunked(x, 4), **window), fp.maximum_filter(x, **window))


def test_a_mode_for_each_axis():
    x = values((11, 7, 10), np.int16)
    plan = {"size": (4, 3, 5), "mode": ("wrap", "constant", "mirror"), "cval": 3, "origin": (1, 0, -2)}
    check_values(fp.minimum_filter(chunked(x, 3), **plan), fp.minimum_filter(x, **plan))
    plan = {"size": (4, 5), "mode": ("reflect", "grid-wrap"), "axes": (2, 0)}
    check_values(fp.maximum_filter(chunked(x, 4), **plan), fp.maximum_filter(x, **plan))


@pytest.mark.parametrize("shape", [(0,), (4, 0, 3), (1, 1)], ids=str)
def test_arrays_of_few_or_no_elements(shape):
    x = values(shape, np.float32)
    for mode in ("reflect", "constant", "wrap"):
        check_values(fp.maximum_filter(chunked(x, 1), 3, mode=mode), fp.maximum_filter(x, 3, mode=mode))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_window_over_any_chunks(data):
    axes = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(1, (40, 12, 6)[axes - 1])] * axes))
    sides = data.draw(st.tuples(*[st.integers(1, (100, 20, 7)[axes - 1])] * axes))
    plan = {
        "mode": data.draw(st.tuples(*[st.sampled_from(sorted(set(MODES.values())))] * axes)),
        "origin": tuple(data.draw(st.integers(-(k // 2), (k - 1) // 2)) for k in sides),
        "cval": data.draw(st.integers(-2, 2)),
    }
    if data.draw(st.booleans()):
        footprint = np.random.default_rng(data.draw(st.integers(0, 99))).random(sides) < 0.3
        footprint.flat[0] = True
        plan["footprint"] = footprint
    else:
        plan["size"] = sides
    x = values(shape, data.draw(st.sampled_from((np.dtype(np.int8), *FLOATS))))
    call = data.draw(st.sampled_from(sorted(FILTERS)))
    check_values(FILTERS[call](chunked(x, some_chunks(data, shape)), **plan), FILTERS[call](x, **plan))


# Moving windows


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, bool], ids=str)
def test_moving_windows_are_as_in_memory(dtype, chunks):
    x = values((11, 17), dtype)
    for move in (fp.moving_max, fp.moving_min):
        for plan in (
            {"window": 4},
            {"window": 17, "min_count": 3},
            {"window": 5, "min_count": 1, "axis": 0, "nan": "propagate"},
            {"window": (3, 6), "axis": (0, 1), "min_count": 10},
        ):
            check_values(move(in_chunks(x, chunks), **plan), move(x, **plan))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_moving_window_over_any_chunks(data):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 30)))
    axes = data.draw(st.sampled_from([(0,), (1,), (1, 0)]))
    windows = tuple(data.draw(st.integers(1, shape[axis])) for axis in axes)
    least = data.draw(st.one_of(st.none(), st.integers(1, int(np.prod(windows)))))
    plan = {
        "window": windows,
        "axis": axes,
        "min_count": least,
        "nan": data.draw(st.sampled_from(["ignore", "propagate"])),
    }
    x = values(shape, np.float32)
    check_values(fp.moving_max(chunked(x, some_chunks(data, shape)), **plan), fp.moving_max(x, **plan))


# Morphology


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("name", MORPHOLOGY)
def test_morphology_is_as_in_memory(name, chunks):
    call = MORPHOLOGY[name]
    for dtype in (bool, np.uint8, np.float32):
        x = values((15, 12), dtype)
        for footprint in (morphology.box(3, 4), L_SHAPE, morphology.disk(3)):
            for mode in ("reflect", "wrap"):
                check_values(call(in_chunks(x, chunks), footprint, mode), call(x, footprint, mode))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_morphology_over_any_chunks(data):
    shape = data.draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    sides = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    footprint = np.random.default_rng(data.draw(st.integers(0, 99))).random(sides) < 0.6
    footprint.flat[-1] = True
    plan = {
        "mode": data.draw(st.sampled_from(sorted(set(MODES.values())))),
        "origin": tuple(data.draw(st.integers(-(k // 2), (k - 1) // 2)) for k in sides),
    }
    x = values(shape, np.float32)
    call = MORPHOLOGY[data.draw(st.sampled_from(sorted(MORPHOLOGY)))]
    check_values(call(chunked(x, some_chunks(data, shape)), footprint, **plan), call(x, footprint, **plan))


# Graphs


def test_nothing_is_computed_before_it_is_asked_for():
    x = never_computed((20, 20), 6)
    fp.maximum_filter(x, 5, mode="wrap")
    fp.moving_min(x, 3)
    for call in MORPHOLOGY.values():
        call(x, morphology.disk(2))


def elements(parts):
    """How many elements pieces of a plane of chunks of 16 have."""
    return sum(np.prod([len(range(16)[s]) for s in part]) for part in parts)


@pytest.mark.parametrize("mode", ["reflect", "mirror", "constant", "nearest"])
def test_only_what_a_chunk_needs_moves(mode):
    x = da.zeros((64, 64), chunks=16)
    y = fp.maximum_filter(x, 3, mode=mode)
    assert y.chunks == x.chunks
    # Rows and columns of one element between 4 x 4 chunks, in both directions, and the corners: none for borders.
    assert elements(moved(y)) == 2 * (2 * 3 * 4) * 16 + 4 * 3 * 3


def test_beyond_a_border_that_wraps_lies_what_the_windows_reach():
    x = da.zeros((64, 64), chunks=16)
    # All chunks have neighbours on all sides: two rows, two columns and four corners.
    assert elements(moved(fp.maximum_filter(x, 3, mode="wrap"))) == 16 * (4 * 16 + 4)
    # A window without a middle reaches to one side.
    assert elements(moved(fp.maximum_filter(x, (1, 2), mode="wrap"))) == 16 * 16


def test_the_graph_grows_linearly():
    def sizes(n):
        x = da.zeros((n * 8, 64), chunks=8)
        return [tasks(call(x, morphology.disk(2))) for call in (*MORPHOLOGY.values(),)]

    for a, b, c in zip(sizes(4), sizes(16), sizes(28), strict=True):
        assert c - b == b - a


def test_chunks_smaller_than_the_window_are_merged():
    x = da.zeros(1024, chunks=1)
    y = fp.maximum_filter(x, 65)
    assert y.numblocks == (15,)
    assert fp.moving_max(x, 65).numblocks == (15,)
    assert tasks(y) == 1024 + 15


def test_chunks_keep_no_more_than_twice_their_memory():
    x = chunked(values((256, 256), np.float32), 64)
    filtered = fp.maximum_filter(x, 63)
    assert filtered.chunks == x.chunks
    for part in dask.compute(*filtered.to_delayed().ravel()):
        kept = part if part.base is None else part.base
        assert kept.size <= 2 * part.size


REFUSED = {
    "out": (lambda x: fp.maximum_filter(x, 3, out=np.empty((8, 8))), TypeError, "out must be None for a Dask array"),
    "out of an opening": (
        lambda x: morphology.opening(x, L_SHAPE, out=np.empty((8, 8))),
        TypeError,
        "out must be None for a Dask array",
    ),
    "complex": (lambda x: fp.maximum_filter(x.astype(complex), 3), TypeError, "input must be bool, an integer"),
    "size": (lambda x: fp.maximum_filter(x, 0), ValueError, "size must be positive"),
    "both": (lambda x: fp.maximum_filter(x, 3, [[True]]), ValueError, "either size or footprint must be given"),
    "footprint": (lambda x: fp.maximum_filter(x, footprint=[True]), ValueError, "footprint must have 2 axes"),
    "origin": (lambda x: fp.maximum_filter(x, 3, origin=2), ValueError, "origin must be from -1 to 1"),
    "axes": (lambda x: fp.maximum_filter(x, 3, axes=2), ValueError, "axes must be axes of an array of 2"),
    "cval": (
        lambda x: fp.maximum_filter(x.astype("u1"), 3, mode="constant", cval=-1),
        ValueError,
        "cval must be a number that uint8 holds",
    ),
    "window": (lambda x: fp.moving_max(x, 9), ValueError, "window must not be longer than its axis"),
    "min_count": (lambda x: fp.moving_max(x, 3, 4), ValueError, "min_count must be from 1 to the 3"),
    "nan": (lambda x: fp.moving_max(x, 3, nan="skip"), ValueError, "nan must be"),
    "moving": (lambda x: fp.moving_max(x.astype(complex), 3), TypeError, "x must be bool, an integer"),
    "backend": (lambda x: fp.moving_max(x, 3, backend="abacus"), ValueError, "backend must be one of"),
    "gradient": (
        lambda x: morphology.dilate_backward(x, x, L_SHAPE),
        TypeError,
        "input must not be a Dask array here",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_runs(what):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(never_computed((8, 8), 3))
