"""Tiles of im2col and col2im, and how a thread's scratch is divided."""

from typing import NamedTuple

from fastpool.backends.numba.geometry import Geometry, ceil_div
from fastpool.backends.numba.tiling.scratch import in_cache_lines, vector_width


class Im2colTiling(NamedTuple):
    """For `im2col`: tiles of `tile_rows` by `tile_columns` windows of one channel, and of `tile_images` images.

    Columns have `inner` images for each window. A tile with a part of them has a single window.
    """

    x_image: int  # elements of x from one image, channel or cell to the next
    x_channel: int
    x_cell: int
    cols_image: int  # elements of the columns from one image, channel or tap to the next
    cols_channel: int
    cols_tap: int
    channels: int
    tile_rows: int
    tile_columns: int
    taps_down: int  # taps of a window that are packed together: rows of them, and taps of a row
    taps_along: int
    tile_images: int
    image_tiles: int
    row_tiles: int
    column_tiles: int
    rows_below: int  # rows of cells of one phase of the stride below one for each row of windows
    reach: int  # cells from the first of the taps along a row to the last
    packs_taps: bool  # the cells of each tap along a row are packed before they are copied to the columns
    packed: int  # elements of the packed cells of a tile, with their padding
    packed_tap: int  # elements of the packed cells of one tap along a row
    elements: int  # all of scratch
    nontemporal: bool  # columns are written by nontemporal stores
    scratch_bytes: int


def im2col(
    g: Geometry,
    x_steps: tuple[int, int, int],
    cols_steps: tuple[int, int, int],
    channels: int,
    tile: tuple[int, int, int, int, int],
    itemsize: int,
    nontemporal: bool = False,
) -> Im2colTiling:
    """`tile` has rows and columns of windows, taps down and along them, and images; `..._steps` are those above."""
    (rows, columns, taps_down, taps_along, images), width = tile, vector_width(itemsize)
    below, reach = (taps_down - 1) * g.dh // g.sh, (taps_along - 1) * g.dw
    # Every second cell is loaded by two vectors, of which less than two may lie past the last row; stores spill less.
    packed = (rows + below) * ((columns - 1) * g.sw + reach + 1) * images + 2 * width
    packed_tap = (rows + below) * columns * images + width  # stores spill by less than a vector
    elements = packed + taps_along * packed_tap
    return Im2colTiling(
        *x_steps,
        *cols_steps,
        channels,
        *tile,
        image_tiles=ceil_div(g.inner, images),
        row_tiles=ceil_div(g.OH, rows),
        column_tiles=ceil_div(g.OW, columns),
        rows_below=below,
        reach=reach,
        packs_taps=taps_down > 1 or g.sw > 1,
        packed=packed,
        packed_tap=packed_tap,
        elements=elements,
        nontemporal=nontemporal,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )


class Col2imTiling(NamedTuple):
    """For `col2im`: tiles of cells of one channel and `tile_images` images.

    A tile has `tile_rows` rows of cells. A row is divided into `tile_columns` columns of `phases` cells each: the
    stride, so that neighbouring windows add a tap to neighbouring columns; or 1, where the stride is long.
    """

    x_image: int  # elements of dx from one image, channel or cell to the next
    x_channel: int
    x_cell: int
    cols_image: int  # elements of the columns from one image, channel or tap to the next
    cols_channel: int
    cols_tap: int
    channels: int
    tile_rows: int
    tile_columns: int
    phases: int
    tile_images: int
    image_tiles: int
    row_tiles: int
    column_tiles: int
    first_column: int  # the first column with a cell: they are counted from the leading padding
    all_columns: int  # columns with a cell
    column_step: int  # columns from one window to the next
    pitch: int  # elements from the sums of one phase of a row to those of the next
    elements: int  # all sums
    scratch_bytes: int


def col2im(
    g: Geometry,
    x_steps: tuple[int, int, int],
    cols_steps: tuple[int, int, int],
    channels: int,
    tile: tuple[int, int, int, int],
    itemsize: int,
) -> Col2imTiling:
    """`tile` has rows, columns, phases and images; `..._steps` are those above; `itemsize` is that of the sums."""
    (rows, columns, phases, images), width = tile, vector_width(itemsize)
    pitch = columns * images + width  # zeros that are added past the end of a row change no other row
    elements = rows * phases * pitch + 2 * width
    first_column = g.pw // phases
    all_columns = (g.pw + g.W - 1) // phases + 1 - first_column
    return Col2imTiling(
        *x_steps,
        *cols_steps,
        channels,
        *tile,
        image_tiles=ceil_div(g.inner, images),
        row_tiles=ceil_div(g.H, rows),
        column_tiles=ceil_div(all_columns, columns),
        first_column=first_column,
        all_columns=all_columns,
        column_step=g.sw // phases,
        pitch=pitch,
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )
