"""Tiles of average pooling and its gradient, and how a thread's scratch is divided."""

from typing import NamedTuple

from fastpool.backends.numba.geometry import VECTOR_BYTES, Geometry, ceil_div
from fastpool.backends.numba.tiling.scratch import in_cache_lines, vector_width

# How `kernels/average.py` adds up windows: `pool_by_rows`; `pool_by_mask`; sums of columns, then of neighbours
# (`sum_rows`) or of every second, third or fifth (`sum_strided`); `pool_in_place`; and `sum_each_window`.
BY_ROWS, BY_MASK, BY_NEIGHBOURS, BY_STRIDED_LOADS, IN_PLACE, BY_WINDOWS = range(6)

# Strides up to which `kernels/average_backward.py` writes the cells of one phase of all strides after the other; above,
# stride after stride. It is a tuned constant that is compiled into the kernel.
MOST_PHASES_SPREAD = 15


class Counted(NamedTuple):
    """Which cells of a window count for its divisor: those from `begin` up to `end` along each axis."""

    begin_d: int
    begin_h: int
    begin_w: int
    end_d: int
    end_h: int
    end_w: int
    override: int  # the divisor of all windows; 0 where cells are counted


class AverageTiling(NamedTuple):
    """For `avg_pool`: tiles of windows, `tile_rows` by `tile_columns` by `tile_channels`."""

    tile_rows: int
    tile_columns: int
    tile_channels: int
    row_tiles: int
    column_tiles: int
    channel_tiles: int
    whole_rows: bool  # a tile has all columns and channels of a row
    row_method: int
    chunk: int  # columns of cells that are added up at once
    lead: int  # elements that vectors read before the first cell
    column_sums: int  # elements of the sums down the columns, with zeros in the padding
    totals: int  # elements of the sums of a row of windows
    counts: int  # elements of the divisors: of one row, or `BY_MASK` of all rows
    elements: int  # all of scratch of the dtype of sums
    tap_bits_begin: int
    tap_bits: int  # bytes of the mask of real taps: one for each window of a tile
    scratch_bytes: int


def average(
    g: Geometry, rows: int, columns: int, channels: int, method: int, chunk: int, itemsize: int
) -> AverageTiling:
    """`itemsize` is that of the sums."""
    width, masked = vector_width(itemsize), method == BY_MASK
    lead = in_cache_lines(g.pw * g.inner, itemsize) // itemsize if masked else 0
    all_rows = rows if masked else 1
    column_sums = lead + all_rows * chunk * channels + (g.KW * g.inner if masked else 0)
    column_sums += (g.sw if masked or method == BY_STRIDED_LOADS else 1) * 2 * width
    row = rows if method == BY_ROWS else columns * channels
    totals = 0 if masked else row + 2 * width
    counts = all_rows * row + 2 * width
    elements = column_sums + totals + counts + width  # of what is left of a row
    tap_bits_begin, tap_bits = in_cache_lines(elements, itemsize), counts + VECTOR_BYTES if masked else 0
    return AverageTiling(
        tile_rows=rows,
        tile_columns=columns,
        tile_channels=channels,
        row_tiles=ceil_div(g.OH, rows),
        column_tiles=ceil_div(g.OW, columns),
        channel_tiles=ceil_div(g.inner, channels),
        whole_rows=columns >= g.OW and channels >= g.inner,
        row_method=method,
        chunk=chunk,
        lead=lead,
        column_sums=column_sums,
        totals=totals,
        counts=counts,
        elements=elements,
        tap_bits_begin=tap_bits_begin,
        tap_bits=tap_bits,
        scratch_bytes=tap_bits_begin + in_cache_lines(tap_bits, 1),
    )


class AverageBackwardTiling(NamedTuple):
    """For `avg_pool_backward`: tiles of cells, `tile_rows` by `tile_columns` by `tile_channels`.

    A row of the padded input is divided into strides of `sw` cells, which begin where a window does, or would. The
    first `more_cells` cells of a stride are covered by `most_windows` windows of a row, the others by one less.
    """

    tile_rows: int
    tile_columns: int
    tile_channels: int
    row_tiles: int
    column_tiles: int
    channel_tiles: int
    whole_rows: bool  # a tile has all columns and channels of a row
    most_windows: int
    more_cells: int
    one_window: bool  # all cells of a row, of one channel, are covered by one window
    chunk: int  # windows of a row that are added up at once; 0 where a row of them is padded with zeros
    grads: int  # elements of the gradients of a row of windows; as many divisors
    sums: int  # elements of the sums of one cell of each stride: of `most_windows` windows, and of one less
    row: int  # elements of a row of cells
    elements: int  # all of scratch
    scratch_bytes: int


def average_backward(
    g: Geometry, rows: int, columns: int, channels: int, chunk: int, itemsize: int
) -> AverageBackwardTiling:
    """`itemsize` is that of the sums."""
    width, most_windows = vector_width(itemsize), ceil_div(g.KW, g.sw)
    strides = min((columns - 1) // g.sw + 2, columns)
    grads = (chunk if chunk else strides + most_windows - 1) * channels + 2 * width
    sums, row = strides * channels + 2 * width, columns * channels + 4 * width
    elements = 2 * grads + 2 * sums + row
    return AverageBackwardTiling(
        tile_rows=rows,
        tile_columns=columns,
        tile_channels=channels,
        row_tiles=ceil_div(g.H, rows),
        column_tiles=ceil_div(g.W, columns),
        channel_tiles=ceil_div(g.inner, channels),
        whole_rows=columns >= g.W and channels >= g.inner,
        most_windows=most_windows,
        more_cells=g.KW - (most_windows - 1) * g.sw,
        one_window=g.OW == g.inner == 1 and g.pw == 0 and g.KW >= g.W,
        chunk=chunk,
        grads=grads,
        sums=sums,
        row=row,
        elements=elements,
        scratch_bytes=in_cache_lines(elements, itemsize),
    )
