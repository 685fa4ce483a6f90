"""Maxima over the taps along rows: the first pass of `max_pool_separable` and `max_pool_van_herk`.

The rows under a tile are contiguous and are treated as one long row. Windows that reach from one row into the next are
computed, too, but never read.
"""

import numpy as np

from fastpool.backends.numba.decorators import inlined
from fastpool.backends.numba.kernels.reduction import (
    Maxima,
    Taps,
    double_windows,
    one_slice,
    reduce_row,
    tail_of,
    two_overlapping,
)
from fastpool.backends.numba.simd.offsets import (
    add_offsets,
    copy_offsets,
    fill_offsets,
    larger,
    load_offsets,
    splat_offset,
    store_offsets,
)
from fastpool.backends.numba.simd.vectors import (
    deinterleave_even,
    deinterleave_odd,
    load,
    load_stride_2,
    load_stride_3,
    load_stride_5,
    store,
    width_of,
)
from fastpool.backends.numba.simd.views import assume_positive, slice_view, tail_view, unliteral
from fastpool.backends.numba.tiling.forward import (
    BY_CHANNELS,
    BY_DOUBLING,
    BY_HALVING,
    BY_STRIDE,
    BY_STRIDED_COPY,
    BY_TAPS,
)


@inlined
def pool_along_rows(out, count, cells, copies, method, g):
    """Write the maxima of `count` windows, over the taps of one row, to `out`. `tiling.forward` chooses the method.

    The cells may be packed in `out` itself, one vector after its start: each is read before it is overwritten.
    """
    width = width_of(out.values)
    fill_offsets(slice_view(out.argmax, 0, count * g.sw + 2 * width), 0)
    if method == BY_TAPS:
        taps = Taps(g.KW, g.dw * g.inner, unliteral(1))
        reduce_row(out, count, count, Maxima(cells, out.argmax), one_slice(), taps, unliteral(0))
    elif method == BY_DOUBLING:
        pool_by_doubling(out, count, cells, g)
    elif method == BY_CHANNELS:
        pool_channels_along_rows(out, count, Maxima(cells, tail_view(out.argmax, width)), g)
    elif method == BY_HALVING:
        pool_by_halving(out, count, cells, g)
    elif method == BY_STRIDED_COPY:
        pool_by_strided_copy(out, count, cells, copies, g)
    elif method == BY_STRIDE:
        pool_by_stride(out, count, cells, g)


@inlined
def pool_by_doubling(out, count, cells, g):
    """For long windows: the maximum of the window at every cell. Of these, every `g.sw`-th is kept."""
    taps, every_cell = Taps(g.KW, g.dw * g.inner, unliteral(1)), count * g.sw
    taps = two_overlapping(double_windows(out, cells, every_cell, taps), taps)
    reduce_row(out, every_cell, every_cell, tail_of(out, 0), one_slice(), taps, unliteral(0))
    if g.sw > 1:
        copy_strided(out.values, out.values, count, g.sw)
        copy_offsets(out.argmax, 0, out.argmax, g.sw, count)


@inlined
def pool_channels_along_rows(out, count, source, g):
    """For strides above 1 with channels last: window by window, in vectors of channels."""
    taps = Taps(g.KW, g.dw * g.inner, unliteral(1))
    for window in range(count // g.inner):
        cells = tail_of(source, window * g.sw * g.inner)
        reduce_row(tail_of(out, window * g.inner), g.inner, g.inner, cells, one_slice(), taps, unliteral(0))


@inlined
def pool_by_stride(out, count, cells, g):
    """For `LOADED_STRIDES`: for each tap, a vector of its cells in neighbouring windows."""
    if g.sw == 2:
        pool_strided(load_stride_2, out, count, cells, 2, g)
    elif g.sw == 3:
        pool_strided(load_stride_3, out, count, cells, 3, g)
    elif g.sw == 5:
        pool_strided(load_stride_5, out, count, cells, 5, g)


@inlined
def pool_strided(load_strided, out, count, cells, stride, g):
    for i in range(0, count, assume_positive(width_of(out.values))):
        best = load_strided(cells, i * stride)
        winner, offset = splat_offset(best, out.argmax, 0), splat_offset(best, out.argmax, 0)
        next_tap = splat_offset(best, out.argmax, 1)
        for tap in range(1, g.KW):
            value, offset = load_strided(cells, i * stride + tap * g.dw), add_offsets(offset, next_tap)
            best, winner = larger(best, winner, value, offset)
        store_offsets(out.argmax, i, winner)
        store(out.values, i, best)


@inlined
def pool_by_halving(out, count, cells, g):
    """For nonoverlapping windows of 2, 4, 8 ... taps: the larger of two neighbours, until one per window is left."""
    source, taps = Maxima(cells, out.argmax), 2
    while taps < g.KW:
        halve(out, source, count * (g.KW // taps), taps // 2)
        source, taps = tail_of(out, 0), 2 * taps
    halve(out, source, count, taps // 2)


@inlined
def halve(out, source, count, offset_step):
    """Write the larger of each two neighbours: `count` elements. The second's offset is larger by `offset_step`."""
    width = width_of(out.values)
    for i in range(0, count, assume_positive(width)):
        low, high = load(source.values, 2 * i), load(source.values, 2 * i + width)
        low_offsets = load_offsets(low, out.argmax, source.argmax, 2 * i)
        high_offsets = load_offsets(low, out.argmax, source.argmax, 2 * i + width)
        first, first_offsets = deinterleave_even(low, high), deinterleave_even(low_offsets, high_offsets)
        second, second_offsets = deinterleave_odd(low, high), deinterleave_odd(low_offsets, high_offsets)
        second_offsets = add_offsets(second_offsets, splat_offset(low, out.argmax, offset_step))
        best, winner = larger(first, first_offsets, second, second_offsets)
        store_offsets(out.argmax, i, winner)
        store(out.values, i, best)


@inlined
def pool_by_strided_copy(out, count, cells, copies, g):
    """For other strides: the cells of each tap are copied one by one, then compared in vectors; piece by piece."""
    most, width = len(copies) // 2, width_of(copies)
    best, values = slice_view(copies, 0, most), slice_view(copies, most, most)
    for begin in range(0, count, assume_positive(most)):
        piece, argmax = min(most, count - begin), tail_view(out.argmax, begin)
        copy_strided(best, tail_view(cells, begin * g.sw), piece, g.sw)
        fill_offsets(slice_view(argmax, 0, piece), 0)
        for tap in range(1, g.KW):
            copy_strided(values, tail_view(cells, begin * g.sw + tap * g.dw), piece, g.sw)
            for i in range(0, piece, assume_positive(width)):
                earlier = load(best, i)
                earlier_offset, offset = load_offsets(earlier, argmax, argmax, i), splat_offset(earlier, argmax, tap)
                largest, winner = larger(earlier, earlier_offset, load(values, i), offset)
                store(best, i, largest)
                store_offsets(argmax, i, winner)
        for i in range(piece):
            out.values[begin + i] = best[i]


@inlined
def copy_strided(to, cells, count, stride):
    """to[:count] = cells[: count * stride : stride]."""
    for i in range(count):
        to[i] = cells[np.uint64(i * stride)]
