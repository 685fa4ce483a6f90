"""Max pooling by van Herk (1992) and Gil and Werman (1993): its time does not depend on the height of windows.

Rows of cells come in groups as tall as a window. So a window is the end of one group and the beginning of the next: its
maximum is the larger of theirs. After the pass along rows, `larger_row` is called four times for a row of cells. The
plan chooses this kernel for tall windows at a stride of one row, in wide rows of 2-D arrays. Each row of x under a tile
is read once and each row of y written once; the maxima of one group of rows stay in the caches.
"""

from typing import Any, NamedTuple

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.packing import Rectangle, pack_cells
from fastpool.backends.numba.kernels.padding import fix_padding_offsets
from fastpool.backends.numba.kernels.reduction import Maxima, slice_of, tail_of
from fastpool.backends.numba.kernels.row_pass import pool_along_rows
from fastpool.backends.numba.kernels.windows import ceil_div, last_vector, windows_at_edges
from fastpool.backends.numba.simd.keys import Keys, from_keys
from fastpool.backends.numba.simd.offsets import add_offsets, larger, load_offsets, splat_offset, store_offsets
from fastpool.backends.numba.simd.vectors import load, store, width_of
from fastpool.backends.numba.simd.views import scratch_view, slice_view, tail_view


class Tile(NamedTuple):
    """The windows of one work item: the first of them, at (oh, ow) of the output, begins at the coordinates (h, w)."""

    plane: int
    oh: int
    ow: int
    rows: int
    columns: int
    h: int
    w: int


class Buffers(NamedTuple):
    """A thread's scratch."""

    row: Any  # the maxima along the current row
    copies: Any  # the two pieces of a row of `pool_by_strided_copy`
    beginning: Any  # maxima over the rows of the current group so far
    ends: Any  # maxima from each row of a group to the group's end, `kept_pitch` elements apart


@kernel
def max_pool_van_herk(x, y, argmax, half_format, flip, lowest, g, t, scratch, start, stop):
    """Work items are tiles of windows. Each row of cells under a tile is read once, from the top down.

    Offsets are counted from the top of the tile and wrap around in their dtype. Their differences, the offsets in a
    window, do not.
    """
    keys = Keys(half_format, flip, lowest)
    out, buffers = Maxima(y, argmax), divide_scratch(scratch, x, argmax, t)
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        for row in range(tile.rows + g.KH - 1):
            pool_row(buffers, x, tile, row, g, t, keys)
            add_to_group(buffers, tile, row, g, t)
            if row >= g.KH - 1:
                finish_windows(out, buffers, tile, row, g, t, keys)
            if row % g.KH == g.KH - 1:
                end_group(buffers, tile, g, t)


@inlined
def divide_scratch(scratch, x, argmax, t):
    values = scratch_view(scratch, 0, t.elements, x)
    all_of_it = Maxima(values, scratch_view(scratch, t.argmax_begin, t.elements, argmax))
    beginning = tail_of(all_of_it, t.row + t.copies)
    copies = slice_view(values, t.row, t.copies)
    return Buffers(slice_of(all_of_it, 0, t.row), copies, beginning, tail_of(beginning, t.kept_pitch))


@inlined
def tile_at(item, g, t):
    rest, column_tile = divmod(item, t.column_tiles)
    plane, row_tile = divmod(rest, t.row_tiles)
    oh, ow = row_tile * t.tile_rows, column_tile * t.tile_columns
    rows, columns = min(t.tile_rows, g.OH - oh), min(t.tile_columns, g.OW - ow)
    return Tile(plane, oh, ow, rows, columns, oh - g.ph, ow * g.sw - g.pw)


@inlined
def pool_row(buffers, x, tile, row, g, t, keys):
    """Pack a row of cells under a tile, and take the maxima along it."""
    h, columns = tile.h + row, (tile.columns - 1) * g.sw + (g.KW - 1) * g.dw + 1
    packed = tail_view(buffers.row.values, width_of(x))
    source = tail_view(x, ((tile.plane * g.H + h) * g.W + tile.w) * g.inner)
    cells = Rectangle(h, tile.w, 1, columns, columns)
    pack_cells(packed, source, cells, g, keys, t.prefetch_distance)
    pool_along_rows(buffers.row, ceil_div(columns, g.sw) * g.inner, packed, buffers.copies, t.row_method, g)


@inlined
def add_to_group(buffers, tile, row, g, t):
    """Keep a row of maxima for the ends of its group, and compare it with the group's beginning."""
    at, count, beginning = row % g.KH, tile.columns * g.inner, buffers.beginning
    end = tail_of(buffers.ends, at * t.kept_pitch)
    larger_row(end, count, count, buffers.row, buffers.row, row * g.KW)  # a copy: no value is larger than itself
    if at == 0:
        larger_row(beginning, count, count, end, end, 0)
    else:
        larger_row(beginning, count, count, beginning, end, 0)


@inlined
def end_group(buffers, tile, g, t):
    """Make each kept row the maxima from there to the end of the group."""
    count = tile.columns * g.inner
    for at in range(g.KH - 2, -1, -1):
        end = tail_of(buffers.ends, at * t.kept_pitch)
        larger_row(end, count, count, end, tail_of(end, t.kept_pitch), 0)


@inlined
def finish_windows(out, buffers, tile, row, g, t, keys):
    """Write the row of windows that ends at a row of cells."""
    first, at, count = row - g.KH + 1, row % g.KH, tile.columns * g.inner
    target = slice_of(out, ((tile.plane * g.OH + tile.oh + first) * g.OW + tile.ow) * g.inner, count)
    upper = tail_of(buffers.beginning, 0)
    if at < g.KH - 1:  # else the windows are one whole group
        upper = tail_of(buffers.ends, (at + 1) * t.kept_pitch)
    width = width_of(out.values)
    last = last_vector(count, width, count + width, count)  # what follows in the row belongs to another tile
    larger_row(target, count, last, upper, buffers.beginning, -first * g.KW)
    edges = windows_at_edges(tile.w, tile.columns, g.KW, g.sw, g.dw, g.W)
    fix_padding_offsets(target.values, target.argmax, 0, tile.h + first, tile.w, edges, g, keys.lowest)
    from_keys(target.values, keys)


@inlined
def larger_row(out, count, last, a, b, added):
    """Write the larger of two rows, of equal elements that of `a`, and its offset plus `added`.

    No vector begins after `last`, which is never negative: a tile is at least one vector wide.
    """
    i, width = 0, width_of(a.values)
    while i < count:
        i = min(i, last)
        best, value = load(a.values, i), load(b.values, i)
        best_offset = load_offsets(best, out.argmax, a.argmax, i)
        best, winner = larger(best, best_offset, value, load_offsets(best, out.argmax, b.argmax, i))
        store_offsets(out.argmax, i, add_offsets(winner, splat_offset(best, out.argmax, added)))
        store(out.values, i, best)
        i += width
