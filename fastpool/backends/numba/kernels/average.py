"""Average pooling: in most methods cells are added up down the columns of windows, then along the rows; one division.

It takes KW + KH additions an output instead of KW * KH. The rows under a row of windows are read in place, and padding
along the columns is skipped. The sums of columns are in the L1 cache: with zeros in the padding along the rows, or
added up under a mask of real taps (`pool_by_mask`). Windows that share few cells gain nothing by that: they are added
up one by one from x (`pool_in_place`, and `pool_by_rows` for those that are a row of cells), or from the sums of
columns (`sum_each_window`).
"""

from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.padding import mark_real_taps
from fastpool.backends.numba.kernels.rows import as_sums, fill_vectors, repeat
from fastpool.backends.numba.kernels.sums import (
    Steps,
    average_rows,
    count_rows,
    divide_row,
    list_counts,
    one_step,
    sum_rows,
    sum_run,
)
from fastpool.backends.numba.kernels.windows import after_last_tap, first_tap, inside_input
from fastpool.backends.numba.simd.vectors import (
    load,
    load_like,
    load_stride_2,
    load_stride_3,
    load_stride_5,
    splat,
    store,
    vector_like,
    where,
    width_of,
)
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, slice_view, tail_view
from fastpool.backends.numba.tiling.average import (
    BY_MASK,
    BY_NEIGHBOURS,
    BY_ROWS,
    BY_STRIDED_LOADS,
    BY_WINDOWS,
    IN_PLACE,
)


class Tile(NamedTuple):
    """The windows of one work item: the first of them is at (od, oh, ow), and begins at the coordinates (d, h, w).

    Of the columns of cells under them, counted from `w`, those from `begin` up to `end` are not padding.
    """

    plane: int
    od: int
    oh: int
    ow: int
    channel: int
    rows: int
    columns: int
    channels: int
    d: int
    h: int
    w: int
    all_columns: int
    begin: int
    end: int


class Source(NamedTuple):
    """The rows of cells under a row of windows, without padding."""

    origin: int  # the element of x in the first of these rows at the column `w` of the tile
    slices: Steps
    rows: Steps


class Buffers(NamedTuple):
    """A thread's scratch."""

    column_sums: Any
    totals: Any  # sums of a row of windows
    counts: Any  # how many cells along the row count in each of them
    rest: Any  # the last elements of a row, which are fewer than a vector's
    tap_bits: Any  # for each window of a tile, a bit for each tap along its row that is real


@kernel
def avg_pool(x, y, half_format, sums, g, t, counted, scratch, start, stop):
    """Work items are tiles of windows."""
    buffers = divide_scratch(scratch, sums, t)
    zeros = vector_like(buffers.column_sums, sums.dtype.type(0))
    # Tiles of whole rows are contiguous in y. Those of this call end at `limit`.
    limit = (stop // t.row_tiles * g.OH + stop % t.row_tiles * t.tile_rows) * g.OW * g.inner
    if t.row_method == BY_ROWS:
        list_counts(buffers.counts, 0, 1, t.tile_rows, g, counted)
    elif t.row_method == BY_MASK:
        mark_real_taps(buffers.tap_bits, g)
        list_counts(buffers.counts, 0, g.OW, g.inner, g, counted)
        repeat(buffers.counts, g.OW * g.inner, t.counts - 2 * width_of(buffers.counts))
    listed = -1
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        if t.row_method == BY_ROWS:
            pool_by_rows(y, x, buffers, tile, limit, g, half_format)
        elif t.row_method == BY_MASK:
            pool_by_mask(y, x, buffers, tile, zeros, limit, g, t, counted, half_format)
        else:
            if tile.ow != listed:
                list_counts(buffers.counts, tile.ow, tile.columns, t.tile_channels, g, counted)
                listed = tile.ow
            pool_rows(y, x, buffers, tile, zeros, limit, g, t, counted, half_format)


@inlined
def divide_scratch(scratch, sums, t):
    values, counts = scratch_view(scratch, 0, t.elements, sums), t.column_sums + t.totals
    return Buffers(
        slice_view(values, 0, t.column_sums),
        slice_view(values, t.column_sums, t.totals),
        slice_view(values, counts, t.counts),
        tail_view(values, counts + t.counts),
        scratch_view(scratch, t.tap_bits_begin, t.tap_bits, np.uint8),
    )


@inlined
def tile_at(item, g, t):
    rest, channel_tile = divmod(item, t.channel_tiles)
    rest, column_tile = divmod(rest, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    plane, od = divmod(rest, g.OD)
    oh, ow, channel = row_tile * t.tile_rows, column_tile * t.tile_columns, channel_tile * t.tile_channels
    rows, columns = min(t.tile_rows, g.OH - oh), min(t.tile_columns, g.OW - ow)
    channels = min(t.tile_channels, g.inner - channel)
    d, h, w = od * g.sd - g.pd, oh * g.sh - g.ph, ow * g.sw - g.pw
    all_columns = (columns - 1) * g.sw + g.KW
    begin, end = inside_input(w, all_columns, g.W)
    return Tile(plane, od, oh, ow, channel, rows, columns, channels, d, h, w, all_columns, begin, end)


@inlined
def source_of(tile, h, g):
    """The rows of cells under the row of windows that begins at row `h`."""
    row, kd, kh = g.W * g.inner, first_tap(tile.d, 1), first_tap(h, 1)
    origin = (((tile.plane * g.D + tile.d + kd) * g.H + h + kh) * g.W + tile.w) * g.inner + tile.channel
    slices = Steps(max(after_last_tap(tile.d, g.KD, 1, g.D) - kd, 0), g.H * row)
    return Source(origin, slices, Steps(max(after_last_tap(h, g.KH, 1, g.H) - kh, 0), row))


@inlined
def pool_by_rows(y, x, buffers, tile, limit, g, half_format):
    """Windows that are one row of cells each, without padding: the averages of rows."""
    to, cells = tile.plane * g.OH + tile.oh, as_sums(x, buffers.column_sums)
    for row in range(tile.rows):
        buffers.totals[row] = sum_run(cells, (to + row) * g.W, g.W, buffers.rest)
    one = buffers.totals.dtype.type(1)
    divide_row(y, to, limit, buffers.totals, buffers.counts, one, tile.rows, half_format)


@inlined
def pool_by_mask(y, x, buffers, tile, zeros, limit, g, t, counted, half_format):
    """The windows of a tile whose rows are one long row, which are added up under a mask of real taps.

    Rows of windows that have no padding above or below lie one row of cells apart at stride 1: their columns are added
    up at once.
    """
    row_step, last_full, row = g.W * g.inner, g.H - g.KH, 0
    while row < tile.rows:
        h, rows = tile.h + row * g.sh, 1
        if g.sh == 1 and 0 <= h <= last_full:
            rows = min(tile.rows - row, last_full - h + 1)
        source, cells = source_of(tile, h, g), tail_view(buffers.column_sums, t.lead + row * row_step)
        origin = source.origin + g.pw * g.inner
        if source.slices.count * source.rows.count > 0:
            sum_rows(cells, rows * row_step, x, origin, source.slices, source.rows, half_format)
        else:
            fill_vectors(cells, 0, rows * row_step, zeros)
        row += rows
    if g.sw == 1:
        sum_masked(load, buffers, tile.rows * g.OW * g.inner, zeros, 1, g, t)
    else:
        sum_masked(load_stride_2, buffers, tile.rows * g.OW, zeros, 2, g, t)
    write_rows(y, buffers, tile, limit, g, counted, half_format)


@inlined
def sum_masked(load_at, buffers, count, zeros, stride, g, t):
    """Overwrite the sums of columns with those of `count` windows, over the real taps along their rows."""
    width, none = width_of(buffers.column_sums), splat(zeros, np.uint8(0))
    for i in range(0, count, assume_positive(width)):
        at, bit, bits = (
            t.lead - g.pw * g.inner + i * stride,
            splat(zeros, np.uint8(1)),
            load_like(zeros, buffers.tap_bits, i),
        )
        total = where((bits & bit) != none, load_at(buffers.column_sums, at), zeros)
        for tap in range(1, g.KW):
            bit = bit + bit
            cells = load_at(buffers.column_sums, at + tap * g.inner)
            total = total + where((bits & bit) != none, cells, zeros)
        store(buffers.column_sums, i, total)


@inlined
def write_rows(y, buffers, tile, limit, g, counted, half_format):
    """Divide the sums of a tile of whole rows, and write them: as many rows at once as have the same divisors."""
    size, row = g.OW * g.inner, 0
    to = ((tile.plane * g.OD + tile.od) * g.OH + tile.oh) * size
    while row < tile.rows:
        rows, count = 1, count_rows(tile.d, tile.h + row * g.sh, g, counted)
        while row + rows < tile.rows and count_rows(tile.d, tile.h + (row + rows) * g.sh, g, counted) == count:
            rows += 1
        counted_rows, totals = buffers.column_sums.dtype.type(count), tail_view(buffers.column_sums, row * size)
        divide_row(y, to + row * size, limit, totals, buffers.counts, counted_rows, rows * size, half_format)
        row += rows


@inlined
def pool_rows(y, x, buffers, tile, zeros, limit, g, t, counted, half_format):
    """The windows of a tile, row by row."""
    if t.row_method == BY_NEIGHBOURS or t.row_method == BY_STRIDED_LOADS:
        fill_vectors(buffers.column_sums, 0, tile.begin * t.tile_channels, zeros)
    for row in range(tile.rows):
        h = tile.h + row * g.sh
        source = source_of(tile, h, g)
        counted_rows = buffers.column_sums.dtype.type(count_rows(tile.d, h, g, counted))
        to = (((tile.plane * g.OD + tile.od) * g.OH + tile.oh + row) * g.OW + tile.ow) * g.inner + tile.channel
        if t.row_method == IN_PLACE:
            pool_in_place(y, to, x, buffers, tile, source, zeros, counted_rows, g, t, half_format)
        else:
            sum_windows(x, buffers, tile, source, zeros, g, t, half_format)
            write_row(y, to, buffers, tile, counted_rows, limit, g, t, half_format)


@inlined
def pool_in_place(y, to, x, buffers, tile, source, zeros, counted_rows, g, t, half_format):
    """A row of windows of a single slice that share few cells, each read in place, in vectors of channels."""
    for column in range(tile.columns):
        begin, end = max(column * g.sw, tile.begin), min(column * g.sw + g.KW, tile.end)
        counts, at = tail_view(buffers.counts, column * t.tile_channels), to + column * g.inner
        if begin < end and source.slices.count * source.rows.count > 0:
            origin, taps = source.origin + begin * g.inner, Steps(end - begin, g.inner)
            average_rows(
                y, at, x, origin, source.rows, taps, counts, counted_rows, tile.channels, buffers.totals, half_format
            )
        else:
            fill_vectors(buffers.totals, 0, tile.channels, zeros)
            divide_row(y, at, at + tile.channels, buffers.totals, counts, counted_rows, tile.channels, half_format)


@inlined
def sum_windows(x, buffers, tile, source, zeros, g, t, half_format):
    """Write the sums of a row of windows to `buffers.totals`."""
    count = tile.columns * t.tile_channels
    if source.slices.count * source.rows.count == 0:
        fill_vectors(buffers.totals, 0, count, zeros)
    elif t.row_method == BY_WINDOWS:
        fill_vectors(buffers.totals, 0, count, zeros)
        sum_each_window(x, buffers, tile, source, g, t, half_format)
    else:
        pitch = t.tile_channels
        sum_columns(buffers.column_sums, x, tile, source, tile.begin, tile.end, tile.begin, g, t, half_format)
        fill_vectors(buffers.column_sums, tile.end * pitch, tile.all_columns * pitch, zeros)
        if t.row_method == BY_NEIGHBOURS:
            taps = Steps(g.KW, pitch)
            sum_rows(buffers.totals, count, buffers.column_sums, 0, one_step(), taps, None)
        elif g.sw == 2:
            sum_strided(load_stride_2, buffers.totals, count, buffers.column_sums, 2, g)
        elif g.sw == 3:
            sum_strided(load_stride_3, buffers.totals, count, buffers.column_sums, 3, g)
        elif g.sw == 5:
            sum_strided(load_stride_5, buffers.totals, count, buffers.column_sums, 5, g)


@inlined
def sum_columns(cells, x, tile, source, begin, end, to, g, t, half_format):
    """Add up the columns of cells from `begin` up to `end`. The first of them is column `to` of `cells`."""
    pitch, at = t.tile_channels, source.origin + begin * g.inner
    columns, count = end - begin, tile.channels
    if t.channel_tiles == 1:
        columns, count = min(columns, 1), columns * count
    for column in range(columns):
        out = tail_view(cells, (to + column) * pitch)
        sum_rows(out, count, x, at + column * g.inner, source.slices, source.rows, half_format)


@inlined
def sum_strided(load_strided, out, count, cells, stride, g):
    """For `LOADED_STRIDES`: for each tap, a vector of its cells in neighbouring windows."""
    for i in range(0, count, assume_positive(width_of(out))):
        total = load_strided(cells, i * stride)
        for tap in range(1, g.KW):
            total = total + load_strided(cells, i * stride + tap)
        store(out, i, total)


@inlined
def sum_each_window(x, buffers, tile, source, g, t, half_format):
    """For other strides and for long windows: window by window, over its cells.

    The columns of cells are added up in chunks. Where there are several, the tile has one window, whose sum so far is
    added to the first column of the next chunk. A single row of cells of one channel is read in place.
    """
    pitch, chunk = t.tile_channels, t.chunk
    in_place = half_format is None and g.inner == 1 and source.slices.count * source.rows.count == 1
    if in_place:
        chunk = max(tile.end - tile.begin, 1)
    for chunk_begin in range(tile.begin, tile.end, assume_positive(chunk)):
        chunk_end = min(chunk_begin + chunk, tile.end)
        cells, origin = buffers.column_sums, -chunk_begin * pitch
        if in_place:
            cells, origin = as_sums(x, buffers.column_sums), source.origin
        else:
            sum_columns(buffers.column_sums, x, tile, source, chunk_begin, chunk_end, 0, g, t, half_format)
        if chunk_begin > tile.begin:
            for channel in range(tile.channels):
                cells[channel] += buffers.totals[channel]
        for column in range(tile.columns):
            begin, end = max(column * g.sw, chunk_begin), min(column * g.sw + g.KW, chunk_end)
            sum_window(buffers, column * pitch, cells, origin + begin * pitch, end - begin, tile.channels, g, t)


@inlined
def sum_window(buffers, to, cells, at, taps, channels, g, t):
    """Write the sum of a window's neighbouring cells to `buffers.totals`, for each channel."""
    totals = tail_view(buffers.totals, to)
    if g.inner == 1:
        totals[0] = sum_run(cells, at, max(taps, 0), buffers.rest)
    elif taps > 0:
        sum_rows(totals, channels, cells, at, one_step(), Steps(taps, t.tile_channels), None)
    else:
        for channel in range(channels):
            totals[channel] = 0


@inlined
def write_row(y, to, buffers, tile, counted_rows, limit, g, t, half_format):
    """Divide the sums of a row of windows, and write them."""
    columns, count = tile.columns, tile.channels
    if t.channel_tiles == 1:
        columns, count = 1, columns * count
    for column in range(columns):
        at, begin = to + column * g.inner, column * t.tile_channels
        row_limit = limit if t.whole_rows else at + count
        totals, counts = tail_view(buffers.totals, begin), tail_view(buffers.counts, begin)
        divide_row(y, at, row_limit, totals, counts, counted_rows, count, half_format)
