"""Tiles of im2col and col2im, which go over windows and over cells."""

from __future__ import annotations

from math import prod

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import Geometry, ceil_div
from fastpool.backends.numba.kernel_dtypes import seen_by_kernels
from fastpool.backends.numba.plan.call import KernelCall, geometry_of
from fastpool.backends.numba.tiling import columns as tiling
from fastpool.backends.numba.tiling.columns import Col2imTiling, Im2colTiling
from fastpool.window import Window


def im2col(
    window: Window, inside: bool, cols_steps: tuple[int, ...], itemsize: int, fill_bits: int, nontemporal: bool
) -> KernelCall:
    """Of arrays (x, cols), seen as unsigned integers, since elements are only moved: fewer kernels.

    Images may lie `inside` the columns; `fill_bits` are the value in the padding; `nontemporal` tells whether columns
    are written past the caches.
    """
    dtype = np.dtype(f"u{itemsize}")
    g, tiles, items = im2col_tiles(window, inside, cols_steps, itemsize, nontemporal)
    constants = dtype.type(fill_bits), g, tiles
    return KernelCall("im2col", (dtype, dtype), constants, items, _column_bytes(window, dtype), tiles.scratch_bytes)


def col2im(window: Window, inside: bool, cols_steps: tuple[int, ...], dtype: np.dtype) -> KernelCall:
    """Of arrays (cols, dx)."""
    seen = seen_by_kernels(dtype)
    g, tiles, items = col2im_tiles(window, inside, cols_steps, seen.sums.dtype.itemsize)
    constants = seen.half_format, seen.sums, g, tiles
    return KernelCall("col2im", (dtype, dtype), constants, items, _column_bytes(window, dtype), tiles.scratch_bytes)


def _column_bytes(window, dtype):
    planes = window.batch * window.channels
    return dtype.itemsize * planes * (prod(window.size) + window.volume * window.positions)


def _x_steps(window, inside):
    """Elements of x from image to image, channel to channel and cell to cell."""
    channels, plane = window.channels, prod(window.size)
    return (plane * channels, 1, channels) if inside else (plane * channels, plane, 1)


def _planes(window, inner):
    """Planes that have columns of their own: images may lie inside the columns."""
    return window.channels * (1 if inner > 1 else window.batch)


def im2col_tiles(
    window: Window, inside: bool, cols_steps: tuple[int, ...], itemsize: int, nontemporal: bool = False
) -> tuple[Geometry, Im2colTiling, int]:
    """The geometry, the tiles and how many of them.

    A tile has all taps of its windows, unless they reach too far, and all images inside the columns, unless they are
    very many.
    """
    *steps, inner = cols_steps
    g, x_steps = geometry_of(window, inner), _x_steps(window, inside)

    def tiles_of(rows, columns, down, along, images):
        tile = rows, columns, down, along, images
        return tiling.im2col(g, x_steps, tuple(steps), window.channels, tile, itemsize, nontemporal)

    most, along, reach_w = tuning.MOST_COLUMNS_PACKED, g.KW, (g.KW - 1) * g.dw
    most_with_halo = tuning.MOST_GROWTH * most
    columns = min(max(most // (inner * max(g.KW, g.sw)), tuning.HALOS_OF_COLUMNS * reach_w // g.sw, 1), g.OW)
    too_large = tiles_of(1, columns, 1, along, inner).scratch_bytes > tuning.MOST_SCRATCH
    if (columns * g.sw + reach_w) * inner > most_with_halo or too_large:
        along, reach_w, columns = 1, 0, min(max(most // (inner * g.sw), 1), g.OW)
    packed = max(columns * along, columns * g.sw + reach_w) * inner  # elements for a row of windows
    down, below = g.KH if along == g.KW else 1, (g.KH - 1) * g.dh // g.sh
    rows = min(max(most // packed, tuning.HALOS_OF_COLUMNS * below, 1), g.OH)
    if (rows + below) * packed > most_with_halo:
        down, rows = 1, min(max(most // packed, 1), g.OH)
    tiles = tiles_of(rows, columns, down, along, inner)
    while tiles.tile_images > 1 and tiles.scratch_bytes > tuning.MOST_SCRATCH:
        tiles = tiles_of(rows, 1, down, along, ceil_div(tiles.tile_images, 2))
    items = _planes(window, inner) * tiles.image_tiles * g.OD * tiles.row_tiles * tiles.column_tiles
    return g, tiles, items


def col2im_tiles(
    window: Window, inside: bool, cols_steps: tuple[int, ...], itemsize: int
) -> tuple[Geometry, Col2imTiling, int]:
    """The geometry, the tiles and how many of them. `itemsize` is that of the sums."""
    *steps, inner = cols_steps
    g, x_steps = geometry_of(window, inner), _x_steps(window, inside)

    def tiles_of(rows, columns, phases, images):
        return tiling.col2im(g, x_steps, tuple(steps), window.channels, (rows, columns, phases, images), itemsize)

    phases, images = g.sw if g.sw <= tuning.MOST_PHASES else 1, inner
    while tiles_of(1, 1, phases, images).scratch_bytes > tuning.MOST_SCRATCH:
        phases, images = 1, images if phases > 1 else ceil_div(images, 2)
    most, all_columns = tuning.MOST_COLUMNS_PACKED, tiles_of(1, 1, phases, images).all_columns
    columns = min(max(most // (inner * phases), 1), all_columns) if images == inner else 1
    rows = min(max(most // (phases * tiles_of(1, columns, phases, images).pitch), 1), g.H)
    tiles = tiles_of(rows, columns, phases, images)
    return g, tiles, _planes(window, inner) * tiles.image_tiles * g.D * tiles.row_tiles * tiles.column_tiles
