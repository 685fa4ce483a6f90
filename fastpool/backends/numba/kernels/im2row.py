"""im2col where each window is a row of the columns: its taps are contiguous, with channels outside or inside them.

The lines of cells under neighbouring windows are packed with their padding, whatever the order of x. A row of a window
is then a run of each line, and is copied in vectors. A vector may spill past its run: runs are written in the order of
memory, so that the next one overwrites what was spilled. Nothing spills past what a work item writes.
"""

from typing import NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.rows import fill_vectors, pack_row
from fastpool.backends.numba.kernels.windows import inside_input
from fastpool.backends.numba.simd.vectors import load, mask_first, store, vector_like, width_of
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, tail_view


class Tile(NamedTuple):
    """The windows of one work item, the first of which is at (od, oh, ow), and what it copies of them.

    That are `lines` lines and `inner_channels` inner channels, from `line` and `inner_channel` on.
    """

    image: int
    od: int
    oh: int
    ow: int
    columns: int
    line: int
    lines: int
    inner_channel: int
    inner_channels: int


@kernel
def im2row(x, cols, fill_value, g, t, scratch, start, stop):
    """Work items are windows of one row of windows. `fill_value` is an array of one element."""
    lines = scratch_view(scratch, 0, t.elements, x)
    padding = vector_like(lines, fill_value[0])
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        cells = (tile.columns - 1) * g.sw + t.taps_along
        for line in range(tile.lines):
            packed = tail_view(lines, line * cells * tile.inner_channels)
            pack_line(packed, x, tile, tile.line + line, cells, padding, g, t)
        copy_rows(cols, lines, tile, cells, g, t)


@inlined
def tile_at(item, g, t):
    rest, inner_tile = divmod(item, t.inner_tiles)
    rest, line_tile = divmod(rest, t.line_tiles)
    rest, column_tile = divmod(rest, t.column_tiles)
    rest, oh = divmod(rest, g.OH)
    image, od = divmod(rest, g.OD)
    ow, line, inner_channel = column_tile * t.tile_columns, line_tile * t.tile_lines, inner_tile * t.tile_inner
    columns, lines, inner_channels = (
        min(t.tile_columns, g.OW - ow),
        min(t.tile_lines, t.lines - line),
        min(t.tile_inner, t.inner_channels - inner_channel),
    )
    return Tile(image, od, oh, ow, columns, line, lines, inner_channel, inner_channels)


@inlined
def pack_line(packed, x, tile, line, cells, padding, g, t):
    """Pack the cells of one outer channel and the taps along one row, or of one tap."""
    rest, kw = divmod(line * t.taps_along, g.KW)
    rest, kh = divmod(rest, g.KH)
    outer_channel, kd = divmod(rest, g.KD)
    d, h = tile.od * g.sd - g.pd + kd * g.dd, tile.oh * g.sh - g.ph + kh * g.dh
    w = tile.ow * g.sw - g.pw + kw * g.dw
    begin, end = inside_input(w, cells, g.W)
    if not (0 <= d < g.D and 0 <= h < g.H) or begin >= end:
        fill_vectors(packed, 0, cells * tile.inner_channels, padding)
        return
    first = tile.image * t.x_image + outer_channel * t.x_outer + tile.inner_channel * t.x_inner
    first += ((d * g.H + h) * g.W + w) * t.x_cell
    fill_vectors(packed, 0, begin * tile.inner_channels, padding)
    if t.x_inner == 1 and t.x_cell == tile.inner_channels:
        begin, end = begin * tile.inner_channels, end * tile.inner_channels
        last_mask = mask_first(padding, (end - begin) % width_of(x))
        written = pack_row(packed, tail_view(x, first), begin, end, last_mask, padding, None, 0)
    else:
        for channel in range(tile.inner_channels):
            for cell in range(begin, end):
                source, to = first + cell * t.x_cell + channel * t.x_inner, cell * tile.inner_channels + channel
                packed[np.uint64(to)] = x[np.uint64(source)]
        written = end * tile.inner_channels
    fill_vectors(packed, written, cells * tile.inner_channels, padding)


@inlined
def copy_rows(cols, packed, tile, cells, g, t):
    """Copy what the windows of a tile have of its lines."""
    run, pitch, width = t.taps_along * tile.inner_channels, cells * tile.inner_channels, width_of(cols)
    to = (((tile.image * g.OD + tile.od) * g.OH + tile.oh) * g.OW + tile.ow) * t.row
    to += tile.line * t.taps_along * t.inner_channels + tile.inner_channel
    alone = t.line_tiles * t.inner_tiles == 1  # then the next window is written next
    limit = to + tile.columns * t.row
    for window in range(tile.columns):
        written = to + (tile.lines - 1) * t.taps_along * t.inner_channels + run
        source = window * g.sw * tile.inner_channels
        safe = written + width <= limit if alone else False
        if safe:
            copy_runs(cols, to, packed, source, tile.lines, run, pitch)
        else:
            for line in range(tile.lines):
                copy_exactly(cols, to + line * t.taps_along * t.inner_channels, packed, source + line * pitch, run)
        to += t.row


@inlined
def copy_runs(cols, to, packed, source, lines, run, pitch):
    """Copy a run of each line. Vectors may spill past the last."""
    width = width_of(cols)
    for _ in range(lines):
        for i in range(0, run, assume_positive(width)):
            store(cols, to + i, load(packed, source + i))
        to, source = to + run, source + pitch


@inlined
def copy_exactly(cols, to, packed, source, run):
    i, width = 0, width_of(cols)
    while i + width <= run:
        store(cols, to + i, load(packed, source + i))
        i += width
    while i < run:
        cols[np.uint64(to + i)] = packed[np.uint64(source + i)]
        i += 1
