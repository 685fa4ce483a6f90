"""Blocks of im2col and col2im."""

from typing import NamedTuple

from fastpool.backends.numba.geometry import Geometry, ceil_div
from fastpool.backends.numba.tiling.scratch import in_cache_lines, vector_width


class Im2colTiling(NamedTuple):
    """For `im2col`: blocks of `block_rows` by `block_columns` windows of one channel, and some of their taps.

    Columns have `inner` images at each position of the windows. A block is of all of them, or it is of one window.
    """

    x_image: int  # elements of x from one image, channel or cell to the next
    x_channel: int
    x_cell: int
    cols_image: int  # elements of the columns from one image, channel or tap to the next
    cols_channel: int
    cols_tap: int
    channels: int
    block_rows: int
    block_columns: int
    taps_down: int  # taps of a window that are copied together
    taps_along: int
    block_images: int
    image_blocks: int
    row_blocks: int
    column_blocks: int
    rows_below: int  # rows of cells that taps down a window need besides those of the block
    reach: int  # cells from the first of the taps along a row to the last
    lined_up: bool  # windows are lined up tap by tap, before they are copied
    cells: int  # packed cells of a block, with their padding
    line: int  # one cell of each window of a block
    elements: int
    nontemporal: bool  # columns are written past the caches
    scratch_bytes: int


def im2col(
    g: Geometry,
    x_steps: tuple[int, int, int],
    cols_steps: tuple[int, int, int],
    channels: int,
    block: tuple[int, int, int, int, int],
    itemsize: int,
    nontemporal: bool = False,
) -> Im2colTiling:
    """`block` is so many rows and columns of windows, taps down and along them, and images."""
    (rows, columns, taps_down, taps_along, images), width = block, vector_width(itemsize)
    below, reach = (taps_down - 1) * g.dh // g.sh, (taps_along - 1) * g.dw
    cells = (rows + below) * ((columns - 1) * g.sw + reach + 1) * images + 6 * width
    line = (rows + below) * columns * images + width
    elements = cells + taps_along * line
    return Im2colTiling(
        *x_steps,
        *cols_steps,
        channels,
        *block,
        image_blocks=ceil_div(g.inner, images),
        row_blocks=ceil_div(g.OH, rows),
        column_blocks=ceil_div(g.OW, columns),
        rows_below=below,
        reach=reach,
        lined_up=taps_down > 1 or g.sw > 1,
        cells=cells,
        line=line,
        elements=elements,
        nontemporal=nontemporal,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )


class Col2imTiling(NamedTuple):
    """For `col2im`: blocks of cells of one channel, rows by columns of `phases` cells each.

    `phases` is the stride, so that a row of windows adds to neighbouring columns; or 1, where strides are many cells.
    """

    x_image: int  # elements of dx from one image, channel or cell to the next
    x_channel: int
    x_cell: int
    cols_image: int  # elements of the columns from one image, channel or tap to the next
    cols_channel: int
    cols_tap: int
    channels: int
    block_rows: int
    block_columns: int
    phases: int
    block_images: int
    image_blocks: int
    row_blocks: int
    column_blocks: int
    first_column: int  # that has a cell: columns count from the leading padding
    all_columns: int
    apart: int  # columns from one window to the next
    pitch: int  # sums of a row of cells of one phase
    elements: int
    scratch_bytes: int


def col2im(
    g: Geometry,
    x_steps: tuple[int, int, int],
    cols_steps: tuple[int, int, int],
    channels: int,
    block: tuple[int, int, int, int],
    itemsize: int,
) -> Col2imTiling:
    """`block` is so many rows, columns, phases and images; `itemsize` that of the sums."""
    (rows, columns, phases, images), width = block, vector_width(itemsize)
    pitch = columns * images + width  # zeros that are added past the end of a row go into no other row
    elements = rows * phases * pitch + 2 * width
    first_column = g.pw // phases
    all_columns = (g.pw + g.W - 1) // phases + 1 - first_column
    return Col2imTiling(
        *x_steps,
        *cols_steps,
        channels,
        *block,
        image_blocks=ceil_div(g.inner, images),
        row_blocks=ceil_div(g.H, rows),
        column_blocks=ceil_div(all_columns, columns),
        first_column=first_column,
        all_columns=all_columns,
        apart=g.sw // phases,
        pitch=pitch,
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )
