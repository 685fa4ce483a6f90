"""Max pooling of one window after the other, by the definition: nothing is packed.

The plan chooses this kernel for windows that are too large to be packed, or that share so few cells that packing them
gains nothing. Each window reads its cells from x, in vectors of channels, or of neighbouring cells of a row.
"""

from typing import NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.reduction import Maxima
from fastpool.backends.numba.kernels.windows import first_real_offset, last_vector, move_along_row, real_taps
from fastpool.backends.numba.simd.compare import maximum, precedes, wins
from fastpool.backends.numba.simd.keys import Keys, from_keys, to_key, to_keys, without_flip
from fastpool.backends.numba.simd.offsets import (
    add_offsets,
    arange_offsets,
    larger,
    set_offset,
    splat_offset,
    store_offsets,
)
from fastpool.backends.numba.simd.vectors import load, store, vector_like, width_of
from fastpool.backends.numba.simd.views import scratch_view, slice_view


class DirectWindow(NamedTuple):
    """Where a window is read and written."""

    origin: int  # the element of x at its first tap
    to: int  # the element of y at its first channel
    first: int  # the offset of its first real tap


@kernel
def max_pool_direct(x, y, argmax, half_format, flip, lowest, g, t, scratch, start, stop):
    """Work items are `tile_columns` windows of a row, or what is left of it.

    Each of the three loops has its own code, since one for all would be slower for each. Minima have none in fours:
    they are rarer, and it would be a fourth loop to compile.
    """
    out = Maxima(y, argmax)
    vector = Maxima(scratch_view(scratch, 0, t.width, x), scratch_view(scratch, t.argmax_begin, t.width, argmax))
    keys = Keys(half_format, flip, lowest)
    if flip != 0:
        pool_windows(pool_one_by_one, out, vector, x, g, t, start, stop, keys)
    elif t.vectors == 4:
        pool_windows(pool_in_fours, out, vector, x, g, t, start, stop, without_flip(keys))
    else:
        pool_windows(pool_one_by_one, out, vector, x, g, t, start, stop, without_flip(keys))


@inlined
def pool_windows(pool, out, vector, x, g, t, start, stop, keys):
    """Call `pool` for each window of some work items."""
    for item in range(start, stop):
        row, column_tile = divmod(item, t.column_tiles)
        rest, oh = divmod(row, g.OH)
        plane, od = divmod(rest, g.OD)
        d, h = od * g.sd - g.pd, oh * g.sh - g.ph
        row_taps = real_taps(d, h, -g.pw, g)
        for ow in range(column_tile * t.tile_columns, min((column_tile + 1) * t.tile_columns, g.OW)):
            w = ow * g.sw - g.pw
            taps = move_along_row(row_taps, w, g)
            origin, to = (((plane * g.D + d) * g.H + h) * g.W + w) * g.inner, (row * g.OW + ow) * g.inner
            window = DirectWindow(origin, to, first_real_offset(taps, g))
            pool(out, vector, x, window, taps, g, keys)
            from_keys(slice_view(out.values, window.to, g.inner), keys)


@inlined
def pool_in_fours(out, vector, x, window, taps, g, keys):
    """All channels of a window, four vectors at a time; the last four overlap the four before."""
    width, channel = width_of(x), 0
    while channel < g.inner:
        channel = min(channel, g.inner - 4 * width)
        pool_four_vectors(out, x, window, channel, taps, g, keys)
        channel += 4 * width


@inlined
def pool_one_by_one(out, vector, x, window, taps, g, keys):
    """All channels of a window: in vectors of channels where there are enough, else channel by channel."""
    width, channel = width_of(x), 0
    last = last_vector(g.inner, width, g.inner + width, g.inner)  # the next window may belong to another work item
    while last >= 0 and channel < g.inner:
        channel = min(channel, last)
        pool_channels(out, x, window, channel, taps, g, keys)
        channel += width
    while channel < g.inner:
        if g.inner == g.dw == 1 and taps.end_kw - taps.first_kw >= width:
            best, winner = pool_rows(vector, x, window, taps, g, keys)
        else:
            best, winner = pool_cells(x, window.origin + channel, window.first, taps, g, keys)
        out.values[window.to + channel] = best
        set_offset(out.argmax, window.to + channel, winner)
        channel += 1


@inlined
def pool_channels(out, x, window, channel, taps, g, keys):
    """As many channels of a window as a vector holds."""
    best = vector_like(x, keys.lowest)
    winner = splat_offset(best, out.argmax, window.first)
    for kd in range(taps.first_kd, taps.end_kd):
        for kh in range(taps.first_kh, taps.end_kh):
            for kw in range(taps.first_kw, taps.end_kw):
                at = window.origin + ((kd * g.dd * g.H + kh * g.dh) * g.W + kw * g.dw) * g.inner + channel
                offset = splat_offset(best, out.argmax, (kd * g.KH + kh) * g.KW + kw)
                best, winner = larger(best, winner, to_keys(load(x, at), keys), offset)
    store(out.values, window.to + channel, best)
    store_offsets(out.argmax, window.to + channel, winner)


@inlined
def pool_four_vectors(out, x, window, channel, taps, g, keys):
    """As `pool_channels`, for four neighbouring vectors, whose maxima do not wait for each other."""
    width, lowest = width_of(x), vector_like(x, keys.lowest)
    a = b = c = d = lowest
    winner_a = winner_b = winner_c = winner_d = splat_offset(lowest, out.argmax, window.first)
    for kd in range(taps.first_kd, taps.end_kd):
        for kh in range(taps.first_kh, taps.end_kh):
            for kw in range(taps.first_kw, taps.end_kw):
                at = window.origin + ((kd * g.dd * g.H + kh * g.dh) * g.W + kw * g.dw) * g.inner + channel
                offset = splat_offset(lowest, out.argmax, (kd * g.KH + kh) * g.KW + kw)
                a, winner_a = larger(a, winner_a, to_keys(load(x, at), keys), offset)
                b, winner_b = larger(b, winner_b, to_keys(load(x, at + width), keys), offset)
                c, winner_c = larger(c, winner_c, to_keys(load(x, at + 2 * width), keys), offset)
                d, winner_d = larger(d, winner_d, to_keys(load(x, at + 3 * width), keys), offset)
    for i, best, winner in ((0, a, winner_a), (1, b, winner_b), (2, c, winner_c), (3, d, winner_d)):
        store(out.values, window.to + channel + i * width, best)
        store_offsets(out.argmax, window.to + channel + i * width, winner)


@inlined
def pool_rows(vector, x, window, taps, g, keys):
    """A window without dilation, in vectors of neighbouring cells: the maximum of each element, and then of these."""
    width, count = width_of(x), taps.end_kw - taps.first_kw
    best = vector_like(x, keys.lowest)
    winner, steps = splat_offset(best, vector.argmax, window.first), arange_offsets(best, vector.argmax)
    for kd in range(taps.first_kd, taps.end_kd):
        for kh in range(taps.first_kh, taps.end_kh):
            row, i = window.origin + (kd * g.dd * g.H + kh * g.dh) * g.W + taps.first_kw, 0
            tap = (kd * g.KH + kh) * g.KW + taps.first_kw
            while i < count:
                i = min(i, count - width)  # the last vector overlaps the one before
                offset = add_offsets(steps, splat_offset(best, vector.argmax, tap + i))
                best, winner = larger(best, winner, to_keys(load(x, row + i), keys), offset)
                i += width
    store(vector.values, 0, best)
    store_offsets(vector.argmax, 0, winner)
    return best_of_vector(vector.values, vector.argmax, window.first, keys.lowest)


@inlined
def best_of_vector(values, argmax, first, lowest):
    """The maximum of a stored vector and its offset: of equal values, that with the smaller offset wins."""
    best, winner = lowest, first
    for i in range(width_of(values)):
        if argmax is None:
            best = maximum(best, values[i])
        elif precedes(values[i], np.int64(argmax[i]), best, winner):
            best, winner = values[i], np.int64(argmax[i])
    return best, winner


@inlined
def pool_cells(x, origin, first, taps, g, keys):
    """One window, cell by cell."""
    best, winner = keys.lowest, first
    for kd in range(taps.first_kd, taps.end_kd):
        for kh in range(taps.first_kh, taps.end_kh):
            for kw in range(taps.first_kw, taps.end_kw):
                at = origin + ((kd * g.dd * g.H + kh * g.dh) * g.W + kw * g.dw) * g.inner
                value = to_key(x[at], keys)
                if wins(value, best):
                    best, winner = value, (kd * g.KH + kh) * g.KW + kw
    return best, winner
