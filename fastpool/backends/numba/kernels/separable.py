"""Max pooling one axis after the other: maxima along the rows, then down the columns and slices of these.

Where windows overlap, it takes KW + KH comparisons an output instead of KW * KH, and fewer by doubling windows of many
taps. The plan chooses this kernel unless windows are tall (`van_herk.py`), or better read in place (`direct.py`). For
each tile, cells are read from x once and packed with their padding, or read in place where packed rows would be the
same; row maxima stay in the caches close to the core.
"""

from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.packing import Rectangle, pack_cells, pack_contiguous
from fastpool.backends.numba.kernels.padding import fix_padding_offsets, mark_real_taps
from fastpool.backends.numba.kernels.reduction import (
    Maxima,
    Taps,
    double_windows,
    reduce_row,
    slice_of,
    tail_of,
    two_overlapping,
)
from fastpool.backends.numba.kernels.row_pass import pool_along_rows
from fastpool.backends.numba.kernels.rows import any_equal, fill, fill_vectors
from fastpool.backends.numba.kernels.windows import (
    after_last_tap,
    ceil_div,
    first_tap,
    inside_input,
    last_vector,
    leaves_input,
    windows_at_edges,
)
from fastpool.backends.numba.simd.keys import Keys, are_elements, from_keys, to_keys, without_flip
from fastpool.backends.numba.simd.offsets import (
    add_offsets,
    copy_offsets,
    fill_offsets,
    larger,
    splat_offset,
    store_offsets,
)
from fastpool.backends.numba.simd.vectors import (
    load,
    load_like,
    load_stride_2,
    prefetch,
    splat,
    store,
    vector_like,
    where,
    width_of,
)
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, slice_view, tail_view


class Tile(NamedTuple):
    """The windows of one work item: `rows` by `columns` of output slice `od`, the first of them at (oh, ow).

    That window begins at the coordinates (d, h, w). Along the depth, its first real tap is `first_kd`, and `slices` of
    its taps are real.
    """

    plane: int
    od: int
    oh: int
    ow: int
    rows: int
    columns: int
    d: int
    h: int
    w: int
    first_kd: int
    slices: int


class Source(NamedTuple):
    """The rows of input under a tile, and how they are read.

    The first cell is at element `origin` of the input. Rows from `first_row` up to `end_row` are not padding. Row
    maxima are `pitch` elements apart from row to row, and `slice_step` from slice to slice.
    """

    origin: int
    rows: int
    columns: int
    first_row: int
    end_row: int
    pitch: int
    slice_step: int
    in_place: bool  # read from x itself instead of packed with their padding
    contiguous: bool  # packed rows would be the same elements in the same order as in x
    vertical: bool  # windows are one column wide: there is no pass along rows
    masked: bool  # read from x itself under a mask of real taps


class Buffers(NamedTuple):
    """A thread's scratch."""

    rows: Any  # maxima along rows, and before that the packed cells
    copies: Any  # the two pieces of a row of `pool_by_strided_copy`
    short_row: Any  # a row of output that is shorter than a vector
    tap_bits: Any  # for each window of a tile, a bit for each tap along its row that is real


@kernel
def max_pool_separable(x, y, argmax, half_format, flip, lowest, g, t, scratch, start, stop):
    """Work items are tiles of windows.

    Each pass visits its taps in increasing offset: along rows, then down columns, then slices. So the first of equal
    cells wins without comparing offsets.
    """
    keys = Keys(half_format, flip, lowest)
    out, buffers = Maxima(y, argmax), divide_scratch(scratch, x, argmax, t)
    mark_real_taps(buffers.tap_bits, g)
    fill_offsets(buffers.rows.argmax, 0)
    # Tiles of whole rows are contiguous in y. Those of this call end at `limit`.
    limit = (stop // t.row_tiles * g.OH + stop % t.row_tiles * t.tile_rows) * g.OW * g.inner
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        source = source_of(x, tile, g, t, keys)
        if source.masked:
            pool_masked_rows(buffers, x, tile, source, g, t, keys)
        elif not source.vertical:
            pool_rows(buffers, x, tile, source, g, t, keys)
        if source.vertical:
            pool_down_input(out, buffers.short_row, x, tile, source, g, t, limit)
        else:
            pool_down_rows(out, buffers, tile, source, g, t, limit)
        if tile.slices == 0:
            fill_with_padding(out, tile, g, keys)
        fix_padding(y, argmax, tile, g, t, keys.lowest)
        restore_elements(y, tile, g, t, keys)


@inlined
def divide_scratch(scratch, x, argmax, t):
    values = scratch_view(scratch, 0, t.elements, x)
    offsets = scratch_view(scratch, t.argmax_begin, t.elements, argmax)
    all_of_it = Maxima(values, offsets)
    return Buffers(
        slice_of(all_of_it, 0, t.maxima),
        slice_view(values, t.maxima, t.copies),
        tail_of(all_of_it, t.maxima + t.copies),
        scratch_view(scratch, t.tap_bits_begin, t.tap_bits, np.uint8),
    )


@inlined
def tile_at(item, g, t):
    rest, column_tile = divmod(item, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    plane, od = divmod(rest, g.OD)
    oh, ow = row_tile * t.tile_rows, column_tile * t.tile_columns
    d = od * g.sd - g.pd
    first_kd = first_tap(d, g.dd)
    slices = max(after_last_tap(d, g.KD, g.dd, g.D) - first_kd, 0)
    rows, columns = min(t.tile_rows, g.OH - oh), min(t.tile_columns, g.OW - ow)
    return Tile(plane, od, oh, ow, rows, columns, d, oh * g.sh - g.ph, ow * g.sw - g.pw, first_kd, slices)


@inlined
def source_of(x, tile, g, t, keys):
    """Choose how the rows under a tile are read.

    They are read in place if packed rows would be the same elements in the same order, if these are their own keys, and
    if all that vectors read past them is in x.
    """
    width, row_step = width_of(x), g.W * g.inner
    rows = (tile.rows - 1) * g.sh + (g.KH - 1) * g.dh + 1
    columns = (tile.columns - 1) * g.sw + (g.KW - 1) * g.dw + 1
    origin = (((tile.plane * g.D + tile.d + tile.first_kd * g.dd) * g.H + tile.h) * g.W + tile.w) * g.inner
    first_row, end_row = inside_input(tile.h, rows, g.H)
    first = origin + first_row * row_step
    end = origin + (tile.slices - 1) * g.dd * g.H * row_step + end_row * row_step
    readable = first >= 0 and end + t.read_past <= len(x)
    unpadded = tile.w >= 0 and tile.w + columns <= g.W and end_row - first_row == rows
    vertical = readable and unpadded and are_elements(keys) and g.KW == 1 and g.sw == 1
    contiguous = readable and unpadded and (rows == 1 or (t.whole_rows and tile.w == 0 and g.W % g.sw == 0))
    in_place = contiguous and are_elements(keys)
    masked = t.may_mask and readable and not in_place
    pitch = (g.W // g.sw if masked or (contiguous and rows > 1) else ceil_div(columns, g.sw)) * g.inner
    slice_step = rows * pitch * g.sw + width
    return Source(origin, rows, columns, first_row, end_row, pitch, slice_step, in_place, contiguous, vertical, masked)


@inlined
def pool_rows(buffers, x, tile, source, g, t, keys):
    """The first pass: maxima along the rows of each slice."""
    cells = Rectangle(tile.h, tile.w, source.rows, source.columns, source.pitch // g.inner * g.sw)
    contiguous = (g.W * (source.rows - 1) + source.columns) * g.inner
    for one in range(tile.slices):
        out = tail_of(buffers.rows, one * source.slice_step)
        x_slice = tail_view(x, source.origin + one * g.dd * g.H * g.W * g.inner)
        row_cells = tail_view(out.values, width_of(x))
        if source.in_place:
            row_cells = x_slice
        elif source.contiguous:
            pack_contiguous(row_cells, x_slice, contiguous, keys, t.prefetch_distance)
        else:
            pack_cells(row_cells, x_slice, cells, g, keys, t.prefetch_distance)
        pool_along_rows(out, source.rows * source.pitch, row_cells, buffers.copies, t.row_method, g)


@inlined
def pool_masked_rows(buffers, x, tile, source, g, t, keys):
    """The first pass where the pitch of x is that of row maxima, times the stride: x is read under a mask.

    A window has a bit for each tap along its row that is real. The other taps are compared as padding.
    """
    padding = vector_like(buffers.rows.values, keys.lowest)
    above = source.first_row * source.pitch
    below, end = source.end_row * source.pitch, source.rows * source.pitch
    first_row = source.origin + source.first_row * g.W * g.inner
    for one in range(tile.slices):
        out = tail_of(buffers.rows, one * source.slice_step)
        cells = tail_view(x, first_row + one * g.dd * g.H * g.W * g.inner)
        fill_vectors(out.values, 0, above, padding)
        inside = tail_of(out, above)
        if keys.flip == 0:
            pool_masked_slice(inside, below - above, cells, buffers.tap_bits, padding, g, t, without_flip(keys))
        else:
            pool_masked_slice(inside, below - above, cells, buffers.tap_bits, padding, g, t, keys)
        fill_vectors(out.values, below, end, padding)
        fill_offsets(slice_view(out.argmax, 0, above), 0)
        fill_offsets(slice_view(out.argmax, below, end - below), 0)


@inlined
def pool_masked_slice(out, count, cells, tap_bits, padding, g, t, keys):
    if g.sw == 1:
        pool_masked(load, out, count, cells, tap_bits, padding, 1, g, t, keys)
    elif g.sw == 2:
        pool_masked(load_stride_2, out, count, cells, tap_bits, padding, 2, g, t, keys)


@inlined
def pool_masked(load_at, out, count, cells, tap_bits, padding, stride, g, t, keys):
    """The maxima of `count` windows over the real taps along their rows."""
    width, step, none = width_of(out.values), g.dw * g.inner, splat(padding, np.uint8(0))
    for i in range(0, count, assume_positive(width)):
        at, bit, bits = i * stride, splat(padding, np.uint8(1)), load_like(padding, tap_bits, i)
        best = where((bits & bit) != none, to_keys(load_at(cells, at), keys), padding)
        winner, offset = splat_offset(best, out.argmax, 0), splat_offset(best, out.argmax, 0)
        next_tap = splat_offset(best, out.argmax, 1)
        for vector in range(stride):
            prefetch(cells, at + vector * width + t.prefetch_distance)
        for tap in range(1, g.KW):
            bit, offset = bit + bit, add_offsets(offset, next_tap)
            value = to_keys(load_at(cells, at + tap * step), keys)
            best, winner = larger(best, winner, where((bits & bit) != none, value, padding), offset)
        store_offsets(out.argmax, i, winner)
        store(out.values, i, best)


@inlined
def pool_down_rows(out, buffers, tile, source, g, t, limit):
    """The second pass: down the row maxima. Where their pitch is that of y, all rows are one long row."""
    slices, taps = Taps(tile.slices, source.slice_step, g.KH * g.KW), Taps(g.KH, g.dh * source.pitch, g.KW)
    if t.doubles_columns:
        count = tile.slices * source.slice_step
        taps = two_overlapping(double_windows(buffers.rows, buffers.rows.values, count, taps), taps)
    rows, count = tile.rows, tile.columns * g.inner
    if g.sh == 1 and t.whole_rows and source.pitch == g.OW * g.inner:
        rows, count = 1, tile.rows * count
    for row in range(rows if tile.slices > 0 else 0):
        to = output_origin(tile, row, g)
        target, last = output_row(out, buffers.short_row, to, count, limit, t)
        cells = tail_of(buffers.rows, row * g.sh * source.pitch)
        reduce_row(target, count, max(last, 0), cells, slices, taps, tile.first_kd * g.KH * g.KW)
        if last < 0:
            copy_row(out, to, buffers.short_row, count)


@inlined
def pool_down_input(out, short_row, x, tile, source, g, t, limit):
    """The only pass of windows that are one column wide: down x itself."""
    width, row_step, count = width_of(x), g.W * g.inner, tile.columns * g.inner
    slices, taps = Taps(tile.slices, g.dd * g.H * row_step, g.KH * g.KW), Taps(g.KH, g.dh * row_step, g.KW)
    for row in range(tile.rows if tile.slices > 0 else 0):
        to = output_origin(tile, row, g)
        target, last = output_row(out, short_row, to, count, limit, t)
        cells = tail_view(x, source.origin + row * g.sh * row_step)
        for tap in range(g.KH):
            for i in range(0, count, assume_positive(width)):
                prefetch(cells, tap * g.dh * row_step + i + t.prefetch_distance)
        reduce_row(target, count, max(last, 0), Maxima(cells, None), slices, taps, tile.first_kd * g.KH * g.KW)
        if last < 0:
            copy_row(out, to, short_row, count)


@inlined
def output_origin(tile, row, g):
    return (((tile.plane * g.OD + tile.od) * g.OH + tile.oh + row) * g.OW + tile.ow) * g.inner


@inlined
def output_row(out, short_row, to, count, limit, t):
    """Where a row of `count` maxima is stored, and where its last vector may begin: see `last_vector`.

    A row that is too short for a vector is stored to `short_row`, then copied. Only whole rows may spill: the row after
    them belongs to the same tile or to the next.
    """
    width, row_limit = width_of(out.values), limit if t.whole_rows else to + count
    last = last_vector(count, width, to + count + width, row_limit)
    return (tail_of(short_row, 0) if last < 0 else tail_of(out, to)), last


@inlined
def copy_row(out, to, short_row, count):
    for i in range(count):
        out.values[to + i] = short_row.values[i]
    copy_offsets(out.argmax, to, short_row.argmax, 1, count)


@inlined
def fill_with_padding(out, tile, g, keys):
    """Where all taps along the depth are padding, no pass writes the output."""
    for row in range(tile.rows):
        target = slice_of(out, output_origin(tile, row, g), tile.columns * g.inner)
        fill(target.values, keys.lowest)
        fill_offsets(target.argmax, 0)


@inlined
def fix_padding(y, argmax, tile, g, t, lowest):
    """`fix_padding_offsets` for a tile. Most have no maximum that is the lowest value, which is tested first."""
    if argmax is not None:
        count, edges = tile.columns * g.inner, windows_at_edges(tile.w, tile.columns, g.KW, g.sw, g.dw, g.W)
        last_h = tile.h + (tile.rows - 1) * g.sh
        over_edge = edges[0] > 0 or edges[1] < tile.columns or leaves_input(tile.d, g.KD, g.dd, g.D)
        over_edge = over_edge or leaves_input(tile.h, g.KH, g.dh, g.H) or leaves_input(last_h, g.KH, g.dh, g.H)
        fixes = over_edge and tile.slices > 0
        if fixes and t.whole_rows:
            fixes = any_equal(slice_view(y, output_origin(tile, 0, g), tile.rows * count), lowest)
        for row in range(tile.rows if fixes else 0):
            to = output_origin(tile, row, g)
            values, offsets = slice_view(y, to, count), slice_view(argmax, to, count)
            fix_padding_offsets(values, offsets, tile.d, tile.h + row * g.sh, tile.w, edges, g, lowest)


@inlined
def restore_elements(y, tile, g, t, keys):
    """Replace the keys in the output of a tile by their elements."""
    if not are_elements(keys):
        rows, count = tile.rows, tile.columns * g.inner
        if t.whole_rows:  # which are contiguous in y
            rows, count = 1, rows * count
        for row in range(rows):
            from_keys(slice_view(y, output_origin(tile, row, g), count), keys)
