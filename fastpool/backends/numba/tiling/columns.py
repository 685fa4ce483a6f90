"""Tiles of im2col and col2im, whose windows are columns or rows, and how a thread's scratch is divided."""

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
    # 2 * width: where every second cell is loaded, vectors are read up to two past the last row. Stores spill less.
    packed = (rows + below) * ((columns - 1) * g.sw + reach + 1) * images + 2 * width
    packed_tap = (rows + below) * columns * images + width  # into which the last store spills
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


class Im2rowTiling(NamedTuple):
    """For `im2row`: tiles of `tile_columns` windows of one row of windows.

    A window is a row of the columns: for each outer channel its taps, and for each tap its inner channels. Either are
    all channels of x; of the others there is one. A line is what neighbouring windows have of one outer channel and of
    `taps_along` taps, which are those of a row of taps, or one.
    """

    x_image: int  # elements of x from one image, outer channel, cell or inner channel to the next
    x_outer: int
    x_cell: int
    x_inner: int
    lines: int
    inner_channels: int
    taps_along: int
    row: int  # elements of a window
    tile_columns: int
    tile_lines: int
    tile_inner: int
    column_tiles: int
    line_tiles: int
    inner_tiles: int
    elements: int  # all of scratch
    scratch_bytes: int


def im2row(
    g: Geometry,
    x_steps: tuple[int, int, int, int],
    outer_channels: int,
    inner_channels: int,
    taps_along: int,
    tile: tuple[int, int, int],
    itemsize: int,
) -> Im2rowTiling:
    """`tile` has windows, lines and inner channels; `x_steps` are those above."""
    columns, tile_lines, tile_inner = tile
    taps = outer_channels * g.KD * g.KH * g.KW
    cells = (columns - 1) * g.sw + taps_along
    elements = tile_lines * cells * tile_inner + 2 * vector_width(itemsize)
    return Im2rowTiling(
        *x_steps,
        taps // taps_along,
        inner_channels,
        taps_along,
        taps * inner_channels,
        *tile,
        column_tiles=ceil_div(g.OW, columns),
        line_tiles=ceil_div(taps // taps_along, tile_lines),
        inner_tiles=ceil_div(inner_channels, tile_inner),
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )


class Row2imTiling(NamedTuple):
    """For `row2im`: tiles of cells of some outer or inner channels, which are those of `Im2rowTiling`."""

    x_image: int  # elements of dx from one image, outer channel, cell or inner channel to the next
    x_outer: int
    x_cell: int
    x_inner: int
    outer_channels: int
    inner_channels: int
    taps_along: int  # taps of a row of the window that are added to neighbouring sums: all of them, or one
    row: int  # elements of a window
    tile_outer: int
    tile_inner: int
    tile_rows: int
    tile_columns: int
    outer_tiles: int
    inner_tiles: int
    row_tiles: int
    column_tiles: int
    pitch: int  # elements from the sums of a row of cells to those of the next
    elements: int  # all sums
    scratch_bytes: int


def pitch_of_sums(columns: int, inner_channels: int, itemsize: int) -> int:
    """Elements from one row of sums to the next. A vector that spills past a row changes no other."""
    return columns * inner_channels + vector_width(itemsize)


def row2im(
    g: Geometry,
    x_steps: tuple[int, int, int, int],
    outer_channels: int,
    inner_channels: int,
    tile: tuple[int, int, int, int],
    itemsize: int,
) -> Row2imTiling:
    """`tile` has outer and inner channels, rows and columns of cells; `itemsize` is that of the sums."""
    (tile_outer, tile_inner, rows, columns), width = tile, vector_width(itemsize)
    pitch = pitch_of_sums(columns, tile_inner, itemsize)
    sizes = (outer_channels, tile_outer), (inner_channels, tile_inner), (g.H, rows), (g.W, columns)
    elements = tile_outer * rows * pitch + 2 * width
    return Row2imTiling(
        *x_steps,
        outer_channels,
        inner_channels,
        g.KW if g.dw == 1 and tile_inner == inner_channels else 1,
        outer_channels * g.KD * g.KH * g.KW * inner_channels,
        *tile,
        *(ceil_div(size, of_block) for size, of_block in sizes),
        pitch=pitch,
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )
