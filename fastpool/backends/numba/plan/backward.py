"""Which kernel takes the gradient of a max pool, in which tiles."""

from __future__ import annotations

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import VECTOR_BYTES, Geometry, all_have_a_cell, ceil_div
from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of
from fastpool.backends.numba.plan.call import KernelCall, pooled_bytes
from fastpool.backends.numba.plan.geometry import geometry_of, stacked
from fastpool.backends.numba.tiling import backward as tiling
from fastpool.backends.numba.tiling.backward import PLANES, VECTOR_STORE_KW, GatherTiling, ScatterTiling
from fastpool.dtypes import is_half
from fastpool.window import Window


def max_pool_backward(window: Window, outer: int, inner: int, dtype: np.dtype) -> KernelCall:
    """Of arrays (dy, argmax, dx)."""
    half_format, _, _, sums = kernel_dtype_of(dtype)
    dtypes, cost_bytes = (dtype, window.argmax_dtype, dtype), pooled_bytes(window, outer, inner, dtype)
    if window.nonoverlapping and (inner > 1 or window.kernel[2] in VECTOR_STORE_KW):
        g, planes = stacked(geometry_of(window, inner), outer)
        items = planes * g.OD * g.OH
        constants = g, tiling.nonoverlapping(g, dtype.itemsize)
        return KernelCall("max_pool_backward_nonoverlapping", dtypes, constants, items, cost_bytes, 0)
    g, scattered, tiles_of_plane = scatter(window, inner, dtype)
    independent = max(inner, outer if scattered.most_planes > 1 else 1)  # channels, or planes
    if window.volume <= tuning.MOST_GATHERED and not (is_half(dtype) and independent > tuning.MOST_CHANNELS_GATHERED):
        gathered = gather(window, outer, inner, dtype)
        if gathered is not None:
            g, tiles, items = gathered
            constants = half_format, sums, g, tiles
            return KernelCall("max_pool_backward_gather", dtypes, constants, items, cost_bytes, tiles.scratch_bytes)
    constants = half_format, g, scattered
    return KernelCall(
        "max_pool_backward_scatter", dtypes, constants, outer * tiles_of_plane, cost_bytes, scattered.scratch_bytes
    )


def gather(window: Window, outer: int, inner: int, dtype: np.dtype) -> tuple[Geometry, GatherTiling, int] | None:
    """The geometry, the tiles and how many of them; None where these would take too much scratch."""
    g, planes = stacked(geometry_of(window, inner), outer)
    in_place = not is_half(dtype) and all(_fills(*g.axis(i)) for i in range(3))
    blocks, sums = tiling.stride_blocks(g), kernel_dtype_of(dtype).sums.dtype
    rows, columns = _gather_tile(g, blocks, in_place)
    tiles = tiling.gather(g, blocks, rows, columns, in_place, sums.itemsize, window.argmax_dtype.itemsize)
    elements = max(blocks.slices * tiles.slice_step, rows * tiles.phases * tiles.packed_columns * g.inner)
    if elements > tuning.MOST_GATHER_SCRATCH or tiles.scratch_bytes > tuning.MOST_SCRATCH:
        return None
    return g, tiles, planes * g.D * tiles.row_tiles * tiles.column_tiles


def _gather_tile(g, blocks, in_place):
    """Rows and columns of stride blocks in a tile."""
    stride = g.inner * g.sw * g.sh
    if in_place:  # a tile costs no more than its cells
        columns = min(max(tuning.TILE // stride, 1), blocks.columns)
        rows = tuning.TILE // (columns * stride) if columns == blocks.columns else 1
    else:
        columns = min(max(tuning.TILE // (g.inner * g.sw), blocks.back_w, 1), blocks.columns)
        rows = max(tuning.TILE // ((columns + blocks.back_w) * stride), blocks.back_h)
    return min(max(rows, 1), blocks.rows), columns


def _fills(size, kernel, stride, padding, dilation, out):
    """Whether a window begins in every stride of an axis, and each window has a real tap."""
    return size <= out * stride and all_have_a_cell(size, kernel, stride, padding, dilation, out)


def scatter(window: Window, inner: int, dtype: np.dtype) -> tuple[Geometry, ScatterTiling, int]:
    """The geometry, the tiles, and how many of them a plane has. Few windows shall reach into two tiles.

    So planes are cut by channels, then rows. Two-byte floats have their sums in scratch: rows that do not fit are cut
    by columns, then channels.
    """
    g, half = geometry_of(window, inner), is_half(dtype)
    rows, columns, channels, planes = g.D * g.H, g.W, _tile_channels(g, dtype), 1
    halo = (g.KD - 1) * g.dd * g.H + (g.KH - 1) * g.dh
    most_rows = max(tuning.MOST_SUMS // (g.W * channels), tuning.HALOS_SCATTERED * halo, 1)
    if half:
        most = tuning.MOST_SUMS_IN_SCRATCH
        most_rows = max(min(most_rows, most // (g.W * channels)), 1)
        columns, channels = min(max(most // channels, 1), g.W), min(channels, most)
    row_tiles = ceil_div(rows, most_rows)
    if row_tiles == inner == 1 and columns == g.W:
        planes = PLANES
    if half:
        planes = max(min(planes, tuning.MOST_SUMS_IN_SCRATCH // (rows * g.W)), 1)
    sums_itemsize = kernel_dtype_of(dtype).sums.dtype.itemsize if half else 0
    tile_rows, argmax_itemsize = ceil_div(rows, row_tiles), window.argmax_dtype.itemsize
    tiles = tiling.scatter(g, tile_rows, columns, planes, channels, argmax_itemsize, sums_itemsize)
    return g, tiles, tiles.row_tiles * tiles.column_tiles * tiles.channel_tiles


def _tile_channels(g, dtype):
    """Channels of a tile: whole cache lines of them, and as few as it takes for the plane's sums to fit."""
    line = VECTOR_BYTES // dtype.itemsize
    most = max(tuning.MOST_SUMS // (g.D * g.H * g.W), tuning.LEAST_CHANNELS)
    each = ceil_div(g.inner, ceil_div(g.inner, most))
    return min(ceil_div(each, line) * line, g.inner)
