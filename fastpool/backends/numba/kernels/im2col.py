"""im2col: the cells of all windows, copied tap by tap.

Under a tile of windows, cells are packed with their padding, and from these the cells of each tap along a row: one of
every window. The columns of the taps below are then found in the same packed cells, some rows further. Each cell is
read from x once for every tile; or for every row of taps, or every tap, where the cells under all taps are too many.
Each column is written once, in whole cache lines.
"""

from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.rows import fill_vectors, pack_row
from fastpool.backends.numba.kernels.windows import inside_input, last_vector, windows_at_edges
from fastpool.backends.numba.simd.vectors import (
    deinterleave_even,
    elements_to_cache_line,
    fence,
    load,
    mask_first,
    store,
    store_nontemporal,
    vector_like,
    width_of,
)
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, tail_view


class Tile(NamedTuple):
    """The windows of one work item: the first of them is at (od, oh, ow).

    `source` is the element of x where their image and channel begin, `to` the element of the columns where those of
    their first tap do.
    """

    od: int
    oh: int
    ow: int
    rows: int
    columns: int
    images: int
    source: int
    to: int


class Tap(NamedTuple):
    """The first of the taps that are packed together."""

    offset: int
    kd: int
    kh: int
    kw: int


class TapCells(NamedTuple):
    """For every tap along a row, its cell in each window."""

    values: Any
    tap_step: int  # elements from one tap to the next
    row_pitch: int  # elements from one row of windows to the next
    row: int  # elements of a row of windows


@kernel
def im2col(x, cols, fill_value, g, t, scratch, start, stop):
    """Work items are tiles of windows of one channel. `fill_value` is an array of one element.

    The rows of cells under a tile are taken phase by phase of the stride. One phase has the cells of all taps down a
    window that are a multiple of the stride apart.
    """
    values = scratch_view(scratch, 0, t.elements, x)
    padding = vector_like(values, fill_value[0])
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        for tap in range(0, g.KD * g.KH * g.KW, assume_positive(t.taps_down * t.taps_along)):
            first_tap = Tap(tap, tap // (g.KH * g.KW), tap // g.KW % g.KH, tap % g.KW)
            for phase in range(min(g.sh, (t.taps_down - 1) * g.dh + 1)):
                cells, pitch = rows_under(x, values, tile, first_tap, phase, padding, g, t)
                taps = pack_taps(tail_view(values, t.packed), cells, pitch, tile, g, t)
                copy_taps(cols, taps, tile, first_tap, phase, g, t)
    if t.nontemporal:
        fence()


@inlined
def tile_at(item, g, t):
    rest, channel = divmod(item, t.channels)
    rest, column_tile = divmod(rest, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    rest, od = divmod(rest, g.OD)
    image = rest * t.tile_images
    images = min(t.tile_images, g.inner - rest % t.image_tiles * t.tile_images)
    oh, ow = row_tile * t.tile_rows, column_tile * t.tile_columns
    rows, columns = min(t.tile_rows, g.OH - oh), min(t.tile_columns, g.OW - ow)
    source = image * t.x_image + channel * t.x_channel
    to = image * t.cols_image + channel * t.cols_channel + ((od * g.OH + oh) * g.OW + ow) * g.inner
    return Tile(od, oh, ow, rows, columns, images, source, to)


@inlined
def rows_under(x, packed, tile, tap, phase, padding, g, t):
    """The rows of cells of one phase of the stride under a tile, and their pitch.

    They are read in place if they have no padding and one image, and if all that vectors read past them is in x.
    """
    left, columns = tile.ow * g.sw - g.pw + tap.kw * g.dw, (tile.columns - 1) * g.sw + t.reach + 1
    d, h = tile.od * g.sd - g.pd + tap.kd * g.dd, tile.oh * g.sh - g.ph + tap.kh * g.dh + phase
    rows, (begin, end) = tile.rows + t.rows_below, inside_input(left, columns, g.W)
    first_row, end_row = windows_at_edges(h, rows, 1, g.sh, 1, g.H)  # a row of cells is a window of one tap
    if not 0 <= d < g.D:
        first_row, end_row = 0, 0
    source, next_row = tile.source + ((d * g.H + h) * g.W + left) * t.x_cell, g.sh * g.W * t.x_cell
    read_end = source + (rows - 1) * next_row + columns + 2 * width_of(x)
    unpadded = begin + first_row == 0 and end == columns and end_row == rows
    if unpadded and t.x_cell * g.inner == 1 and read_end <= len(x):
        return tail_view(x, source), next_row
    pitch = columns * tile.images
    fill_vectors(packed, 0, rows * pitch, padding)
    last_mask = mask_first(padding, (end - begin) % width_of(x))
    for row in range(first_row, end_row):
        cells, x_row = tail_view(packed, row * pitch), tail_view(x, source + row * next_row)
        if t.x_cell == 1 and tile.images == 1:
            pack_row(cells, x_row, begin, end, last_mask, padding, None, 0)
        else:
            pack_images(cells, x_row, begin, end, tile.images, t)
    return tail_view(packed, 0), pitch


@inlined
def pack_images(cells, x, begin, end, images, t):
    """Pack the cells of a row from `begin` up to `end`, each with all its images."""
    for image in range(images):
        to, row = tail_view(cells, begin * images + image), tail_view(x, image * t.x_image + begin * t.x_cell)
        for w in range(end - begin):
            to[np.uint64(w * images)] = row[np.uint64(w * t.x_cell)]


@inlined
def pack_taps(packed, cells, pitch, tile, g, t):
    """The cells of each tap along a row: those in `cells`, where these are contiguous, or else in `packed`."""
    row = tile.columns * tile.images
    if not t.packs_taps:
        return TapCells(cells, g.dw * tile.images, pitch, row)
    for along in range(t.taps_along):
        for line in range(tile.rows + t.rows_below):
            to = tail_view(packed, along * t.packed_tap + line * row)
            pack_tap(to, tail_view(cells, line * pitch + along * g.dw * tile.images), tile, g)
    return TapCells(packed, t.packed_tap, row, row)


@inlined
def pack_tap(to, cells, tile, g):
    """Pack the cells of one tap in a row of windows. Vectors may spill past the row."""
    width, images = width_of(to), tile.images
    if g.sw == 1:
        for i in range(0, tile.columns * images, assume_positive(width)):
            store(to, i, load(cells, i))
    elif g.sw == 2 and images == 1:
        for i in range(0, tile.columns, assume_positive(width)):
            store(to, i, deinterleave_even(load(cells, 2 * i), load(cells, 2 * i + width)))
    elif images == 1:
        for i in range(tile.columns):
            to[i] = cells[np.uint64(i * g.sw)]
    else:
        for window in range(tile.columns):
            for i in range(0, images, assume_positive(width)):
                store(to, window * images + i, load(cells, window * g.sw * images + i))


@inlined
def copy_taps(cols, taps, tile, first_tap, phase, g, t):
    """Copy the columns of all taps whose rows of cells are of one phase: row by row, or all rows at once."""
    count = taps.row
    if taps.row_pitch == taps.row and tile.columns == g.OW and tile.images == g.inner:
        count = tile.rows * taps.row
    for down in range(t.taps_down):
        above, tap_phase = (down * g.dh, 0) if g.sh == 1 else divmod(down * g.dh, g.sh)
        for along in range(t.taps_along if tap_phase == phase else 0):
            to = tile.to + (first_tap.offset + down * g.KW + along) * t.cols_tap
            source = along * taps.tap_step + above * taps.row_pitch
            for _ in range(0, tile.rows * taps.row, assume_positive(count)):
                copy_column(tail_view(cols, to), tail_view(taps.values, source), count, t.nontemporal)
                to, source = to + g.OW * g.inner, source + taps.row_pitch


@inlined
def copy_column(to, cells, count, nontemporal):
    """Copy `count` elements in whole cache lines, and those before and after these in vectors that overlap them.

    A cache line of a nontemporal store must not be written by another store, too: with those, the elements before and
    after are copied one by one.
    """
    first, width = elements_to_cache_line(to, 0), width_of(to)
    last = last_vector(count, width, count + width, count)
    if nontemporal or last < 0:
        first = min(first, count)
        for i in range(first):
            to[i] = cells[i]
        while first <= last:
            store_nontemporal(to, first, load(cells, first))
            first += width
        for i in range(first, count):
            to[i] = cells[i]
    else:
        store(to, 0, load(cells, 0))
        while first < last:
            store(to, first, load(cells, first))
            first += width
        store(to, last, load(cells, last))
