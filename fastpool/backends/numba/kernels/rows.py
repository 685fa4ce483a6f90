"""Rows of elements: filling them, packing them from an input, and writing them to an output.

Rows are read and written in vectors, as far as `last_vector` allows. The rest goes element by element, at unsigned
indices, since Numba tests signed ones for being negative.
"""

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined
from fastpool.backends.numba.kernels.windows import last_vector
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.keys import to_key, to_keys
from fastpool.backends.numba.simd.vectors import (
    interleave_high,
    interleave_low,
    load,
    prefetch,
    store,
    where,
    width_of,
)
from fastpool.backends.numba.simd.views import assume_positive


@inlined
def fill(row, value):
    for i in range(len(row)):
        row[i] = value


@inlined
def fill_vectors(array, begin, end, vector):
    """Fill array[begin:end] with copies of a vector, the last of which may spill past `end`."""
    if begin < end:  # one vector is nearly always enough; outside of a loop, LLVM makes no call of memset of it
        store(array, begin, vector)
        begin += width_of(array)
    while begin < end:
        store(array, begin, vector)
        begin += width_of(array)


@inlined
def repeat(array, period, count):
    """Repeat the first `period` elements of an array until it has `count` of them. Vectors may spill."""
    width = width_of(array)
    for i in range(period, count, assume_positive(min(period, width))):
        store(array, i, load(array, i - period))


def as_sums(source, sums):
    """`source` where sums are of its dtype, else `sums`: rows of two-byte floats are never read in place."""


@overload(as_sums, jit_options=INLINED)
def _as_sums(source, sums):
    return (lambda source, sums: source) if source == sums else (lambda source, sums: sums)


@inlined
def any_equal(row, value):
    found = False
    for i in range(len(row)):
        found |= row[i] == value
    return found


@inlined
def pack_row(packed, x, begin, end, last_mask, padding, keys, prefetch_distance):
    """Copy x[begin:end] to packed[begin:end], as keys unless `keys` is None, and return where what is written ends.

    The last vector may spill past `end`. `last_mask` tells which of its elements are in the row: the others become
    `padding`.
    """
    i, width = begin, width_of(x)
    while i + width <= end:
        store(packed, i, to_keys(load(x, i), keys))
        prefetch(x, i + prefetch_distance)
        i += width
    if i < end and i + width <= len(x):
        store(packed, i, where(last_mask, to_keys(load(x, i), keys), padding))
        prefetch(x, i + prefetch_distance)
        i += width
    while i < end:
        packed[np.uint64(i)] = to_key(x[np.uint64(i)], keys)
        i += 1
    return i


def read_grads(grads, dy, begin, end, last_mask, zeros, half_format):
    """Copy dy[begin:end] to grads[begin:end], two-byte floats as float32, and return where what is written ends."""


@overload(read_grads, jit_options=INLINED)
def _read_grads(grads, dy, begin, end, last_mask, zeros, half_format):
    if isinstance(half_format, types.NoneType):

        def read_grads(grads, dy, begin, end, last_mask, zeros, half_format):
            return pack_row(grads, dy, begin, end, last_mask, zeros, None, 0)

        return read_grads

    def read_grads(grads, dy, begin, end, last_mask, zeros, half_format):
        for i in range(begin, end):
            grads[i] = widen(dy[i], half_format)
        return end

    return read_grads


def write_sums(dx, to, limit, sums, count, half_format):
    """Write `count` sums to dx[to : to + count], in the dtype of dx. Vectors may spill past the row, up to `limit`."""


@overload(write_sums, jit_options=INLINED)
def _write_sums(dx, to, limit, sums, count, half_format):
    if isinstance(half_format, types.NoneType):

        def write_sums(dx, to, limit, sums, count, half_format):
            i, width = 0, width_of(dx)
            last = last_vector(count, width, to + count + width, limit)
            while i < count and i <= last:
                store(dx, to + i, load(sums, i))
                i += width
            while i < count:
                dx[np.uint64(to + i)] = sums[np.uint64(i)]
                i += 1

        return write_sums

    def write_sums(dx, to, limit, sums, count, half_format):
        for i in range(count):
            dx[np.uint64(to + i)] = narrow(sums[i], half_format)

    return write_sums


def write_interleaved_sums(dx, to, limit, even, odd, count, half_format):
    """As `write_sums`, where the sums of even elements are in `even` and those of odd elements in `odd`."""


@overload(write_interleaved_sums, jit_options=INLINED)
def _write_interleaved_sums(dx, to, limit, even, odd, count, half_format):
    if isinstance(half_format, types.NoneType):

        def write_interleaved_sums(dx, to, limit, even, odd, count, half_format):
            i, width = 0, width_of(dx)
            last = last_vector(count, 2 * width, to + count + 2 * width, limit)
            while i < count and i <= last:
                low, high = load(even, i // 2), load(odd, i // 2)
                store(dx, to + i, interleave_low(low, high))
                store(dx, to + i + width, interleave_high(low, high))
                i += 2 * width
            while i < count:
                half = np.uint64(i) // np.uint64(2)
                dx[np.uint64(to + i)] = even[half] if i % 2 == 0 else odd[half]
                i += 1

        return write_interleaved_sums

    def write_interleaved_sums(dx, to, limit, even, odd, count, half_format):
        for i in range(count):
            half = np.uint64(i) // np.uint64(2)
            dx[np.uint64(to + i)] = narrow(even[half] if i % 2 == 0 else odd[half], half_format)

    return write_interleaved_sums
