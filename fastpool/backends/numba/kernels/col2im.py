"""col2im, the adjoint of im2col: the columns of all taps are added to their cells.

A tile of cells keeps its sums in the caches, in scratch, while the columns of one tap after the other are added to
them. The sums of each phase of the stride are rows of their own, so that a tap of neighbouring windows is added to
neighbouring sums, in vectors. Each column is read once, and each cell of dx is written once.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined, kernel
from fastpool.backends.numba.kernels.rows import fill_vectors, write_interleaved_sums, write_sums
from fastpool.backends.numba.kernels.windows import windows_with_tap
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.vectors import load, mask_first, store, vector_like, where, width_of
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, tail_view


class Tile(NamedTuple):
    """The cells of one work item: rows from h0 up to h1 of slice `d`, and columns of phases from q0 up to q1."""

    image: int
    images: int
    channel: int
    d: int
    h0: int
    h1: int
    q0: int
    q1: int


@kernel
def col2im(cols, dx, half_format, sums, g, t, scratch, start, stop):
    """Work items are tiles of cells of one channel. Columns are added in increasing offset of their taps."""
    total = scratch_view(scratch, 0, t.elements, sums)
    zeros = vector_like(total, sums.dtype.type(0))
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        fill_vectors(total, 0, (tile.h1 - tile.h0) * t.phases * t.pitch, zeros)
        for kd in range(g.KD):
            od, between = divmod(tile.d + g.pd - kd * g.dd, g.sd)
            if between == 0 and 0 <= od < g.OD:
                for kh in range(g.KH):
                    add_row_of_taps(total, cols, tile, od, kd * g.KH + kh, kh, g, t, half_format)
        write_tile(dx, total, tile, g, t, half_format)


@inlined
def tile_at(item, g, t):
    rest, channel = divmod(item, t.channels)
    rest, column_tile = divmod(rest, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    rest, d = divmod(rest, g.D)
    images = min(t.tile_images, g.inner - rest % t.image_tiles * t.tile_images)
    h0, q0 = row_tile * t.tile_rows, t.first_column + column_tile * t.tile_columns
    h1, q1 = min(h0 + t.tile_rows, g.H), min(q0 + t.tile_columns, t.first_column + t.all_columns)
    return Tile(rest * t.tile_images, images, channel, d, h0, h1, q0, q1)


@inlined
def add_row_of_taps(total, cols, tile, od, tap_row, kh, g, t, half_format):
    """Add the columns of a window's row of taps to the sums of a tile."""
    oh0, oh1 = windows_with_tap(kh * g.dh, tile.h0 + g.ph, tile.h1 + g.ph, g.sh, g.OH)
    row, sums_pitch = oh0 * g.sh + kh * g.dh - g.ph - tile.h0, g.sh * t.phases * t.pitch
    position = ((od * g.OH + oh0) * g.OW) * g.inner + tile.image * t.cols_image + tile.channel * t.cols_channel
    for kw in range(g.KW):
        column, phase = divmod(kw * g.dw, t.phases)
        ow0, ow1 = windows_with_tap(column, tile.q0, tile.q1, t.column_step, g.OW)
        if ow0 < ow1:
            to = (row * t.phases + phase) * t.pitch + (ow0 * t.column_step + column - tile.q0) * tile.images
            source = position + ow0 * g.inner + (tap_row * g.KW + kw) * t.cols_tap
            sums, columns, sums_step = tail_view(total, to), tail_view(cols, source), t.column_step * tile.images
            shape = oh1 - oh0, ow1 - ow0, tile.images
            add_columns(sums, sums_pitch, sums_step, columns, g.OW * g.inner, shape, half_format)


def add_columns(sums, sums_pitch, sums_step, cols, cols_pitch, shape, half_format):
    """Add a tap's columns to sums. `shape` is rows of windows, windows of a row, and images.

    From one row to the next, there are `sums_pitch` elements of sums and `cols_pitch` of columns; from one window to
    the next, `sums_step` of sums. Zeros may be added past the end of a row.
    """


@overload(add_columns, jit_options=INLINED)
def _add_columns(sums, sums_pitch, sums_step, cols, cols_pitch, shape, half_format):
    if isinstance(half_format, types.NoneType):

        def add_columns(sums, sums_pitch, sums_step, cols, cols_pitch, shape, half_format):
            rows, windows, images = shape
            done = 0
            if sums_step == images:
                done = add_whole_rows(sums, sums_pitch, cols, cols_pitch, rows, windows * images)
            add_elements(sums, sums_pitch, sums_step, cols, cols_pitch, done, shape, half_format)

        return add_columns

    def add_columns(sums, sums_pitch, sums_step, cols, cols_pitch, shape, half_format):
        add_elements(sums, sums_pitch, sums_step, cols, cols_pitch, 0, shape, half_format)

    return add_columns


@inlined
def add_whole_rows(sums, sums_pitch, cols, cols_pitch, rows, count):
    """Add rows of `count` elements in vectors, until one would be read past the end of the columns.

    Return how many rows were added.
    """
    width, zeros = width_of(sums), vector_like(sums, sums.dtype.type(0))
    whole = count // width * width
    last_mask = mask_first(zeros, count - whole)
    to = source = done = 0
    while done < rows and source + whole + width <= len(cols):
        i = 0
        while i < whole:
            store(sums, to + i, load(sums, to + i) + load(cols, source + i))
            i += width
        if i < count:
            store(sums, to + i, load(sums, to + i) + where(last_mask, load(cols, source + i), zeros))
        to, source, done = to + sums_pitch, source + cols_pitch, done + 1
    return done


@inlined
def add_elements(sums, sums_pitch, sums_step, cols, cols_pitch, first_row, shape, half_format):
    """Add rows of columns element by element, from `first_row` on."""
    rows, windows, images = shape
    run, next_run = (windows * images, 0) if sums_step == images else (images, sums_step)
    for row in range(first_row, rows):
        for at in range(0, windows * images, assume_positive(run)):
            to = tail_view(sums, row * sums_pitch + at // images * next_run)
            column = tail_view(cols, row * cols_pitch + at)
            for i in range(run):
                to[i] += widen(column[i], half_format)


@inlined
def write_tile(dx, total, tile, g, t, half_format):
    """Write the sums of a tile to dx. A row may spill into the next one of the tile, if rows are not divided."""
    begin, end = max(tile.q0 * t.phases - g.pw, 0), min(tile.q1 * t.phases - g.pw, g.W)
    plane = tile.image * t.x_image + tile.channel * t.x_channel + tile.d * g.H * g.W * t.x_cell
    for h in range(tile.h0, tile.h1):
        to, sums = plane + (h * g.W + begin) * t.x_cell, tail_view(total, (h - tile.h0) * t.phases * t.pitch)
        limit = plane + tile.h1 * g.W if t.column_tiles == 1 else to + end - begin
        first_phase = begin + g.pw - tile.q0 * t.phases
        if t.phases == 1 and t.x_cell * g.inner == 1:
            write_sums(dx, to, limit, sums, end - begin, half_format)
        elif t.phases == 2 and t.x_cell * g.inner == 1:
            even, odd = tail_view(sums, 0), tail_view(sums, t.pitch)
            if first_phase == 1:
                even, odd = odd, tail_view(even, 1)
            write_interleaved_sums(dx, to, limit, even, odd, end - begin, half_format)
        else:
            write_phases(tail_view(dx, to), sums, first_phase, end - begin, tile.images, t, half_format)


@inlined
def write_phases(dx, sums, first_phase, count, images, t, half_format):
    """Write a row of `count` cells of each image, phase by phase. The first cell is of `first_phase`."""
    for w in range(min(t.phases, count)):
        column, phase = divmod(first_phase + w, t.phases)
        for image in range(images):
            source = tail_view(sums, phase * t.pitch + column * images + image)
            target = tail_view(dx, w * t.x_cell + image * t.x_image)
            for i in range((count - w - 1) // t.phases + 1):
                target[np.uint64(i * t.phases * t.x_cell)] = narrow(source[np.uint64(i * images)], half_format)
