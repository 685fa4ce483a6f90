"""Which kernel copies or adds columns, and its tiles: of windows for im2col, of cells for col2im."""

from __future__ import annotations

from math import prod

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import Geometry, ceil_div
from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of
from fastpool.backends.numba.plan.call import KernelCall
from fastpool.backends.numba.plan.geometry import geometry_of
from fastpool.backends.numba.tiling import columns as tiling
from fastpool.backends.numba.tiling.columns import Col2imTiling, Im2colTiling, Im2rowTiling, Row2imTiling
from fastpool.window import Window


def im2col(window: Window, channels_last: bool, cols_steps: tuple[int, ...], itemsize: int, fresh: bool) -> KernelCall:
    """Of arrays (x, cols, fill_value), viewed as unsigned integers, since elements are only moved: fewer kernels.

    With `channels_last`, x has its channels after its spatial axes; `cols_steps` are elements from one image, channel,
    tap and position of the columns to the next; `fresh` columns are a new array.
    """
    dtype = np.dtype(f"u{itemsize}")
    tiles: Im2colTiling | Im2rowTiling
    if _windows_are_rows(cols_steps):
        kernel, (g, tiles, items) = "im2row", im2row_tiles(window, channels_last, cols_steps, itemsize)
    else:
        nontemporal = _elements_of_columns(window) * itemsize > tuning.LARGE_COLUMNS and not fresh
        kernel, (g, tiles, items) = "im2col", im2col_tiles(window, channels_last, cols_steps, itemsize, nontemporal)
    return KernelCall(kernel, (dtype,) * 3, (g, tiles), items, _column_bytes(window, dtype), tiles.scratch_bytes)


def col2im(window: Window, channels_last: bool, cols_steps: tuple[int, ...], dtype: np.dtype) -> KernelCall:
    """Of arrays (cols, dx)."""
    half_format, _, _, sums = kernel_dtype_of(dtype)
    tiles: Col2imTiling | Row2imTiling
    if _windows_are_rows(cols_steps):
        kernel, (g, tiles, items) = "row2im", row2im_tiles(window, channels_last, cols_steps, sums.dtype.itemsize)
    else:
        kernel, (g, tiles, items) = "col2im", col2im_tiles(window, channels_last, cols_steps, sums.dtype.itemsize)
    constants = half_format, sums, g, tiles
    return KernelCall(kernel, (dtype, dtype), constants, items, _column_bytes(window, dtype), tiles.scratch_bytes)


def _windows_are_rows(cols_steps):
    """Whether the channels and taps of a window are contiguous. Otherwise, windows or images are."""
    _, channel, tap, position = cols_steps
    return min(channel, tap) < position


def _elements_of_columns(window):
    return window.batch * window.channels * window.volume * window.positions


def _column_bytes(window, dtype):
    """The bytes of the columns and of x."""
    return dtype.itemsize * (_elements_of_columns(window) + window.batch * window.channels * prod(window.size))


def _x_steps(window, channels_last):
    """Elements of x from image to image, channel to channel and cell to cell."""
    channels, plane = window.channels, prod(window.size)
    return (plane * channels, 1, channels) if channels_last else (plane * channels, plane, 1)


def _planes(window, inner):
    """Planes that have columns of their own: images may lie inside the columns."""
    return window.channels * (1 if inner > 1 else window.batch)


def im2col_tiles(
    window: Window, channels_last: bool, cols_steps: tuple[int, ...], itemsize: int, nontemporal: bool = False
) -> tuple[Geometry, Im2colTiling, int]:
    """The geometry, the tiles and how many of them.

    A tile has all taps of its windows, unless they reach too far, and all images inside the columns, unless they are
    very many.
    """
    *steps, inner = cols_steps
    g, x_steps = geometry_of(window, inner), _x_steps(window, channels_last)

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
    window: Window, channels_last: bool, cols_steps: tuple[int, ...], itemsize: int
) -> tuple[Geometry, Col2imTiling, int]:
    """The geometry, the tiles and how many of them. `itemsize` is that of the sums."""
    *steps, inner = cols_steps
    g, x_steps = geometry_of(window, inner), _x_steps(window, channels_last)

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


def _channels_of_rows(window, channels_last, cols_steps):
    """The channels outside the taps of a row, those inside them, and the steps of x: see `Im2rowTiling`."""
    image, channel, cell = _x_steps(window, channels_last)
    if cols_steps[1] == 1:
        return 1, window.channels, (image, 0, cell, channel if window.channels > 1 else 1)
    return window.channels, 1, (image, channel, cell, 1)


def im2row_tiles(
    window: Window, channels_last: bool, cols_steps: tuple[int, ...], itemsize: int
) -> tuple[Geometry, Im2rowTiling, int]:
    """The geometry, the tiles and how many of them.

    A tile has all lines and inner channels of its windows, unless they are very many or long.
    """
    g, most = geometry_of(window, 1), tuning.MOST_COLUMNS_PACKED
    most_with_halo = tuning.MOST_GROWTH * most
    outer_channels, inner_channels, x_steps = _channels_of_rows(window, channels_last, cols_steps)
    fits = g.KW * inner_channels <= most_with_halo
    along, tile_inner = (g.KW if g.dw == 1 and fits else 1), (inner_channels if fits else min(inner_channels, most))
    lines = outer_channels * g.KD * g.KH * g.KW // along
    columns = max(most // (lines * tile_inner * g.sw), tuning.HALOS_OF_COLUMNS * (along - 1) // g.sw, 1)
    columns = min(columns, g.OW)
    tile_lines = min(max(most_with_halo // (((columns - 1) * g.sw + along) * tile_inner), 1), lines)
    tile = columns, tile_lines, tile_inner
    tiles = tiling.im2row(g, x_steps, outer_channels, inner_channels, along, tile, itemsize)
    items = window.batch * g.OD * g.OH * tiles.column_tiles * tiles.line_tiles * tiles.inner_tiles
    return g, tiles, items


def row2im_tiles(
    window: Window, channels_last: bool, cols_steps: tuple[int, ...], itemsize: int
) -> tuple[Geometry, Row2imTiling, int]:
    """The geometry, the tiles and how many of them. `itemsize` is that of the sums.

    A tile has all channels of some rows of cells, unless these are very many: rows of windows are then read from end to
    end.
    """
    g, most = geometry_of(window, 1), tuning.MOST_COLUMNS_PACKED
    outer_channels, inner_channels, x_steps = _channels_of_rows(window, channels_last, cols_steps)
    tile_inner = min(inner_channels, most)
    columns = min(max(most // tile_inner, 1), g.W)
    pitch = tiling.pitch_of_sums(columns, tile_inner, itemsize)
    halos = tuning.HALOS_OF_COLUMNS * (g.KH - 1) * g.dh
    least = min(max(halos, 1), g.H, max(most // pitch, 1))
    tile_outer = min(max(tuning.MOST_GROWTH * most // (least * pitch), 1), outer_channels)
    rows = min(max(most // (tile_outer * pitch), least), g.H)
    tiles = tiling.row2im(g, x_steps, outer_channels, inner_channels, (tile_outer, tile_inner, rows, columns), itemsize)
    items = window.batch * g.D * tiles.outer_tiles * tiles.inner_tiles * tiles.row_tiles * tiles.column_tiles
    return g, tiles, items
