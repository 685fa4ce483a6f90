"""Tiles of the max pools: how they are cut, and how a thread's scratch is divided."""

from typing import NamedTuple

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import LOADED_STRIDES, VECTOR_BYTES, Geometry, ceil_div
from fastpool.backends.numba.tiling.scratch import in_cache_lines, vector_width

# How `kernels/row_pass.py` takes the maxima along rows: `reduce_row`, `pool_by_doubling`, `pool_channels_along_rows`,
# `pool_by_halving`, `pool_by_stride`, `pool_by_strided_copy`.
BY_TAPS, BY_DOUBLING, BY_CHANNELS, BY_HALVING, BY_STRIDE, BY_STRIDED_COPY = range(6)


def taps_compared(g):
    """Taps along an axis that are compared one after the other, at most."""
    return tuning.MOST_TAPS_COMPARED + (g.W * g.inner >= tuning.LONG_ROW)


def row_method(g, itemsize, argmax_itemsize):
    """Which of these methods is fastest for the windows of a call."""
    if g.sw == 1:
        return BY_DOUBLING if taps_compared(g) < g.KW else BY_TAPS
    if g.inner > 1:
        return BY_CHANNELS
    if g.dw == 1 and g.sw == g.KW and g.KW & (g.KW - 1) == 0:
        return BY_HALVING
    if g.sw in LOADED_STRIDES:
        return BY_STRIDE
    copied = g.KW * (tuning.STRIDED_COPY_BYTES_WITH_ARGMAX if argmax_itemsize else tuning.STRIDED_COPY_BYTES)
    doublings = (g.KW - 1).bit_length()
    return BY_DOUBLING if g.KW > 2 and doublings * g.sw * itemsize <= copied else BY_STRIDED_COPY


def _copies(method, itemsize):
    """Elements of scratch for `BY_STRIDED_COPY`: two pieces of a row, equally long."""
    return tuning.STRIDED_COPY_VECTORS * vector_width(itemsize) if method == BY_STRIDED_COPY else 0


class SeparableTiling(NamedTuple):
    """For `max_pool_separable`: tiles of `tile_rows` by `tile_columns` windows."""

    tile_rows: int
    tile_columns: int
    row_tiles: int
    column_tiles: int
    whole_rows: bool  # a tile has all columns of a row
    may_mask: bool  # x may be read under a mask: few taps along a row, and its pitch is that of row maxima times `sw`
    row_method: int
    doubles_columns: bool  # maxima down the columns are taken by doubling, too
    prefetch_distance: int  # elements of x from a row under this tile to the same row under the next
    read_past: int  # elements that vectors read past the end of the rows under a tile, at most
    maxima: int  # elements of the packed cells of all slices under a tile, which row maxima overwrite
    copies: int  # elements of the two pieces of a row for `BY_STRIDED_COPY`
    elements: int  # all values in scratch; as many offsets follow
    argmax_begin: int
    tap_bits_begin: int
    tap_bits: int  # bytes of the mask of real taps: one for each row maximum of a slice
    scratch_bytes: int


def packed_rows(g: Geometry, tile_rows: int) -> int:
    """Rows that are packed for a tile, in each slice."""
    return (tile_rows - 1) * g.sh + (g.KH - 1) * g.dh + 1


def packed_row_elements(g: Geometry, tile_columns: int) -> int:
    """Elements that are packed for a row of a tile."""
    strides = tile_columns + (g.KW - 1) * g.dw // g.sw
    return max(strides, ceil_div(g.W, g.sw) if tile_columns >= g.OW else 0) * g.sw * g.inner


def separable(g: Geometry, tile_rows: int, tile_columns: int, itemsize: int, argmax_itemsize: int) -> SeparableTiling:
    width, reach_w, whole_rows = vector_width(itemsize), (g.KW - 1) * g.dw, tile_columns >= g.OW
    most_rows = packed_rows(g, tile_rows)
    read_past = reach_w * g.inner + 2 * g.sw * width
    maxima = min(g.KD, g.D) * (most_rows * packed_row_elements(g, tile_columns) + width) + read_past
    method = row_method(g, itemsize, argmax_itemsize)
    copies = _copies(method, itemsize)
    elements = maxima + copies + width  # of a row of output that is shorter than a vector
    may_mask = whole_rows and g.OW * g.sw == g.W and (g.sw == 1 or (g.sw == 2 and g.inner == 1))
    may_mask = may_mask and 1 < g.KW <= tuning.MOST_TAPS_MASKED and (g.KW > 2 or g.pw > 0)
    argmax_begin = in_cache_lines(elements, itemsize)
    tap_bits_begin = argmax_begin + in_cache_lines(elements, argmax_itemsize)
    tap_bits = most_rows * g.OW * g.inner + VECTOR_BYTES if may_mask else 0
    return SeparableTiling(
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        row_tiles=ceil_div(g.OH, tile_rows),
        column_tiles=ceil_div(g.OW, tile_columns),
        whole_rows=whole_rows,
        may_mask=may_mask,
        row_method=method,
        doubles_columns=g.sh == 1 and taps_compared(g) < g.KH,
        prefetch_distance=(min(tile_rows * g.sh, g.H) * g.W if whole_rows else tile_columns * g.sw) * g.inner,
        read_past=read_past,
        maxima=maxima,
        copies=copies,
        elements=elements,
        argmax_begin=argmax_begin,
        tap_bits_begin=tap_bits_begin,
        tap_bits=tap_bits,
        scratch_bytes=tap_bits_begin + in_cache_lines(tap_bits, 1),
    )


class VanHerkTiling(NamedTuple):
    """For `max_pool_van_herk`: tiles of `tile_rows` by `tile_columns` windows, one row apart."""

    tile_rows: int
    tile_columns: int
    row_tiles: int
    column_tiles: int
    row_method: int
    prefetch_distance: int  # elements of x from a row to the one that is prefetched
    row: int  # elements of a row of packed cells, which row maxima overwrite
    copies: int  # elements of the two pieces of a row for `BY_STRIDED_COPY`
    kept_pitch: int  # elements from one kept row of maxima to the next
    elements: int  # all values in scratch; as many offsets follow
    argmax_begin: int
    scratch_bytes: int


def van_herk(g: Geometry, tile_rows: int, tile_columns: int, itemsize: int, argmax_itemsize: int) -> VanHerkTiling:
    width, reach_w = vector_width(itemsize), (g.KW - 1) * g.dw
    # Maxima are taken at every cell of a row: at the last of them windows reach past its end.
    row = (tile_columns * g.sw + 2 * reach_w + g.sw) * g.inner + (2 * g.sw + 2) * width
    kept_pitch, method = tile_columns * g.inner + width, row_method(g, itemsize, argmax_itemsize)
    copies = _copies(method, itemsize)
    elements = row + copies + (g.KH + 1) * kept_pitch
    argmax_begin = in_cache_lines(elements, itemsize)
    return VanHerkTiling(
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        row_tiles=ceil_div(g.OH, tile_rows),
        column_tiles=ceil_div(g.OW, tile_columns),
        row_method=method,
        prefetch_distance=tuning.PREFETCHED_ROW_DISTANCE * g.W * g.inner,
        row=row,
        copies=copies,
        kept_pitch=kept_pitch,
        elements=elements,
        argmax_begin=argmax_begin,
        scratch_bytes=argmax_begin + in_cache_lines(elements, argmax_itemsize),
    )


class DirectTiling(NamedTuple):
    """For `max_pool_direct`: pieces of `tile_columns` windows of a row."""

    tile_columns: int
    column_tiles: int
    vectors: int  # of channels that a maximum computes at once: 4, or 1 where there are few
    width: int  # elements of a vector; scratch holds one of values and one of offsets
    argmax_begin: int
    scratch_bytes: int


def direct(g: Geometry, tile_columns: int, itemsize: int, argmax_itemsize: int) -> DirectTiling:
    width = vector_width(itemsize)
    argmax_begin = in_cache_lines(width, itemsize)
    in_fours = ceil_div(g.inner, 4 * width) * 4 * width  # channels that are computed, some of them twice
    return DirectTiling(
        tile_columns=tile_columns,
        column_tiles=ceil_div(g.OW, tile_columns),
        vectors=4 if g.inner >= 4 * width and in_fours <= tuning.MOST_COMPUTED * g.inner else 1,
        width=width,
        argmax_begin=argmax_begin,
        scratch_bytes=argmax_begin + in_cache_lines(width, argmax_itemsize),
    )
