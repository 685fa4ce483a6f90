"""Average pooling: cells are added up down the columns of the windows, then along the rows, and divided once.

It takes KW + KH additions an output instead of KW * KH. The rows under a row of windows are read in place, and padding
along the columns is skipped; their sums are in the L1 cache, with zeros in the padding along the rows.
"""

from typing import Any, NamedTuple

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.gather_backward import as_sums
from fastpool.backends.numba.kernels.rows import fill_vectors
from fastpool.backends.numba.kernels.sums import (
    Steps,
    count_over,
    divide_row,
    list_counts,
    one_step,
    sum_rows,
    sum_run,
)
from fastpool.backends.numba.kernels.windows import after_last_tap, first_tap, inside_input
from fastpool.backends.numba.simd.vectors import (
    load,
    load_stride_2,
    load_stride_3,
    load_stride_5,
    splat,
    store,
    width_of,
)
from fastpool.backends.numba.simd.views import positive, scratch_view, slice_view, tail_view
from fastpool.backends.numba.tiling.average import BY_NEIGHBOURS, BY_STRIDED_LOADS, BY_WINDOWS


class Block(NamedTuple):
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
    """The rows of cells under a row of windows, without padding, and the element of x at the column `w`."""

    origin: int
    slices: Steps
    rows: Steps


class Buffers(NamedTuple):
    """A thread's scratch."""

    cells: Any  # sums down the columns
    totals: Any  # sums of a row of windows
    counts: Any  # how many cells along the row count in each of them
    rest: Any  # what is left of a row


@kernel
def avg_pool(x, y, half_format, sums, g, t, counted, scratch, start, stop):
    """Work items are blocks of windows."""
    buffers = divide_scratch(scratch, sums, t)
    zeros = splat(load(buffers.cells, 0), sums.dtype.type(0))
    # Blocks of whole rows are contiguous in y. Those of this call end at `limit`.
    limit = (stop // t.row_blocks * g.OH + stop % t.row_blocks * t.block_rows) * g.OW * g.inner
    listed = -1
    for item in range(start, stop):
        block = block_at(item, g, t)
        if block.ow != listed:
            list_counts(buffers.counts, block.ow, block.columns, t.block_channels, g, counted)
            listed = block.ow
        if t.row_method != BY_WINDOWS:
            fill_vectors(buffers.cells, 0, block.begin * t.block_channels, zeros)
        for row in range(block.rows):
            h = block.h + row * g.sh
            source = source_of(block, h, g)
            sum_windows(x, buffers, block, source, zeros, g, t, half_format)
            rows = sums.dtype.type(count_over(block.d, h, g, counted))
            write_row(y, buffers, block, row, rows, limit, g, t, half_format)


@inlined
def divide_scratch(scratch, sums, t):
    values = scratch_view(scratch, 0, t.elements, sums)
    return Buffers(
        slice_view(values, 0, t.cells),
        slice_view(values, t.cells, t.totals),
        slice_view(values, t.cells + t.totals, t.totals),
        tail_view(values, t.cells + 2 * t.totals),
    )


@inlined
def block_at(item, g, t):
    rest, channel_block = divmod(item, t.channel_blocks)
    rest, column_block = divmod(rest, t.column_blocks)
    rest, row_block = divmod(rest, t.row_blocks)
    plane, od = divmod(rest, g.OD)
    oh, ow, channel = row_block * t.block_rows, column_block * t.block_columns, channel_block * t.block_channels
    rows, columns = min(t.block_rows, g.OH - oh), min(t.block_columns, g.OW - ow)
    channels = min(t.block_channels, g.inner - channel)
    d, h, w = od * g.sd - g.pd, oh * g.sh - g.ph, ow * g.sw - g.pw
    all_columns = (columns - 1) * g.sw + g.KW
    begin, end = inside_input(w, all_columns, g.W)
    return Block(plane, od, oh, ow, channel, rows, columns, channels, d, h, w, all_columns, begin, end)


@inlined
def source_of(block, h, g):
    """The rows of cells under the row of windows that begins at row `h`."""
    row, kd, kh = g.W * g.inner, first_tap(block.d, 1), first_tap(h, 1)
    origin = (((block.plane * g.D + block.d + kd) * g.H + h + kh) * g.W + block.w) * g.inner + block.channel
    slices = Steps(max(after_last_tap(block.d, g.KD, 1, g.D) - kd, 0), g.H * row)
    return Source(origin, slices, Steps(max(after_last_tap(h, g.KH, 1, g.H) - kh, 0), row))


@inlined
def sum_windows(x, buffers, block, source, zeros, g, t, half_format):
    """Write the sums of a row of windows to `buffers.totals`."""
    count = block.columns * t.block_channels
    if source.slices.count * source.rows.count == 0:
        fill_vectors(buffers.totals, 0, count, zeros)
    elif t.row_method == BY_WINDOWS:
        fill_vectors(buffers.totals, 0, count, zeros)
        sum_each_window(x, buffers, block, source, g, t, half_format)
    else:
        pitch = t.block_channels
        sum_columns(buffers.cells, x, block, source, block.begin, block.end, block.begin, g, t, half_format)
        fill_vectors(buffers.cells, block.end * pitch, block.all_columns * pitch, zeros)
        if t.row_method == BY_NEIGHBOURS:
            taps = Steps(g.KW, pitch)
            sum_rows(buffers.totals, count, buffers.cells, 0, one_step(), taps, None)
        elif g.sw == 2:
            sum_strided(load_stride_2, buffers.totals, count, buffers.cells, 2, g)
        elif g.sw == 3:
            sum_strided(load_stride_3, buffers.totals, count, buffers.cells, 3, g)
        elif g.sw == 5:
            sum_strided(load_stride_5, buffers.totals, count, buffers.cells, 5, g)


@inlined
def sum_columns(cells, x, block, source, begin, end, to, g, t, half_format):
    """Add up the columns of cells from `begin` up to `end`. The first of them is column `to` of `cells`."""
    pitch, at = t.block_channels, source.origin + begin * g.inner
    columns, count = end - begin, block.channels
    if t.channel_blocks == 1:
        columns, count = min(columns, 1), columns * count
    for column in range(columns):
        out = tail_view(cells, (to + column) * pitch)
        sum_rows(out, count, x, at + column * g.inner, source.slices, source.rows, half_format)


@inlined
def sum_strided(load_strided, out, count, cells, stride, g):
    """For `SUMMED_STRIDES`: for each tap, a vector of its cells in neighbouring windows."""
    for i in range(0, count, positive(width_of(out))):
        total = load_strided(cells, i * stride)
        for tap in range(1, g.KW):
            total = total + load_strided(cells, i * stride + tap)
        store(out, i, total)


@inlined
def sum_each_window(x, buffers, block, source, g, t, half_format):
    """For other strides and for long windows: window by window, over its cells.

    The columns of cells are added up in chunks. Where there are several, the block has one window, whose sum so far is
    added to the first column of the next chunk. A single row of cells of one channel is read in place.
    """
    pitch, chunk = t.block_channels, t.chunk
    in_place = half_format is None and g.inner == 1 and source.slices.count * source.rows.count == 1
    if in_place:
        chunk = max(block.end - block.begin, 1)
    for begin in range(block.begin, block.end, positive(chunk)):
        end = min(begin + chunk, block.end)
        cells, origin = buffers.cells, -begin * pitch
        if in_place:
            cells, origin = as_sums(x, buffers.cells), source.origin
        else:
            sum_columns(buffers.cells, x, block, source, begin, end, 0, g, t, half_format)
        if begin > block.begin:
            for channel in range(block.channels):
                cells[channel] += buffers.totals[channel]
        for column in range(block.columns):
            first, last = max(column * g.sw, begin), min(column * g.sw + g.KW, end)
            sum_window(buffers, column * pitch, cells, origin + first * pitch, last - first, block.channels, g, t)


@inlined
def sum_window(buffers, to, cells, at, taps, channels, g, t):
    """Write the sum of a window's neighbouring cells to `buffers.totals`, for each channel."""
    totals = tail_view(buffers.totals, to)
    if g.inner == 1:
        totals[0] = sum_run(cells, at, max(taps, 0), buffers.rest)
    elif taps > 0:
        sum_rows(totals, channels, cells, at, one_step(), Steps(taps, t.block_channels), None)
    else:
        for channel in range(channels):
            totals[channel] = 0


@inlined
def write_row(y, buffers, block, row, rows, limit, g, t, half_format):
    """Divide the sums of a row of windows, and write them."""
    to = (((block.plane * g.OD + block.od) * g.OH + block.oh + row) * g.OW + block.ow) * g.inner + block.channel
    columns, count = block.columns, block.channels
    if t.channel_blocks == 1:
        columns, count = 1, columns * count
    for column in range(columns):
        at, begin = to + column * g.inner, column * t.block_channels
        row_limit = limit if t.whole_rows else at + count
        totals, counts = tail_view(buffers.totals, begin), tail_view(buffers.counts, begin)
        divide_row(y, at, row_limit, totals, counts, rows, count, half_format)
