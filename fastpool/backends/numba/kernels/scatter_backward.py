"""The gradient of a max pool, scattered: each window adds its gradient to the cell that its offset names.

Its time does not depend on the number of taps. The plan chooses this kernel for windows of many taps, for two-byte
floats where there are several channels or planes, and where gathering takes too much scratch. dy and the argmax are
read once for every tile that their windows reach; the sums of a tile stay in the caches unless windows are very large.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined, kernel
from fastpool.backends.numba.kernels.rows import fill
from fastpool.backends.numba.kernels.windows import after_last_window, first_window, has_cell
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.views import scratch_view, slice_view, tail_view
from fastpool.backends.numba.tiling.backward import PLANES


class Tile(NamedTuple):
    """Cells of a plane, all of their channels or some; or all cells of several planes with one channel."""

    plane: int
    planes: int
    first: int  # rows from `first` up to `end`, counted through all slices of a plane
    end: int
    left: int  # columns from `left` up to `right`
    right: int
    channel: int
    channels: int
    cells: int  # of each plane


class Windows(NamedTuple):
    """The gradients of all windows, and their argmax."""

    grads: Any
    argmax: Any
    lookup: Any  # where offsets are bytes: the sums from a window's start to the tap of each offset


class Row(NamedTuple):
    """A row of windows."""

    first_ow: int  # windows from this one on can reach the tile
    end_ow: int  # up to this one
    source: int  # the element of dy, and of the argmax, at the window ow = 0
    start: int  # the sum of the tile at which that window begins


@kernel
def max_pool_backward_scatter(dy, argmax, dx, half_format, g, t, scratch, start, stop):
    """Work items are tiles of one plane of dx. Each is set to zero, and then every window that can reach it adds to it.

    Up to `PLANES` whole planes of one channel that follow each other are taken together: see `add_row`.
    """
    lookup = scratch_view(scratch, 0, t.table_size, np.int64)
    list_distances(lookup, g, t)
    windows, item = Windows(dy, argmax, lookup), start
    while item < stop:
        tile = tile_at(item, stop, g, t)
        item += tile.planes
        target = tail_view(dx, ((tile.plane * g.D * g.H + tile.first) * g.W + tile.left) * g.inner + tile.channel)
        sums = sums_of(target, scratch, half_format, t)
        set_to_zero(sums, tile, t)
        add_windows(sums, windows, tile, g, t, half_format)
        write_tile(target, sums, tile, half_format, g, t)


@inlined
def list_distances(lookup, g, t):
    """Fill the table. An offset that names no tap is far outside every tile, so that its gradient is dropped."""
    fill(lookup, -(1 << 62))
    if t.table_size > 0:
        for offset in range(g.KD * g.KH * g.KW):
            lookup[offset] = sums_between(offset, offset // g.KW, offset // (g.KH * g.KW), t)


@inlined
def tile_at(item, stop, g, t):
    rest, channel_tile = divmod(item, t.channel_tiles)
    rest, column_tile = divmod(rest, t.column_tiles)
    plane, row_tile = divmod(rest, t.row_tiles)
    first, left, channel = row_tile * t.tile_rows, column_tile * t.tile_columns, channel_tile * t.tile_channels
    end, right = min(first + t.tile_rows, g.D * g.H), min(left + t.tile_columns, g.W)
    channels, planes = min(t.tile_channels, g.inner - channel), min(stop - item, t.most_planes)
    return Tile(plane, planes, first, end, left, right, channel, channels, (end - first) * (right - left))


def sums_of(target, scratch, half_format, t):
    """Where the sums of `target` are: in itself, or for two-byte floats in scratch, as float32."""


@overload(sums_of, jit_options=INLINED)
def _sums_of(target, scratch, half_format, t):
    if isinstance(half_format, types.NoneType):
        return lambda target, scratch, half_format, t: target
    return lambda target, scratch, half_format, t: scratch_view(scratch, t.sums_begin, t.sums, np.float32)


@inlined
def contiguous_runs(tile, cell_step):
    """(runs, elements of each): the cells of a tile as runs of contiguous elements, with cells `cell_step` apart."""
    cells = tile.planes * tile.cells
    return (1, cells * cell_step) if tile.channels == cell_step else (cells, tile.channels)


@inlined
def set_to_zero(sums, tile, t):
    runs, count = contiguous_runs(tile, t.cell_step)
    for run in range(runs):
        fill(slice_view(sums, run * t.cell_step, count), 0)


@inlined
def write_tile(target, sums, tile, half_format, g, t):
    """Write the sums of a tile to dx, if they are in scratch."""
    if half_format is not None:
        runs, count = contiguous_runs(tile, g.inner)
        for run in range(runs):
            to, source = tail_view(target, run * g.inner), tail_view(sums, run * t.cell_step)
            for i in range(count):
                to[i] = narrow(source[i], half_format)


@inlined
def add_windows(sums, windows, tile, g, t, half_format):
    """Let all windows that can reach a tile add to it, slice by slice and row by row."""
    first_od = first_window(tile.first // g.H, (g.KD - 1) * g.dd + 1, g.sd, g.pd)
    for od in range(first_od, after_last_window((tile.end - 1) // g.H, g.sd, g.pd, g.OD)):
        d = od * g.sd - g.pd
        for oh in range(g.OH):
            h = oh * g.sh - g.ph
            top, bottom = d * g.H + max(h, 0), (d + (g.KD - 1) * g.dd) * g.H + min(h + (g.KH - 1) * g.dh, g.H - 1)
            if bottom >= tile.first and top < tile.end and has_row(d, h, g, t):
                row = row_at(od * g.OH + oh, d * g.H + h - tile.first, tile, g, t)
                if g.inner > 1:
                    add_row(sums, windows, row, tile.channels, 1, 1, tile, g, t, half_format)
                elif tile.planes == PLANES:
                    add_row(sums, windows, row, PLANES, t.windows, tile.cells, tile, g, t, half_format)
                else:
                    add_row(sums, windows, row, tile.planes, t.windows, tile.cells, tile, g, t, half_format)


@inlined
def row_at(row, first, tile, g, t):
    """A row of windows, counted through all slices; the row of cells at which they begin is the tile's row `first`."""
    first_ow, end_ow = 0, g.OW
    if t.column_tiles > 1:
        first_ow = first_window(tile.left, (g.KW - 1) * g.dw + 1, g.sw, g.pw)
        end_ow = after_last_window(tile.right - 1, g.sw, g.pw, g.OW)
    source = (tile.plane * g.OD * g.OH + row) * g.OW * g.inner + tile.channel
    return Row(first_ow, end_ow, source, (first * g.W - g.pw - tile.left) * t.cell_step)


@inlined
def add_row(sums, windows, row, count, step, sums_step, tile, g, t, half_format):
    """Add the gradients of a row of windows to the cells that their offsets name, if the tile has those cells.

    At each position, windows of `count` channels or planes do so in turn. Additions to one channel of a plane often
    wait for each other; those to another do not. Their gradients are `step` elements apart, and their sums `sums_step`.
    """
    for ow in range(row.first_ow, row.end_ow):
        if has_column(ow, g, t):
            source, start = row.source + ow * g.inner, row.start + ow * g.sw * t.cell_step
            for i in range(count):
                at = np.uint64(source + i * step)
                cell = np.uint64(start + sums_from_start(windows.argmax[at], windows.lookup, g, t))
                if cell < np.uint64(tile.cells * t.cell_step):
                    sums[cell + np.uint64(i * sums_step)] += widen(windows.grads[at], half_format)


@inlined
def has_row(d, h, g, t):
    """Whether the windows of a row, which begins at (d, h), have a tap in a row of the input."""
    return not t.some_without_row or (has_cell(d, g.KD, g.dd, g.D) and has_cell(h, g.KH, g.dh, g.H))


@inlined
def has_column(ow, g, t):
    """Whether a window has a tap in a column of the input."""
    return not t.some_without_column or has_cell(ow * g.sw - g.pw, g.KW, g.dw, g.W)


@inlined
def sums_between(offset, row, slice, t):
    """How many sums are between the start of a window and the tap of an offset, in this row and slice of taps."""
    return offset * t.next_kw + row * t.wrap_kw + slice * t.wrap_kh


def sums_from_start(offset, lookup, g, t):
    """The same for an element of an argmax: a lookup for one byte, reciprocals for two, divisions for more."""


@overload(sums_from_start, jit_options=INLINED)
def _sums_from_start(offset, lookup, g, t):
    if offset.bitwidth == 8:
        return lambda offset, lookup, g, t: lookup[offset]
    if offset.bitwidth == 16:

        def sums_from_start(offset, lookup, g, t):
            tap = np.int64(offset)
            return sums_between(tap, tap * t.reciprocal_row >> 32, tap * t.reciprocal_slice >> 32, t)

        return sums_from_start

    def sums_from_start(offset, lookup, g, t):
        tap = np.uint64(offset)
        row, slice = tap // np.uint64(g.KW), tap // np.uint64(g.KH * g.KW)
        return sums_between(np.int64(tap), np.int64(row), np.int64(slice), t)

    return sums_from_start
