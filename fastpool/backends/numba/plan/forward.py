"""Which kernel takes a max pool, in which tiles."""

from __future__ import annotations

from math import prod

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import VECTOR_BYTES, WIDEST_VECTOR, Geometry, ceil_div
from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of
from fastpool.backends.numba.plan.call import KernelCall, most_threads, pooled_bytes
from fastpool.backends.numba.plan.geometry import geometry_of, stacked
from fastpool.backends.numba.tiling import forward as tiling
from fastpool.backends.numba.tiling.forward import DirectTiling, SeparableTiling, VanHerkTiling
from fastpool.dtypes import is_half
from fastpool.window import Window


def max_pool(
    window: Window, outer: int, inner: int, dtype: np.dtype, argmax_dtype: np.dtype | None, threads: int
) -> KernelCall:
    """Of arrays (x, y, argmax); `argmax_dtype` is the dtype of the argmax, or None."""
    return _pool(window, outer, inner, dtype, argmax_dtype, threads, reverse=False)


def min_pool(
    window: Window, outer: int, inner: int, dtype: np.dtype, argmax_dtype: np.dtype | None, threads: int
) -> KernelCall:
    """Of arrays (x, y, argmin)."""
    return _pool(window, outer, inner, dtype, argmax_dtype, threads, reverse=True)


def _pool(
    window: Window, outer: int, inner: int, dtype: np.dtype, argmax_dtype: np.dtype | None, threads: int, reverse: bool
) -> KernelCall:
    itemsizes = dtype.itemsize, 0 if argmax_dtype is None else argmax_dtype.itemsize
    cost_bytes = pooled_bytes(window, outer, inner, dtype)
    kernel = "max_pool_van_herk"
    planned = van_herk(window, outer, inner, itemsizes, min(threads, most_threads(cost_bytes)))
    if planned is None:
        kernel, planned = "max_pool_separable", separable(window, outer, inner, itemsizes, is_half(dtype))
    if planned is None:
        kernel, planned = "max_pool_direct", direct(window, outer, inner, itemsizes)
    g, tiles, items = planned
    half_format, lowest, flip, _ = kernel_dtype_of(dtype)
    constants = half_format, flip if reverse else type(flip)(0), lowest, g, tiles
    return KernelCall(kernel, (dtype, dtype, argmax_dtype), constants, items, cost_bytes, tiles.scratch_bytes)


def separable(
    window: Window, outer: int, inner: int, itemsizes: tuple[int, int], half: bool
) -> tuple[Geometry, SeparableTiling, int] | None:
    """The geometry, the tiles and how many of them; None where windows are better read in place.

    `itemsizes` are the bytes of a value and of an offset.
    """
    g, planes = stacked(geometry_of(window, inner), outer)
    rows, columns, packed = _first_tile(g, sum(itemsizes))
    if packed > tuning.MOST_PACKED or _packing_does_not_pay(window, g, packed, itemsizes[0], half):
        return None
    reads = min(g.D, g.KD) * min(g.H, g.KH) * min(g.W, g.KW) * inner  # of a window in place, at most
    tiles = tiling.separable(g, rows, columns, *itemsizes)
    while tiles.scratch_bytes > tuning.MOST_SCRATCH:
        if rows * columns * reads <= tiles.maxima:
            return None
        rows, columns = _halved(rows, columns, g)
        tiles = tiling.separable(g, rows, columns, *itemsizes)
    return g, tiles, planes * g.OD * tiles.row_tiles * tiles.column_tiles


def _first_tile(g, itemsize):
    """Rows and columns of windows in a tile, and how many elements are packed for it.

    `itemsize` is that of a value and its offset.

    Scratch stays in the caches close to the core, and tiles overlap little: a large part of a tile is not its halo.
    """
    reach_h, reach_w = (g.KH - 1) * g.dh, (g.KW - 1) * g.dw
    tile = tuning.TILE
    if g.sw == 1 and reach_h >= g.sh and g.W * g.inner >= tuning.LONG_ROW:
        tile = max(tile, tuning.TILE_BYTES // itemsize)
    for halos_h, halos_w in ((tuning.HALOS_DOWN, tuning.HALOS_ALONG), (1, 1)):
        columns = min(max(tile // (g.inner * g.sw), halos_w * reach_w // g.sw, 1), g.OW)
        row = tiling.packed_row_elements(g, columns)
        elements = tile if reach_h < g.sh else tuning.TILES_IN_L2 * tile
        rows = min(max(elements // (row * g.sh), halos_h * reach_h // g.sh, 1), g.OH)
        packed = min(g.KD, g.D) * tiling.packed_rows(g, rows) * row
        if packed <= tuning.MOST_PACKED_BY_HALOS:
            break
    return rows, columns, packed


def _packing_does_not_pay(window, g, packed, itemsize, half):
    """Whether windows share few cells, each has vectors of its own, and packed cells would gain nothing.

    They gain where a tile of them stays in the caches, and rows hold many windows of single elements.
    """
    width, most_reads = VECTOR_BYTES // itemsize, tuning.MOST_READS_OF_HALF if half else tuning.MOST_READS
    has_vectors = g.inner >= width or (g.inner == g.dw == 1 and width <= g.KW)
    shares_few = window.volume * window.positions <= most_reads * prod(window.size)
    return has_vectors and shares_few and (packed > tuning.MOST_PACKED_IN_CACHE or g.inner > 1 or g.OW == 1)


def _halved(rows, columns, g):
    """A smaller tile: cut along the axis where it loses less to its halo."""
    reach_h, reach_w = (g.KH - 1) * g.dh, (g.KW - 1) * g.dw
    if columns == 1 or (rows > 1 and rows * g.sh * (reach_w + g.sw) > columns * g.sw * (reach_h + g.sh)):
        return ceil_div(rows, 2), columns
    return rows, ceil_div(columns, 2)


def direct(window: Window, outer: int, inner: int, itemsizes: tuple[int, int]) -> tuple[Geometry, DirectTiling, int]:
    """The geometry, and pieces of rows of windows that are read in place; and how many."""
    g, planes = stacked(geometry_of(window, inner), outer)
    columns = min(max(tuning.CELLS_READ // (window.volume * inner), 1), g.OW)
    tiles = tiling.direct(g, columns, *itemsizes)
    return g, tiles, planes * g.OD * g.OH * tiles.column_tiles


def suits_van_herk(window: Window, inner: int) -> bool:
    """Whether many tall windows lie one row apart, in wide rows of 2-D arrays: see `tuning.LEAST_TALL`."""
    KH, (_, OH, OW) = window.kernel[1], window.out
    row_by_row = window.size[0] == window.kernel[0] == window.out[0] == window.stride[1] == window.dilation[1] == 1
    return (
        row_by_row
        and window.before[0] == 0
        and KH >= tuning.LEAST_TALL
        and OH >= 2 * KH
        and OW * inner >= tuning.LEAST_WIDE
    )


def van_herk(
    window: Window, outer: int, inner: int, itemsizes: tuple[int, int], threads: int
) -> tuple[Geometry, VanHerkTiling, int] | None:
    """The geometry, the tiles and how many of them, for tall windows one row apart.

    None for other windows, and where scratch would not hold their rows.
    """
    if not suits_van_herk(window, inner):
        return None
    g = geometry_of(window, inner)
    reach_w = (g.KW - 1) * g.dw
    halos = min(tuning.HALOS_ALONG * reach_w // g.sw, tuning.MOST_PACKED // ((g.KH + 1) * inner))
    columns = min(max(tuning.KEPT_MAXIMA // (g.KH * inner), halos, tuning.LEAST_WIDE // inner + 1), g.OW)
    columns = _with_whole_vectors(columns, g)
    while tiling.van_herk(g, g.OH, columns, *itemsizes).scratch_bytes > tuning.MOST_SCRATCH:
        half = columns // 2
        fewer = _with_whole_vectors(half, g) if half * inner >= WIDEST_VECTOR else columns
        # Windows that are read in place touch no more cells than are packed for so few of them.
        if fewer >= columns or fewer * window.volume <= fewer * g.sw + 2 * reach_w:
            return None
        columns = fewer
    row_tiles = max(g.OH // (tuning.WINDOWS_DOWN * g.KH), min(ceil_div(threads, outer), g.OH // g.KH))
    tiles = tiling.van_herk(g, ceil_div(g.OH, row_tiles), columns, *itemsizes)
    return g, tiles, outer * tiles.row_tiles * tiles.column_tiles


def _with_whole_vectors(columns, g):
    """So many columns, or more, that the last tile of a row is at least one vector wide."""
    while 0 < g.OW % columns * g.inner < WIDEST_VECTOR:
        columns += 1
    return columns
