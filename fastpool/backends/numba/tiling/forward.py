"""Tiles of the max pools."""

from typing import NamedTuple

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import VECTOR_BYTES, Geometry, ceil_div
from fastpool.backends.numba.tiling.scratch import in_cache_lines, vector_width

# How `kernels/row_pass.py` takes the maxima along rows.
BY_TAPS, BY_DOUBLING, BY_CHANNELS, BY_HALVING, BY_STRIDE, BY_GATHERING = range(6)


def row_method(g, itemsize, argmax_itemsize):
    """How maxima along rows are taken."""
    if g.sw == 1:
        return BY_DOUBLING if g.KW > tuning.MOST_TAPS_COMPARED else BY_TAPS
    if g.inner > 1:
        return BY_CHANNELS
    if g.dw == 1 and g.sw == g.KW and g.KW & (g.KW - 1) == 0:
        return BY_HALVING
    if g.sw in (2, 3, 5):
        return BY_STRIDE
    gathered = g.KW * (tuning.GATHERED_BYTES_WITH_ARGMAX if argmax_itemsize else tuning.GATHERED_BYTES)
    doublings = (g.KW - 1).bit_length()
    return BY_DOUBLING if g.KW > 2 and doublings * g.sw * itemsize <= gathered else BY_GATHERING


class SeparableTiling(NamedTuple):
    """For `max_pool_separable`: tiles of `block_rows` by `block_columns` windows."""

    block_rows: int
    block_columns: int
    row_blocks: int
    column_blocks: int
    whole_rows: bool  # a tile has all columns of a row
    same_pitch: bool  # maxima lie as far apart as their windows: these may be read in place, with a mask of real taps
    row_method: int
    doubles_columns: bool
    prefetch_distance: int  # from a row to that of the next tile
    read_past: int  # what vectors read past the end of the rows under a tile, at most
    maxima: int  # the packed cells of all slices under a tile, and then the maxima along their rows
    spare: int  # two pieces of a row, for `BY_GATHERING`
    elements: int  # of values in scratch; as many offsets follow
    argmax_begin: int
    tap_bits_begin: int
    tap_bits: int
    scratch_bytes: int


def packed_rows(g: Geometry, block_rows: int) -> int:
    """Rows that are packed for a tile, in each slice."""
    return (block_rows - 1) * g.sh + (g.KH - 1) * g.dh + 1


def packed_row(g: Geometry, block_columns: int) -> int:
    """Elements that are packed for a row of a tile."""
    strides = block_columns + (g.KW - 1) * g.dw // g.sw
    return max(strides, ceil_div(g.W, g.sw) if block_columns >= g.OW else 0) * g.sw * g.inner


def separable(g: Geometry, block_rows: int, block_columns: int, itemsize: int, argmax_itemsize: int) -> SeparableTiling:
    width, reach_w, whole_rows = vector_width(itemsize), (g.KW - 1) * g.dw, block_columns >= g.OW
    most_rows = packed_rows(g, block_rows)
    read_past = reach_w * g.inner + 2 * g.sw * width
    maxima = min(g.KD, g.D) * (most_rows * packed_row(g, block_columns) + width) + read_past
    spare = tuning.GATHERED_VECTORS * width if g.sw > 3 and g.inner == 1 else 0
    elements = maxima + spare + width
    same_pitch = whole_rows and g.OW * g.sw == g.W and (g.sw == 1 or (g.sw == 2 and g.inner == 1))
    same_pitch = same_pitch and 1 < g.KW <= tuning.MOST_TAPS_MASKED and (g.KW > 2 or g.pw > 0)
    argmax_begin = in_cache_lines(elements, itemsize)
    tap_bits_begin = argmax_begin + in_cache_lines(elements, argmax_itemsize)
    tap_bits = most_rows * g.OW * g.inner + VECTOR_BYTES if same_pitch else 0
    return SeparableTiling(
        block_rows=block_rows,
        block_columns=block_columns,
        row_blocks=ceil_div(g.OH, block_rows),
        column_blocks=ceil_div(g.OW, block_columns),
        whole_rows=whole_rows,
        same_pitch=same_pitch,
        row_method=row_method(g, itemsize, argmax_itemsize),
        doubles_columns=g.sh == 1 and g.KH > tuning.MOST_TAPS_COMPARED,
        prefetch_distance=(min(block_rows * g.sh, g.H) * g.W if whole_rows else block_columns * g.sw) * g.inner,
        read_past=read_past,
        maxima=maxima,
        spare=spare,
        elements=elements,
        argmax_begin=argmax_begin,
        tap_bits_begin=tap_bits_begin,
        tap_bits=tap_bits,
        scratch_bytes=tap_bits_begin + in_cache_lines(tap_bits, 1),
    )


class VanHerkTiling(NamedTuple):
    """For `max_pool_van_herk`: tiles of `block_rows` by `block_columns` windows, one row apart."""

    block_rows: int
    block_columns: int
    row_blocks: int
    column_blocks: int
    row_method: int
    prefetch_distance: int
    row: int  # the packed cells of a row, and then the maxima along it
    spare: int
    kept_step: int  # from one kept row of maxima to the next
    elements: int  # of values in scratch; as many offsets follow
    argmax_begin: int
    scratch_bytes: int


def van_herk(g: Geometry, block_rows: int, block_columns: int, itemsize: int, argmax_itemsize: int) -> VanHerkTiling:
    width, reach_w = vector_width(itemsize), (g.KW - 1) * g.dw
    # Maxima are taken at every cell of a row, also of windows that begin too late to be whole.
    row = (block_columns * g.sw + 2 * reach_w + g.sw) * g.inner + (2 * g.sw + 2) * width
    kept_step, spare = block_columns * g.inner + width, tuning.GATHERED_VECTORS * width
    elements = row + spare + (g.KH + 1) * kept_step
    argmax_begin = in_cache_lines(elements, itemsize)
    return VanHerkTiling(
        block_rows=block_rows,
        block_columns=block_columns,
        row_blocks=ceil_div(g.OH, block_rows),
        column_blocks=ceil_div(g.OW, block_columns),
        row_method=row_method(g, itemsize, argmax_itemsize),
        prefetch_distance=tuning.ROWS_PREFETCHED * g.W * g.inner,
        row=row,
        spare=spare,
        kept_step=kept_step,
        elements=elements,
        argmax_begin=argmax_begin,
        scratch_bytes=argmax_begin + in_cache_lines(elements, argmax_itemsize),
    )


class DirectTiling(NamedTuple):
    """For `max_pool_direct`: pieces of `block_columns` windows of a row."""

    block_columns: int
    column_blocks: int
    width: int
    argmax_begin: int  # a vector of values, and one of offsets
    scratch_bytes: int


def direct(g: Geometry, block_columns: int, itemsize: int, argmax_itemsize: int) -> DirectTiling:
    width = vector_width(itemsize)
    argmax_begin = in_cache_lines(width, itemsize)
    return DirectTiling(
        block_columns=block_columns,
        column_blocks=ceil_div(g.OW, block_columns),
        width=width,
        argmax_begin=argmax_begin,
        scratch_bytes=argmax_begin + in_cache_lines(width, argmax_itemsize),
    )
