"""Arrays in chunks of all kinds, and what a Dask array computes compared with what NumPy arrays give."""

from itertools import pairwise

import dask.array as da
import ml_dtypes
import numpy as np
from dask.array.utils import assert_eq
from hypothesis import strategies as st
from specimens import FLOATS, LAYOUTS

CHUNKS = {
    "one": -1,
    "of 1": 1,
    "of 2": 2,
    "of 5": 5,
    "uneven": None,
}


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")


def check(lazy, expected):
    """Check that a Dask array has the right metadata and computes the same bits."""
    assert type(lazy) is da.Array
    got = lazy.compute()
    if lazy.npartitions < 20:
        assert_eq(lazy, got)  # checks each chunk's shape, dtype and type
    assert got.dtype == lazy.dtype == expected.dtype
    assert got.shape == lazy.shape == expected.shape
    np.testing.assert_array_equal(bits(got), bits(expected))


def check_each(lazy, expected):
    for a, b in zip(lazy, expected, strict=True):
        check(a, b)


def check_values(lazy, expected):
    """Check metadata and values: zeros may differ in their sign, and a NaN in its bits."""
    assert type(lazy) is da.Array
    got = lazy.compute()
    assert got.dtype == lazy.dtype == expected.dtype
    assert got.shape == lazy.shape == expected.shape
    if expected.dtype.kind == "V":  # bfloat16
        got, expected = got.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def check_close(lazy, expected):
    """Check values up to the last bits, in which sums differ whose additions are in another order."""
    eps = float(ml_dtypes.finfo(expected.dtype).eps)
    got, expected = (a.astype(np.float64) for a in (lazy.compute(), expected))
    finite = np.abs(expected[np.isfinite(expected)])
    np.testing.assert_allclose(got, expected, rtol=8 * eps, atol=8 * eps * finite.max(initial=0))


def noise(shape, dtype):
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def chunked(a, size):
    return da.from_array(a, chunks=size)


def uneven(n):
    """Chunks of 3, 1, 4, 1, 5, ... elements."""
    sizes = []
    for size in (3, 1, 4, 1, 5, 9, 2, 6) * (n // 31 + 1):
        sizes.append(min(size, n - sum(sizes)))
    return tuple(size for size in sizes if size) or (0,)


def in_chunks(a, name):
    return chunked(a, CHUNKS[name] if CHUNKS[name] else tuple(map(uneven, a.shape)))


@st.composite
def problems(draw):
    """Windows over an array: how many axes they have, the shape of the array, the arguments of a pool, and a dtype."""
    axes = draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 5)] * axes)
    space = draw(st.tuples(*[st.integers(1, (30, 14, 7)[axes - 1])] * axes))
    layout = draw(st.sampled_from(LAYOUTS))
    shape = [(), (3,), (2, 3)][draw(st.integers(0, 2))]
    channels = shape[-1:] if layout == "channels_last" else ()
    shape = (*shape[: len(shape) - len(channels)], *space, *channels)
    pairs = st.tuples(*[st.tuples(st.integers(0, 6), st.integers(0, 6))] * axes)
    window = {
        "kernel_size": draw(each),
        "stride": draw(each),
        "padding": draw(st.one_of(pairs, st.sampled_from(["same", "same_lower", "valid"]))),
        "dilation": draw(st.tuples(*[st.integers(1, 3)] * axes)),
        "ceil_mode": draw(st.booleans()),
        "data_format": layout,
    }
    dtype = draw(st.sampled_from(FLOATS))
    return axes, shape, window, dtype


def some_chunks(data, shape):
    chunks = []
    for n in shape:
        cuts = data.draw(st.sets(st.integers(1, max(n - 1, 1))))
        ends = [0, *sorted(c for c in cuts if c < n), n]
        chunks.append(tuple(b - a for a, b in pairwise(ends)))
    return tuple(chunks)


def never_computed(shape, chunks, dtype=float):
    """An array that fails the test where a chunk of it is computed."""

    def never(block):
        raise AssertionError("computed")

    return da.zeros(shape, chunks=chunks, dtype=dtype).map_blocks(never, meta=np.empty((0,) * len(shape), dtype))


def tasks(lazy):
    return len(dict(lazy.dask))


def moved(lazy):
    """The parts that are cut out of chunks, as slices, one for each piece."""
    pieces = [task for key, task in dict(lazy.dask).items() if "-part-" in key[0]]
    return [task[2] if isinstance(task, tuple) else task.args[1] for task in pieces]
