"""im2col: the cells of all windows, copied tap by tap."""

from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.rows import fill_vectors, pack_row
from fastpool.backends.numba.kernels.windows import last_vector
from fastpool.backends.numba.simd.vectors import (
    deinterleave_even,
    elements_to_cache_line,
    fence,
    load,
    mask_first,
    splat,
    store,
    store_nontemporal,
    width_of,
)
from fastpool.backends.numba.simd.views import positive, scratch_view, tail_view


class Block(NamedTuple):
    """The windows of one work item: the first of them is at (od, oh, ow).

    `source` is where their images and channel begin in x, and `to` where the columns of their first tap do.
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
    """The first of the taps that are copied together."""

    index: int
    kd: int
    kh: int
    kw: int


class Lines(NamedTuple):
    """One cell of each window, for every tap along a row.

    A row of windows has `row` elements. It is `next_row` elements to the next row, and `next_tap` to the next tap.
    """

    cells: Any
    next_tap: int
    next_row: int
    row: int


@kernel
def im2col(x, cols, fill_value, g, t, scratch, start, stop):
    """Work items are channels of blocks of windows. The cells of a block are packed with their padding, if they do not
    lie so in x. Then for each tap along a row, one cell of every window is lined up side by side. There the columns of
    all taps are: those of the tap below begin some rows further.
    """
    values = scratch_view(scratch, 0, t.elements, x)
    padding = splat(load(values, 0), fill_value)
    for item in range(start, stop):
        block = block_at(item, g, t)
        for tap in range(0, g.KD * g.KH * g.KW, positive(t.taps_down * t.taps_along)):
            first_tap = Tap(tap, tap // (g.KH * g.KW), tap // g.KW % g.KH, tap % g.KW)
            for phase in range(min(g.sh, (t.taps_down - 1) * g.dh + 1)):
                cells, pitch = rows_under(x, values, block, first_tap, phase, padding, g, t)
                lines = line_up(tail_view(values, t.cells), cells, pitch, block, g, t)
                copy_taps(cols, lines, block, first_tap, phase, g, t)
    if t.nontemporal:
        fence()


@inlined
def block_at(item, g, t):
    rest, channel = divmod(item, t.channels)
    rest, column_block = divmod(rest, t.column_blocks)
    rest, row_block = divmod(rest, t.row_blocks)
    rest, od = divmod(rest, g.OD)
    image = rest * t.block_images
    images = min(t.block_images, g.inner - rest % t.image_blocks * t.block_images)
    oh, ow = row_block * t.block_rows, column_block * t.block_columns
    rows, columns = min(t.block_rows, g.OH - oh), min(t.block_columns, g.OW - ow)
    source = image * t.x_image + channel * t.x_channel
    to = image * t.cols_image + channel * t.cols_channel + ((od * g.OH + oh) * g.OW + ow) * g.inner
    return Block(od, oh, ow, rows, columns, images, source, to)


@inlined
def rows_under(x, packed, block, tap, phase, padding, g, t):
    """The rows of cells of one phase of the stride under a block, and how many elements they lie apart.

    They are read in place if they have no padding and one image, and what vectors read past them is in x.
    """
    left, columns = block.ow * g.sw - g.pw + tap.kw * g.dw, (block.columns - 1) * g.sw + t.reach + 1
    d, h = block.od * g.sd - g.pd + tap.kd * g.dd, block.oh * g.sh - g.ph + tap.kh * g.dh + phase
    begin, end, rows = max(-left, 0), min(g.W - left, columns), block.rows + t.rows_below
    first, last = max(-h + g.sh - 1, 0) // g.sh, min((g.H - h + g.sh - 1) // g.sh, rows)
    if not 0 <= d < g.D:
        first, last = 0, 0
    source, next_row = block.source + ((d * g.H + h) * g.W + left) * t.x_cell, g.sh * g.W * t.x_cell
    read_end = source + (rows - 1) * next_row + columns + 2 * width_of(x)
    unpadded = begin + first == 0 and end == columns and last == rows
    if unpadded and t.x_cell * g.inner == 1 and read_end <= len(x):
        return tail_view(x, source), next_row
    pitch = columns * block.images
    fill_vectors(packed, 0, rows * pitch, padding)
    last_mask = mask_first(padding, (end - begin) % width_of(x))
    for row in range(first, last):
        cells, x_row = tail_view(packed, row * pitch), tail_view(x, source + row * next_row)
        if t.x_cell == 1 and block.images == 1:
            pack_row(cells, x_row, begin, end, last_mask, padding, None, 0)
        else:
            pack_images(cells, x_row, begin, end, block.images, t)
    return tail_view(packed, 0), pitch


@inlined
def pack_images(cells, x, begin, end, images, t):
    """The cells of a row from `begin` up to `end`, with all images of each side by side."""
    for image in range(images):
        to, row = tail_view(cells, begin * images + image), tail_view(x, image * t.x_image + begin * t.x_cell)
        for w in range(end - begin):
            to[np.uint64(w * images)] = row[np.uint64(w * t.x_cell)]


@inlined
def line_up(lines, cells, pitch, block, g, t):
    """Line the windows up for each tap along a row: where they already are, or else in `lines`."""
    row = block.columns * block.images
    if not t.lined_up:
        return Lines(cells, g.dw * block.images, pitch, row)
    for along in range(t.taps_along):
        for line in range(block.rows + t.rows_below):
            to = tail_view(lines, along * t.line + line * row)
            take_cells(to, tail_view(cells, line * pitch + along * g.dw * block.images), block, g)
    return Lines(lines, t.line, row, row)


@inlined
def take_cells(to, cells, block, g):
    """One cell of each window of a row. Vectors may spill past the row."""
    width, images = width_of(to), block.images
    if g.sw == 1:
        for i in range(0, block.columns * images, positive(width)):
            store(to, i, load(cells, i))
    elif g.sw == 2 and images == 1:
        for i in range(0, block.columns, positive(width)):
            store(to, i, deinterleave_even(load(cells, 2 * i), load(cells, 2 * i + width)))
    elif images == 1:
        for i in range(block.columns):
            to[i] = cells[np.uint64(i * g.sw)]
    else:
        for window in range(block.columns):
            for i in range(0, images, positive(width)):
                store(to, window * images + i, load(cells, window * g.sw * images + i))


@inlined
def copy_taps(cols, lines, block, first_tap, phase, g, t):
    """Copy the columns of the taps whose rows of cells are of one phase."""
    count = lines.row
    if lines.next_row == lines.row and block.columns == g.OW and block.images == g.inner:
        count = block.rows * lines.row
    for down in range(t.taps_down):
        above, tap_phase = (down * g.dh, 0) if g.sh == 1 else divmod(down * g.dh, g.sh)
        for along in range(t.taps_along if tap_phase == phase else 0):
            to = block.to + (first_tap.index + down * g.KW + along) * t.cols_tap
            source = along * lines.next_tap + above * lines.next_row
            for _ in range(0, block.rows * lines.row, positive(count)):
                copy_column(tail_view(cols, to), tail_view(lines.cells, source), count, t.nontemporal)
                to, source = to + g.OW * g.inner, source + lines.next_row


@inlined
def copy_column(to, cells, count, nontemporal):
    """Copy `count` elements in whole cache lines, and what lies before and after these in vectors that overlap them.

    A line that is written past the caches may be touched by no other store: there, the ends go element by element.
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
