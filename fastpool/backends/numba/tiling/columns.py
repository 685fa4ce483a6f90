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


class Im2rowTiling(NamedTuple):
    """For `im2row`: tiles of `tile_columns` windows of one row of windows.

    A row of a window has the taps of one group of channels after the other, and of each tap so many `lanes`, which are
    channels, too: there is one group or one lane. A line is what neighbouring windows have of one group and
    `taps_along` taps, which are those of a row of the window, or one.
    """

    x_image: int  # elements of x from one image, group, cell or lane to the next
    x_group: int
    x_cell: int
    x_lane: int
    lines: int
    lanes: int
    taps_along: int
    row: int  # elements of a window
    tile_columns: int
    tile_lines: int
    tile_lanes: int
    column_tiles: int
    line_tiles: int
    lane_tiles: int
    elements: int  # all of scratch
    scratch_bytes: int


def im2row(
    g: Geometry,
    x_steps: tuple[int, int, int, int],
    groups: int,
    lanes: int,
    taps_along: int,
    tile: tuple[int, int, int],
    itemsize: int,
) -> Im2rowTiling:
    """`tile` has windows, lines and lanes; `x_steps` are those above."""
    columns, tile_lines, tile_lanes = tile
    taps = groups * g.KD * g.KH * g.KW
    cells = (columns - 1) * g.sw + taps_along
    elements = tile_lines * cells * tile_lanes + 2 * vector_width(itemsize)
    return Im2rowTiling(
        *x_steps,
        taps // taps_along,
        lanes,
        taps_along,
        taps * lanes,
        *tile,
        column_tiles=ceil_div(g.OW, columns),
        line_tiles=ceil_div(taps // taps_along, tile_lines),
        lane_tiles=ceil_div(lanes, tile_lanes),
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )


class Row2imTiling(NamedTuple):
    """For `row2im`: tiles of cells of some groups or lanes, which are those of `Im2rowTiling`."""

    x_image: int  # elements of dx from one image, group, cell or lane to the next
    x_group: int
    x_cell: int
    x_lane: int
    groups: int
    lanes: int
    taps_along: int  # taps of a row of the window that are added to neighbouring sums: all of them, or one
    row: int  # elements of a window
    tile_groups: int
    tile_lanes: int
    tile_rows: int
    tile_columns: int
    group_tiles: int
    lane_tiles: int
    row_tiles: int
    column_tiles: int
    pitch: int  # elements from the sums of a row of cells to those of the next
    elements: int  # all sums
    scratch_bytes: int


def pitch_of_sums(columns: int, lanes: int, itemsize: int) -> int:
    """Elements from one row of sums to the next. A vector that spills past a row changes no other."""
    return columns * lanes + vector_width(itemsize)


def row2im(
    g: Geometry,
    x_steps: tuple[int, int, int, int],
    groups: int,
    lanes: int,
    tile: tuple[int, int, int, int],
    itemsize: int,
) -> Row2imTiling:
    """`tile` has groups, lanes, rows and columns of cells; `itemsize` is that of the sums."""
    (tile_groups, tile_lanes, rows, columns), width = tile, vector_width(itemsize)
    pitch = pitch_of_sums(columns, tile_lanes, itemsize)
    sizes = (groups, tile_groups), (lanes, tile_lanes), (g.H, rows), (g.W, columns)
    elements = tile_groups * rows * pitch + 2 * width
    return Row2imTiling(
        *x_steps,
        groups,
        lanes,
        g.KW if g.dw == 1 and tile_lanes == lanes else 1,
        groups * g.KD * g.KH * g.KW * lanes,
        *tile,
        *(ceil_div(size, of_block) for size, of_block in sizes),
        pitch=pitch,
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )
