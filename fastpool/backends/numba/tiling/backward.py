"""Tiles of the gradients of max pools, and how a thread's scratch is divided."""

from typing import NamedTuple

from fastpool.backends.numba.geometry import Geometry, all_have_a_cell, ceil_div
from fastpool.backends.numba.tiling.scratch import in_cache_lines, vector_width


class StrideBlocks(NamedTuple):
    """The blocks that `max_pool_backward_gather` divides the padded input into, and the windows that reach into them.

    A stride block is `sh` by `sw` cells, which begin where a window does, or would.
    """

    rows: int  # of stride blocks, from the leading padding to the end of an axis
    columns: int
    back_h: int  # rows of windows that begin above a row of stride blocks and reach into it
    back_w: int
    slices: int  # of windows that cover a slice of cells, at most


def stride_blocks(g: Geometry) -> StrideBlocks:
    return StrideBlocks(
        rows=ceil_div(g.H + g.ph, g.sh),
        columns=ceil_div(g.W + g.pw, g.sw),
        back_h=(g.KH - 1) * g.dh // g.sh,
        back_w=(g.KW - 1) * g.dw // g.sw,
        slices=(g.KD - 1) * g.dd // g.sd + 1,
    )


class GatherTiling(NamedTuple):
    """For `max_pool_backward_gather`: tiles of cells, `tile_rows` by `tile_columns` stride blocks of them.

    A phase is a position in a stride block. The cells of one phase are covered by the same taps.
    """

    tile_rows: int
    tile_columns: int
    all_rows: int  # `rows`, `columns`, `back_h` and `back_w` of the stride blocks
    all_columns: int
    row_tiles: int
    column_tiles: int
    in_place: bool  # windows begin throughout the input, up to the end of each axis: dy may be read without packing it
    rows_match_dx: bool  # where dy is read in place, rows of sums lie as those of dx do: see `write_as_one_row`
    back_h: int
    back_w: int
    packed_columns: int  # windows of a packed row
    slice_step: int  # elements from one slice of packed windows to the next
    grads: int  # packed gradients of all slices; as many offsets
    phases: int  # cells of a stride block
    phase_step: int  # elements from the sums of one phase to those of the next
    taps: int  # elements of the list of taps: for each tap, a vector of its offset
    sums: int  # all elements of the dtype of sums: packed gradients, and the sums of each phase
    argmax_begin: int
    sources_begin: int
    phases_begin: int
    scratch_bytes: int


def gather(
    g: Geometry,
    blocks: StrideBlocks,
    tile_rows: int,
    tile_columns: int,
    in_place: bool,
    itemsize: int,
    argmax_itemsize: int,
) -> GatherTiling:
    """`itemsize` is that of the sums."""
    all_rows, all_columns, back_h, back_w, slices = blocks
    width, packed_columns, phases = vector_width(itemsize), tile_columns + back_w, g.sh * g.sw
    slice_step, taps = (tile_rows + back_h) * packed_columns * g.inner, g.KD * g.KH * g.KW * width
    row_windows = max(packed_columns, g.OW if in_place else 0)
    phase_step = ((tile_rows - 1) * row_windows + packed_columns) * g.inner + 2 * width
    grads = slices * slice_step + back_w * g.inner + 4 * width
    sums = grads + phases * phase_step + 2 * width
    column_tiles = ceil_div(all_columns, tile_columns)
    argmax_begin = in_cache_lines(sums, itemsize)
    sources_begin = argmax_begin + in_cache_lines(grads + taps, argmax_itemsize)
    phases_begin = sources_begin + in_cache_lines(taps, 8)
    return GatherTiling(
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        all_rows=all_rows,
        all_columns=all_columns,
        row_tiles=ceil_div(all_rows, tile_rows),
        column_tiles=column_tiles,
        in_place=in_place,
        rows_match_dx=in_place and g.sh == g.sw == column_tiles == 1 and g.OW == g.W,
        back_h=back_h,
        back_w=back_w,
        packed_columns=packed_columns,
        slice_step=slice_step,
        grads=grads,
        phases=phases,
        phase_step=phase_step,
        taps=taps,
        sums=sums,
        argmax_begin=argmax_begin,
        sources_begin=sources_begin,
        phases_begin=phases_begin,
        scratch_bytes=phases_begin + in_cache_lines(phases + 1, 8),
    )


# Planes of one channel to which `max_pool_backward_scatter` adds in turn.
PLANES = 4


class ScatterTiling(NamedTuple):
    """For `max_pool_backward_scatter`: tiles of dx: rows by columns by channels, or several whole planes."""

    tile_rows: int  # counted through all slices of a plane
    tile_columns: int
    most_planes: int  # `PLANES` or fewer where a tile may be whole planes of one channel, else 1
    tile_channels: int
    row_tiles: int
    column_tiles: int
    channel_tiles: int
    windows: int  # of a plane
    some_without_row: bool  # there may be windows that have no tap in any row of the input
    some_without_column: bool  # there may be windows that have no tap in any column of the input
    cell_step: int  # sums from one cell to the next
    next_kw: int  # sums from one tap to the next in its row
    wrap_kw: int  # added to `next_kw` where the next tap is in the next row of taps
    wrap_kh: int  # added to both where it is in the next slice of taps
    reciprocal_row: int  # of the taps of a row: see `reciprocal`
    reciprocal_slice: int  # of the taps of a slice
    table_size: int  # of the distances from a window's start, one for each offset of a byte; 0 for wider offsets
    sums_begin: int
    sums: int  # in scratch
    scratch_bytes: int


def reciprocal(divisor: int) -> int:
    """A factor for which (n * factor) >> 32 == n // divisor, for every n of 16 bits and divisor of up to 2**16."""
    return ceil_div(1 << 32, divisor)


def scatter(
    g: Geometry, rows: int, columns: int, planes: int, channels: int, argmax_itemsize: int, sums_itemsize: int
) -> ScatterTiling:
    """`sums_itemsize` is 0 where dx itself holds the sums."""
    table_size, cell_step = 256 if argmax_itemsize == 1 else 0, channels if sums_itemsize else g.inner
    sums = planes * rows * columns * channels if sums_itemsize else 0
    axes = (g[axis:18:3] for axis in range(3))
    depth_has, rows_have, columns_have = (all_have_a_cell(*axis) for axis in axes)
    return ScatterTiling(
        tile_rows=rows,
        tile_columns=columns,
        most_planes=planes,
        tile_channels=channels,
        row_tiles=ceil_div(g.D * g.H, rows),
        column_tiles=ceil_div(g.W, columns),
        channel_tiles=ceil_div(g.inner, channels),
        windows=g.OD * g.OH * g.OW,
        some_without_row=not (depth_has and rows_have),
        some_without_column=not columns_have,
        cell_step=cell_step,
        next_kw=g.dw * cell_step,
        wrap_kw=(g.dh * g.W - g.KW * g.dw) * cell_step,
        wrap_kh=(g.dd * g.H - g.KH * g.dh) * g.W * cell_step,
        reciprocal_row=reciprocal(g.KW),
        reciprocal_slice=reciprocal(g.KH * g.KW),
        table_size=table_size,
        sums_begin=8 * table_size,
        sums=sums,
        scratch_bytes=8 * table_size + in_cache_lines(sums, sums_itemsize),
    )


# Taps along a row of nonoverlapping windows for which `kernels/nonoverlapping_backward.py` has a store of vectors. Rows
# with channels last need none: vectors are of channels there.
VECTOR_STORE_KW = 1, 2, 3, 4, 5, 8


class NonoverlappingTiling(NamedTuple):
    """For `max_pool_backward_nonoverlapping`, whose work items are rows of windows."""

    covered: int  # elements of a row of cells that windows cover
    run: int  # consecutive gradients that are read in vectors
    read_past: int  # elements of dy that vectors read past the end of a run
    stored_past: int  # elements of dx that vectors store past the end of a row


def nonoverlapping(g: Geometry, itemsize: int) -> NonoverlappingTiling:
    run = g.inner if g.KW > 1 and g.inner > 1 else g.OW * g.inner
    read_past = -run % vector_width(itemsize)
    return NonoverlappingTiling(
        covered=g.OW * g.KW * g.inner,
        run=run,
        read_past=read_past,
        stored_past=read_past * (g.KW if g.inner == 1 else 1),
    )
