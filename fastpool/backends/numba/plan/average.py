"""How average pooling and its gradient run: along which axes, by which way along a row, in which tiles."""

from __future__ import annotations

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import LOADED_STRIDES, VECTOR_BYTES, WIDEST_VECTOR, Geometry, ceil_div
from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of
from fastpool.backends.numba.plan.call import KernelCall, pooled_bytes
from fastpool.backends.numba.plan.geometry import geometry_of, stacked
from fastpool.backends.numba.tiling import average as tiling
from fastpool.backends.numba.tiling.average import (
    BY_MASK,
    BY_NEIGHBOURS,
    BY_ROWS,
    BY_STRIDED_LOADS,
    BY_WINDOWS,
    IN_PLACE,
    AverageBackwardTiling,
    AverageTiling,
    Counted,
)
from fastpool.dtypes import is_half
from fastpool.window import LARGEST_SIZE, Divisors, Window


def avg_pool(window: Window, divisors: Divisors, outer: int, inner: int, dtype: np.dtype) -> KernelCall:
    """Of arrays (x, y)."""
    half_format, _, _, sums = kernel_dtype_of(dtype)
    g, counted, planes = merged_geometry(window, divisors, outer, inner)
    tiles = tiles_of_windows(g, sums.dtype.itemsize, is_half(dtype))
    constants = half_format, sums, g, tiles, counted
    items = planes * g.OD * tiles.row_tiles * tiles.column_tiles * tiles.channel_tiles
    cost_bytes = pooled_bytes(window, outer, inner, dtype)
    return KernelCall("avg_pool", (dtype, dtype), constants, items, cost_bytes, tiles.scratch_bytes)


def avg_pool_backward(window: Window, divisors: Divisors, outer: int, inner: int, dtype: np.dtype) -> KernelCall:
    """Of arrays (dy, dx)."""
    half_format, _, _, sums = kernel_dtype_of(dtype)
    g, counted, planes = merged_geometry(window, divisors, outer, inner)
    if g.OW == 1:  # the stride of a single window means nothing; that of nonoverlapping windows is the fastest
        g = g._replace(sw=g.KW)
    tiles = tiles_of_cells(g, sums.dtype.itemsize)
    constants = half_format, sums, g, tiles, counted
    items = planes * g.D * tiles.row_tiles * tiles.column_tiles * tiles.channel_tiles
    cost_bytes = pooled_bytes(window, outer, inner, dtype)
    return KernelCall("avg_pool_backward", (dtype, dtype), constants, items, cost_bytes, tiles.scratch_bytes)


def merged_geometry(window: Window, divisors: Divisors, outer: int, inner: int) -> tuple[Geometry, Counted, int]:
    """The geometry of a call with as few axes and planes as possible, which cells count, and how many planes it has."""
    g = geometry_of(window, inner)
    counted = Counted(*divisors.begin, *divisors.end, divisors.override)
    for _ in range(2):
        g, counted = _merge_axes(g, counted)
    g, planes = stacked(g, outer)
    return g, counted if planes == outer else counted._replace(end_h=g.H), planes


def _merge_axes(g: Geometry, c: Counted) -> tuple[Geometry, Counted]:
    """Merge rows that one window covers each to one long row, or with channels last to a column of cells.

    Slices of such columns that one window covers each are merged, too.
    """
    W = g.W
    if g.inner > 1 and W == g.KW == 1:
        covered, W = g.KH == g.H and g.OH == 1 and g.ph == 0 and g.D > 1, g.H
        if not covered or _overflows(g.OD, g.KD, g.sd, g.pd, W):
            return g, c
        column = g._replace(H=g.D * W, KH=g.KD * W, sh=g.sd * W, ph=g.pd * W, OH=g.OD)
        counted = c._replace(begin_h=c.begin_d * W, end_h=c.end_d * W)
        return _in_one_slice(column, counted)
    if not (g.KW == W and g.OW == 1 and g.pw == 0 and g.D * g.H > 1) or _overflows(g.OH, g.KH, g.sh, g.ph, W):
        return g, c
    if g.inner > 1:
        column = g._replace(H=g.H * W, KH=g.KH * W, sh=g.sh * W, ph=g.ph * W, W=1, KW=1, sw=1)
        return column, c._replace(begin_h=c.begin_h * W, end_h=c.end_h * W, begin_w=0, end_w=1)
    row = g._replace(W=g.H * W, KW=g.KH * W, sw=g.sh * W, pw=g.ph * W, OW=g.OH)
    row = row._replace(H=g.D, KH=g.KD, sh=g.sd, ph=g.pd, OH=g.OD)
    counted = c._replace(begin_w=c.begin_h * W, end_w=c.end_h * W, begin_h=c.begin_d, end_h=c.end_d)
    return _in_one_slice(row, counted)


def _in_one_slice(g, c):
    return g._replace(D=1, KD=1, sd=1, pd=0, OD=1), c._replace(begin_d=0, end_d=1)


def _overflows(out, kernel, stride, padding, factor):
    return (out * stride + kernel + padding) * factor > LARGEST_SIZE


def _covered_columns(g, columns):
    """Columns of cells under so many columns of windows."""
    return (columns - 1) * g.sw + g.KW


def _balanced(columns, all_columns):
    """So many columns, or fewer: tiles of them are about equal."""
    return ceil_div(all_columns, ceil_div(all_columns, columns))


def tiles_of_windows(g: Geometry, itemsize: int, half: bool) -> AverageTiling:
    """`itemsize` is that of the sums."""
    row = g.W * g.inner
    if _are_rows(g) and not half:
        rows = min(max(tuning.TILES_IN_L2 * tuning.TILE // row, 1), g.OH, tuning.TILE)
        return tiling.average(g, rows, 1, 1, BY_ROWS, 1, itemsize)
    if _may_be_masked(g) and row <= tuning.TILE:
        rows = min(max(tuning.TILE // row, 1), g.OH)
        return tiling.average(g, rows, g.OW, g.inner, BY_MASK, g.W, itemsize)
    if _may_be_read_in_place(g, VECTOR_BYTES // itemsize):
        channels = min(g.inner, tuning.TILE)
        columns = _balanced(min(max(tuning.TILE // channels, 1), g.OW), g.OW)
        rows = min(max(tuning.TILES_IN_L2 * tuning.TILE // (columns * channels * g.sw * g.sh), 1), g.OH)
        return tiling.average(g, rows, columns, channels, IN_PLACE, 1, itemsize)
    method, channels = BY_WINDOWS, g.inner
    if max(tuning.LEAST_LONG, 2 * g.W) >= g.KW:
        if g.sw == 1:
            method = BY_NEIGHBOURS
        elif g.inner == 1 and g.sw in LOADED_STRIDES:
            method = BY_STRIDED_LOADS
    columns = _columns_of_windows(g, channels)
    while _covered_columns(g, columns) * channels > tuning.MOST_SUMS_OF_A_ROW and channels > WIDEST_VECTOR:
        channels = ceil_div(channels, 2)
        columns = _columns_of_windows(g, channels)
    chunk = _covered_columns(g, columns)
    if method == BY_WINDOWS or chunk * channels > tuning.MOST_SUMS_OF_A_ROW:
        method, channels = BY_WINDOWS, min(g.inner, tuning.TILE)
        chunk = max(tuning.TILE // channels, 1)
        columns = min(max((chunk - g.KW) // g.sw + 1, 1), g.OW)
        chunk = min(chunk, _covered_columns(g, columns))
    columns = _balanced(columns, g.OW)
    cells = min(_covered_columns(g, columns), g.W) * channels * g.sh
    rows = min(max(tuning.TILES_IN_L2 * tuning.TILE // cells, 1), g.OH)
    return tiling.average(g, rows, columns, channels, method, chunk, itemsize)


def _are_rows(g):
    """Whether each window is one row of cells of one channel, and there is no padding."""
    alone = g.OW == g.inner == g.D == g.KD == g.OD == g.KH == g.sh == 1 and g.pd == g.ph == g.pw == 0
    return alone and g.KW == g.W and g.OH == g.H


def _may_be_masked(g):
    """Whether a row of windows has as many elements as one of cells, or half as many: then rows are one long row."""
    strided = g.sw == 1 or (g.sw == 2 and g.inner == 1)
    return strided and g.OW * g.sw == g.W and g.pw < g.KW <= tuning.MOST_TAPS_MASKED


def _may_be_read_in_place(g, width):
    """Whether windows share few cells, and each of them has vectors of its own."""
    reads = g.KH * g.KW * g.OH * g.OW
    return g.D == g.KD == 1 and g.inner >= width and g.W > 1 and reads <= tuning.MOST_READS * g.H * g.W


def _columns_of_windows(g, channels):
    """Columns whose sums stay in the L1 cache, unless windows overlap far."""
    return min(max(tuning.TILE // (channels * g.sw), 2 * g.KW // g.sw, 1), g.OW)


def tiles_of_cells(g: Geometry, itemsize: int) -> AverageBackwardTiling:
    """`itemsize` is that of the sums."""
    most_windows, channels, chunk = ceil_div(g.KW, g.sw), g.inner, 0

    def columns_of(channels):
        return min(max(tuning.TILE // channels, 2 * (most_windows - 1) * g.sw, 1), g.W)

    def elements(columns, channels):
        return (min((columns - 1) // g.sw + 2, columns) + most_windows) * channels

    def are_too_many(columns, channels):
        return max(elements(columns, channels), columns * channels) > tuning.MOST_SUMS_OF_A_ROW

    columns = columns_of(channels)
    while are_too_many(columns, channels) and channels > VECTOR_BYTES:
        channels = ceil_div(channels, 2)
        columns = columns_of(channels)
    too_long = most_windows > max(tuning.LEAST_LONG, 2 * g.W)
    if too_long or are_too_many(columns, channels):
        channels = min(g.inner, tuning.TILE)
        columns = min(max(tuning.TILE // channels, 1), g.W)
        chunk = min(max(tuning.TILE // channels, 1), g.OW)
    columns = _balanced(columns, g.W)
    rows = max(tuning.TILES_IN_L2 * tuning.TILE // (columns * channels), 1)
    rows = min(ceil_div(rows, g.sh) * g.sh, g.H)
    return tiling.average_backward(g, rows, columns, channels, chunk, itemsize)
