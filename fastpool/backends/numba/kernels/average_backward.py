"""The gradient of average pooling, gathered: each cell adds up the divided gradients of the windows that cover it.

Gradients are added up down the columns of windows that cover a row of cells, then along the rows. The cells of a stride
are covered by two different numbers of windows at most, so that there are two sums for all of them. Rows of cells that
are covered by the same windows have the same gradients, which are computed once. Each element of dx is written once.
"""

from typing import Any, NamedTuple

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.rows import fill_vectors, write_sums
from fastpool.backends.numba.kernels.sums import (
    Steps,
    add_divided,
    count_rows,
    fill_row,
    list_counts,
    one_step,
    sum_rows,
    sum_run,
)
from fastpool.backends.numba.kernels.windows import after_last_window, first_window
from fastpool.backends.numba.simd.half import widen
from fastpool.backends.numba.simd.vectors import interleave_high, interleave_low, load, store, vector_like, width_of
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, slice_view, tail_view
from fastpool.backends.numba.tiling.average import MOST_PHASES_SPREAD


class Tile(NamedTuple):
    """The cells of one work item: from (d, h0, w0, channel) up to (d + 1, h1, w1, channel + channels).

    The first cell of a row has index `phase` in its stride, and the cells are in `strides` of them. Windows from
    `first_window` up to `end_window` of a row cover cells of the tile; the gradient of window `origin` is the first in
    scratch.
    """

    plane: int
    d: int
    h0: int
    h1: int
    w0: int
    w1: int
    channel: int
    channels: int
    phase: int
    strides: int
    first_window: int
    end_window: int
    origin: int


class Covering(NamedTuple):
    """The windows that cover a row of cells: slices and rows of them."""

    od0: int
    od1: int
    oh0: int
    oh1: int


class Buffers(NamedTuple):
    """A thread's scratch."""

    grads: Any  # the divided gradients of a row of windows, added up down the columns, with zeros around them
    counts: Any  # how many cells along the row count in each of these windows
    more: Any  # for each stride, the sum of the gradients of `most_windows` windows
    fewer: Any  # for each stride, the sum of those of one window less
    cells: Any  # a row of cells


@kernel
def avg_pool_backward(dy, dx, half_format, sums, g, t, counted, scratch, start, stop):
    """Work items are tiles of cells."""
    buffers = divide_scratch(scratch, sums, t)
    zeros = vector_like(buffers.cells, sums.dtype.type(0))
    fill_vectors(buffers.fewer, 0, t.sums - width_of(buffers.cells), zeros)
    # Tiles of whole rows are contiguous in dx. Those of this call end at `limit`.
    rows_before = min(stop % t.row_tiles * t.tile_rows, g.H)
    limit = (stop // t.row_tiles * g.H + rows_before) * g.W * g.inner
    listed = -1
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        if tile.w0 != listed and (t.one_window or t.chunk == 0):
            to, windows = tile.first_window - tile.origin, tile.end_window - tile.first_window
            counts = tail_view(buffers.counts, to * t.tile_channels)
            list_counts(counts, tile.first_window, windows, t.tile_channels, g, counted)
            listed = tile.w0
        h = tile.h0
        while h < tile.h1:
            covering = windows_over(tile.d, h, g)
            end_h = h + 1
            while end_h < tile.h1 and windows_over(tile.d, end_h, g) == covering:
                end_h += 1
            if t.one_window:
                grad = sum_one_window(buffers, dy, tile, covering, g, counted, half_format)
                fill_rows(dx, grad, tile, h, end_h, limit, g, t, half_format)
                h = end_h
                continue
            if t.chunk > 0:
                cells = sum_in_chunks(buffers, dy, tile, covering, zeros, g, t, counted, half_format)
            else:
                fill_vectors(buffers.grads, 0, t.grads - width_of(buffers.grads), zeros)
                begin, end = tile.first_window, tile.end_window
                sum_windows(
                    buffers.grads, buffers, dy, tile, covering, begin, end, tile.origin, g, t, counted, half_format
                )
                cells = sum_cells(buffers, tile, g, t)
            for row in range(h, end_h):
                write_row(dx, cells, tile, row, limit, g, t, half_format)
            h = end_h


@inlined
def divide_scratch(scratch, sums, t):
    values = scratch_view(scratch, 0, t.elements, sums)
    return Buffers(
        slice_view(values, 0, t.grads),
        slice_view(values, t.grads, t.grads),
        slice_view(values, 2 * t.grads, t.sums),
        slice_view(values, 2 * t.grads + t.sums, t.sums),
        slice_view(values, 2 * t.grads + 2 * t.sums, t.row),
    )


@inlined
def tile_at(item, g, t):
    rest, channel_tile = divmod(item, t.channel_tiles)
    rest, column_tile = divmod(rest, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    plane, d = divmod(rest, g.D)
    h0, w0, channel = row_tile * t.tile_rows, column_tile * t.tile_columns, channel_tile * t.tile_channels
    h1, w1 = min(h0 + t.tile_rows, g.H), min(w0 + t.tile_columns, g.W)
    stride, phase = divmod(w0 + g.pw, g.sw)
    strides = (w1 - 1 + g.pw) // g.sw - stride + 1
    first, end = first_window(w0, g.KW, g.sw, g.pw), after_last_window(w1 - 1, g.sw, g.pw, g.OW)
    channels, origin = min(t.tile_channels, g.inner - channel), stride - t.most_windows + 1
    return Tile(plane, d, h0, h1, w0, w1, channel, channels, phase, strides, first, max(first, end), origin)


@inlined
def windows_over(d, h, g):
    """The windows that cover row `h` of slice `d`."""
    od0, od1 = first_window(d, g.KD, g.sd, g.pd), after_last_window(d, g.sd, g.pd, g.OD)
    oh0, oh1 = first_window(h, g.KH, g.sh, g.ph), after_last_window(h, g.sh, g.ph, g.OH)
    if od0 >= od1 or oh0 >= oh1:
        return Covering(0, 0, 0, 0)
    return Covering(od0, od1, oh0, oh1)


@inlined
def sum_one_window(buffers, dy, tile, covering, g, counted, half_format):
    """The gradient of each cell of a row that one window covers."""
    total = buffers.cells.dtype.type(0)
    for od in range(covering.od0, covering.od1):
        for oh in range(covering.oh0, covering.oh1):
            rows = count_rows(od * g.sd - g.pd, oh * g.sh - g.ph, g, counted)
            grad = widen(dy[(tile.plane * g.OD + od) * g.OH + oh], half_format)
            total += grad / (buffers.counts[0] * buffers.cells.dtype.type(rows))
    return total


@inlined
def sum_windows(sums, buffers, dy, tile, covering, begin, end, origin, g, t, counted, half_format):
    """Add the divided gradients of the windows from `begin` up to `end` of each row to `sums`.

    Window `origin` is the first there.
    """
    windows, count = max(end - begin, 0), tile.channels
    if t.channel_tiles == 1:
        windows, count = min(windows, 1), windows * count
    for od in range(covering.od0, covering.od1):
        for oh in range(covering.oh0, covering.oh1):
            counted_rows = sums.dtype.type(count_rows(od * g.sd - g.pd, oh * g.sh - g.ph, g, counted))
            at = (((tile.plane * g.OD + od) * g.OH + oh) * g.OW + begin) * g.inner + tile.channel
            for window in range(windows):
                to = (begin - origin + window) * t.tile_channels
                counts = tail_view(buffers.counts, to)
                add_divided(tail_view(sums, to), dy, at + window * g.inner, counts, counted_rows, count, half_format)


@inlined
def sum_cells(buffers, tile, g, t):
    """The gradients of a row of cells."""
    pitch, count = t.tile_channels, tile.strides * t.tile_channels
    more = fewer = buffers.grads
    if t.most_windows > 1:
        more = buffers.more
        sum_rows(more, count, buffers.grads, 0, one_step(), Steps(t.most_windows, pitch), None)
    if g.sw == 1:
        return more
    if t.most_windows == 2:
        fewer = tail_view(buffers.grads, pitch)
    else:
        fewer = buffers.fewer
        if t.most_windows > 2 and t.more_cells < g.sw:
            sum_rows(fewer, count, buffers.grads, pitch, one_step(), Steps(t.most_windows - 1, pitch), None)
    if g.inner > 1:
        spread_channels(buffers.cells, more, fewer, tile, g, t)
    elif g.sw == 2:
        interleave(buffers.cells, more, fewer, tile, t)
    elif g.sw <= MOST_PHASES_SPREAD:
        spread_phases(buffers.cells, more, fewer, tile, g, t)
    else:
        spread_strides(buffers.cells, more, fewer, tile, g, t)
    return tail_view(buffers.cells, 0)


@inlined
def spread_channels(cells, more, fewer, tile, g, t):
    """Write the sums of each stride to its cells, in vectors of channels."""
    pitch, width, phase, stride = t.tile_channels, width_of(cells), tile.phase, 0
    for cell in range(tile.w1 - tile.w0):
        source = more if phase < t.more_cells else fewer
        for i in range(0, tile.channels, assume_positive(width)):
            store(cells, cell * pitch + i, load(source, stride * pitch + i))
        phase += 1
        if phase == g.sw:
            phase, stride = 0, stride + 1


@inlined
def interleave(cells, more, fewer, tile, t):
    """Write the sums of each stride to its two cells."""
    even = more
    odd = more if t.more_cells == 2 else fewer
    if tile.phase == 1:
        even, odd = odd, tail_view(even, 1)
    width = width_of(cells)
    for i in range(0, tile.w1 - tile.w0, assume_positive(2 * width)):
        low, high = load(even, i // 2), load(odd, i // 2)
        store(cells, i, interleave_low(low, high))
        store(cells, i + width, interleave_high(low, high))


@inlined
def spread_phases(cells, more, fewer, tile, g, t):
    """Write the sums of each stride to its cells, one cell of all strides after the other."""
    count = tile.w1 - tile.w0
    for cell in range(min(g.sw, count)):
        stride, phase = divmod(tile.phase + cell, g.sw)
        source = tail_view(more if phase < t.more_cells else fewer, stride)
        to = tail_view(cells, cell)
        for i in range((count - cell - 1) // g.sw + 1):
            to[i * g.sw] = source[i]


@inlined
def spread_strides(cells, more, fewer, tile, g, t):
    """Write the sums of each stride to its cells, stride after stride."""
    count = tile.w1 - tile.w0
    for stride in range(tile.strides):
        begin = stride * g.sw - tile.phase
        middle, end = min(max(begin + t.more_cells, 0), count), min(begin + g.sw, count)
        for cell in range(max(begin, 0), middle):
            cells[cell] = more[stride]
        for cell in range(middle, end):
            cells[cell] = fewer[stride]


@inlined
def sum_in_chunks(buffers, dy, tile, covering, zeros, g, t, counted, half_format):
    """For windows that are far longer than rows of cells: cell by cell, over the windows that cover it."""
    pitch = t.tile_channels
    fill_vectors(buffers.cells, 0, (tile.w1 - tile.w0) * pitch, zeros)
    for first in range(tile.first_window, tile.end_window, assume_positive(t.chunk)):
        chunk_end = min(first + t.chunk, tile.end_window)
        fill_vectors(buffers.grads, 0, (chunk_end - first) * pitch, zeros)
        list_counts(buffers.counts, first, chunk_end - first, pitch, g, counted)
        sum_windows(buffers.grads, buffers, dy, tile, covering, first, chunk_end, first, g, t, counted, half_format)
        for cell in range(tile.w1 - tile.w0):
            w = tile.w0 + cell
            begin = max(first_window(w, g.KW, g.sw, g.pw), first) - first
            end = min(after_last_window(w, g.sw, g.pw, g.OW), chunk_end) - first
            if g.inner == 1 and begin < end:
                buffers.cells[cell] += sum_run(buffers.grads, begin, end - begin, buffers.more)
            elif g.inner > 1:
                for window in range(begin, end):
                    for channel in range(tile.channels):
                        buffers.cells[cell * pitch + channel] += buffers.grads[window * pitch + channel]
    return tail_view(buffers.cells, 0)


@inlined
def fill_rows(dx, grad, tile, h, end_h, limit, g, t, half_format):
    """Write the same gradient to all cells of the rows from `h` up to `end_h`."""
    count = tile.w1 - tile.w0
    for row in range(h, end_h):
        to = ((tile.plane * g.D + tile.d) * g.H + row) * g.W + tile.w0
        row_limit = limit if t.whole_rows else to + count
        fill_row(dx, to, row_limit, grad, count, half_format)


@inlined
def write_row(dx, cells, tile, h, limit, g, t, half_format):
    """Write a row of cells."""
    to = (((tile.plane * g.D + tile.d) * g.H + h) * g.W + tile.w0) * g.inner + tile.channel
    columns, count = tile.w1 - tile.w0, tile.channels
    if t.channel_tiles == 1:
        columns, count = 1, columns * count
    for column in range(columns):
        at = to + column * g.inner
        row_limit = limit if t.whole_rows else at + count
        write_sums(dx, at, row_limit, tail_view(cells, column * t.tile_channels), count, half_format)
