"""row2im, the adjoint of im2row: rows of windows are added to their cells.

A tile of cells keeps its sums in the caches, in scratch, while the windows that reach into it are added, run by run of
neighbouring taps. The last window is added first: so each cell is the sum of its taps in the order of their offsets, as
in `col2im`.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined, kernel
from fastpool.backends.numba.kernels.rows import fill_vectors, write_sums
from fastpool.backends.numba.kernels.windows import after_last_tap, after_last_window, first_tap, first_window
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.vectors import load, mask_first, store, vector_like, where, width_of
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, tail_view


class Tile(NamedTuple):
    """The cells of one work item in slice `d`: outer and inner channels, rows and columns, each from a first one on."""

    image: int
    d: int
    outer_channel: int
    outer_channels: int
    inner_channel: int
    inner_channels: int
    h: int
    rows: int
    w: int
    columns: int


class Steps(NamedTuple):
    """Elements of sums and of columns from one outer channel, or row of taps, to the next."""

    sums_outer: int
    sums_row: int
    cols_outer: int
    cols_row: int


@kernel
def row2im(cols, dx, half_format, sums, g, t, scratch, start, stop):
    """Work items are tiles of cells of one image."""
    total = scratch_view(scratch, 0, t.elements, sums)
    zeros = vector_like(total, sums.dtype.type(0))
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        fill_vectors(total, 0, tile.outer_channels * tile.rows * t.pitch, zeros)
        for kd in range(g.KD):
            od, between = divmod(tile.d + g.pd - kd * g.dd, g.sd)
            if between == 0 and 0 <= od < g.OD:
                add_windows(total, cols, tile, od, kd, zeros, g, t, half_format)
        write_tile(dx, total, tile, g, t, half_format)


@inlined
def tile_at(item, g, t):
    rest, column_tile = divmod(item, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    rest, inner_tile = divmod(rest, t.inner_tiles)
    rest, outer_tile = divmod(rest, t.outer_tiles)
    image, d = divmod(rest, g.D)
    outer_channel, inner_channel, h, w = (
        outer_tile * t.tile_outer,
        inner_tile * t.tile_inner,
        row_tile * t.tile_rows,
        column_tile * t.tile_columns,
    )
    outer_channels = min(t.tile_outer, t.outer_channels - outer_channel)
    inner_channels = min(t.tile_inner, t.inner_channels - inner_channel)
    rows, columns = min(t.tile_rows, g.H - h), min(t.tile_columns, g.W - w)
    return Tile(image, d, outer_channel, outer_channels, inner_channel, inner_channels, h, rows, w, columns)


@inlined
def add_windows(total, cols, tile, od, kd, zeros, g, t, half_format):
    """Add one slice of taps of all windows at depth `od` to the sums of a tile."""
    first_oh = first_window(tile.h, (g.KH - 1) * g.dh + 1, g.sh, g.ph)
    end_oh = after_last_window(tile.h + tile.rows - 1, g.sh, g.ph, g.OH)
    first_ow = first_window(tile.w, (g.KW - 1) * g.dw + 1, g.sw, g.pw)
    end_ow = after_last_window(tile.w + tile.columns - 1, g.sw, g.pw, g.OW)
    steps = Steps(tile.rows * t.pitch, g.dh * t.pitch, g.KD * g.KH * g.KW * t.inner_channels, g.KW * t.inner_channels)
    first_row = (tile.outer_channel * g.KD + kd) * g.KH
    for oh in range(end_oh - 1, first_oh - 1, -1):
        h = oh * g.sh - g.ph - tile.h
        first_kh, end_kh = first_tap(h, g.dh), after_last_tap(h, g.KH, g.dh, tile.rows)
        for ow in range(end_ow - 1, first_ow - 1, -1):
            w = ow * g.sw - g.pw - tile.w
            first_kw, end_kw = first_tap(w, g.dw), after_last_tap(w, g.KW, g.dw, tile.columns)
            row = (((tile.image * g.OD + od) * g.OH + oh) * g.OW + ow) * t.row + tile.inner_channel
            for kw in range(first_kw, end_kw, assume_positive(t.taps_along)):
                to = (h + first_kh * g.dh) * t.pitch + (w + kw * g.dw) * tile.inner_channels
                source = row + ((first_row + first_kh) * g.KW + kw) * t.inner_channels
                run = min(end_kw - kw, t.taps_along) * tile.inner_channels
                runs = tile.outer_channels, end_kh - first_kh, run
                in_vectors = row + t.row + width_of(total) <= len(cols)
                add_runs(total, to, cols, source, steps, runs, in_vectors, zeros, half_format)


def add_runs(sums, to, cols, source, steps, runs, in_vectors, zeros, half_format):
    """Add runs of columns to runs of sums. `runs` are outer channels, rows of taps of each, and elements of each row.

    With `in_vectors`, zeros may be added past the end of a run, and columns past it may be read.
    """


@overload(add_runs, jit_options=INLINED)
def _add_runs(sums, to, cols, source, steps, runs, in_vectors, zeros, half_format):
    if isinstance(half_format, types.NoneType):

        def add_runs(sums, to, cols, source, steps, runs, in_vectors, zeros, half_format):
            if in_vectors:
                add_vectors(sums, to, cols, source, steps, runs, zeros)
            else:
                add_elements(sums, to, cols, source, steps, runs, half_format)

        return add_runs

    def add_runs(sums, to, cols, source, steps, runs, in_vectors, zeros, half_format):
        add_elements(sums, to, cols, source, steps, runs, half_format)

    return add_runs


@inlined
def add_vectors(sums, to, cols, source, steps, runs, zeros):
    (outer_channels, rows, run), width = runs, width_of(sums)
    whole = run // width * width
    last_mask = mask_first(zeros, run - whole)
    for channel in range(outer_channels):
        at, column = to + channel * steps.sums_outer, source + channel * steps.cols_outer
        for _ in range(rows):
            for i in range(0, whole, assume_positive(width)):
                store(sums, at + i, load(sums, at + i) + load(cols, column + i))
            if whole < run:
                last = where(last_mask, load(cols, column + whole), zeros)
                store(sums, at + whole, load(sums, at + whole) + last)
            at, column = at + steps.sums_row, column + steps.cols_row


@inlined
def add_elements(sums, to, cols, source, steps, runs, half_format):
    outer_channels, rows, run = runs
    for channel in range(outer_channels):
        at, column = to + channel * steps.sums_outer, source + channel * steps.cols_outer
        for _ in range(rows):
            for i in range(run):
                sums[np.uint64(at + i)] += widen(cols[np.uint64(column + i)], half_format)
            at, column = at + steps.sums_row, column + steps.cols_row


@inlined
def write_tile(dx, total, tile, g, t, half_format):
    """Write the sums of a tile to dx: rows of cells where they are contiguous there, else element by element."""
    first = tile.image * t.x_image + tile.outer_channel * t.x_outer + tile.inner_channel * t.x_inner
    first += ((tile.d * g.H + tile.h) * g.W + tile.w) * t.x_cell
    count = tile.columns * tile.inner_channels
    for row in range(tile.rows):
        to, source = first + row * g.W * t.x_cell, row * t.pitch
        if t.x_cell == tile.inner_channels and t.x_inner == 1:
            for channel in range(tile.outer_channels):
                sums, at = tail_view(total, source + channel * tile.rows * t.pitch), to + channel * t.x_outer
                write_sums(dx, at, at + count, sums, count, half_format)
        else:
            write_cells(dx, to, total, source, tile, t, half_format)


@inlined
def write_cells(dx, to, total, source, tile, t, half_format):
    """Write a row of cells of all channels. Neighbouring outer channels or cells are contiguous in dx."""
    for inner in range(tile.inner_channels):
        for column in range(tile.columns):
            cell, sums = to + column * t.x_cell + inner * t.x_inner, source + column * tile.inner_channels + inner
            for outer in range(tile.outer_channels):
                value = total[np.uint64(sums + outer * tile.rows * t.pitch)]
                dx[np.uint64(cell + outer * t.x_outer)] = narrow(value, half_format)
