"""The gradient of a max pool, gathered: each cell adds up the gradients of the windows whose winner it is.

The cells of one phase of the stride are covered by the same taps. So vectors of them compare one tap after the other
with the argmax of the windows that it belongs to, and add their gradients where it is the winner. The plan chooses this
kernel for windows of few taps that `nonoverlapping_backward.py` does not take. Gradients and offsets are read from
memory about once, and from the caches once for each tap; dx is written once.
"""

from typing import Any, NamedTuple

import numpy as np

from fastpool.backends.numba.decorators import inlined, kernel
from fastpool.backends.numba.kernels.packing import Rectangle
from fastpool.backends.numba.kernels.rows import as_sums, fill_vectors, read_grads, write_interleaved_sums, write_sums
from fastpool.backends.numba.kernels.windows import inside_input
from fastpool.backends.numba.simd.half import narrow
from fastpool.backends.numba.simd.vectors import (
    load,
    load_like,
    mask_first,
    prefetch_to_write,
    store,
    vector_like,
    where,
    width_of,
)
from fastpool.backends.numba.simd.views import assume_positive, scratch_view, slice_view, tail_view


class Tile(NamedTuple):
    """The cells of one work item in slice `d` of a plane, counted in stride blocks from the leading padding."""

    plane: int
    d: int
    first_row: int
    first_column: int
    rows: int
    columns: int


class Depth(NamedTuple):
    """The taps along the depth by which windows cover a slice of cells, from the first to the last."""

    first_kd: int
    last_kd: int  # -1, which is before the first, if no window covers the slice
    first_od: int  # the slice of windows that covers it by the last of these taps


class Windows(NamedTuple):
    """The gradients and offsets of the windows that cover a tile: in place, or packed."""

    grads: Any
    argmax: Any
    row_windows: int  # windows from one row to the next
    slice_step: int  # elements from one slice to the next
    origin: int  # the element of the window that begins at the tile's first stride block
    in_place: bool


class Buffers(NamedTuple):
    """A thread's scratch."""

    grads: Any  # packed gradients
    argmax: Any  # the packed offsets of these
    sums: Any  # the sums of the cells of each phase
    taps: Any  # for each phase and each tap that covers its cells, a vector of the tap's offset
    sources: Any  # for each of these, the elements from its window to the one that begins at the cell's stride block
    phase_begins: Any  # where the taps of each phase begin


@kernel
def max_pool_backward_gather(dy, argmax, dx, half_format, sums, g, t, scratch, start, stop):
    """Work items are tiles of cells. The last tap comes first, so that each cell adds gradients in row-major order of
    their windows.

    Where windows begin throughout the input, dy is read in place. For a window that would begin outside the output, a
    cell then reads one at the other end of a row, or of a neighbouring plane. The tap of that window that is compared
    is padding, which a validated argmax never names, so that it adds nothing.
    """
    buffers = divide_scratch(scratch, argmax, sums, t)
    # Tiles of whole rows are contiguous in dx. Those of this call end at `limit`.
    rows_before = max(min(stop % t.row_tiles * t.tile_rows * g.sh - g.ph, g.H), 0)
    limit = (stop // t.row_tiles * g.H + rows_before) * g.W * g.inner
    listed = -1, -1, False
    for item in range(start, stop):
        tile = tile_at(item, g, t)
        depth = depth_over(tile.d, g)
        windows = windows_over(dy, argmax, buffers, tile, depth, g, t)
        if not windows.in_place:
            pack_slices(buffers, dy, argmax, tile, depth, g, t, half_format)
        if listed != (depth.first_kd, depth.last_kd, windows.in_place):
            listed = depth.first_kd, depth.last_kd, windows.in_place
            list_taps(buffers, depth, windows, g, t)
        count = ((tile.rows - 1) * windows.row_windows + tile.columns) * g.inner
        to = ((tile.plane * g.D + tile.d) * g.H + tile.first_row * g.sh) * g.W * g.inner
        for phase in range(t.phases):
            sums_of_phase = tail_view(buffers.sums, phase * t.phase_step)
            sum_phase(sums_of_phase, windows, count, buffers, phase, dx, to + phase * count)
        if windows.in_place and t.rows_match_dx:
            write_as_one_row(dx, buffers.sums, tile, limit, g, half_format)
        else:
            write_rows(dx, buffers.sums, windows.row_windows, tile, limit, g, t, half_format)


@inlined
def divide_scratch(scratch, argmax, sums, t):
    values = scratch_view(scratch, 0, t.sums, sums)
    offsets = scratch_view(scratch, t.argmax_begin, t.grads + t.taps, argmax)
    return Buffers(
        slice_view(values, 0, t.grads),
        slice_view(offsets, 0, t.grads),
        tail_view(values, t.grads),
        tail_view(offsets, t.grads),
        scratch_view(scratch, t.sources_begin, t.taps, np.int64),
        scratch_view(scratch, t.phases_begin, t.phases + 1, np.int64),
    )


@inlined
def tile_at(item, g, t):
    rest, column_tile = divmod(item, t.column_tiles)
    rest, row_tile = divmod(rest, t.row_tiles)
    plane, d = divmod(rest, g.D)
    first_row, first_column = row_tile * t.tile_rows, column_tile * t.tile_columns
    rows, columns = min(t.tile_rows, t.all_rows - first_row), min(t.tile_columns, t.all_columns - first_column)
    return Tile(plane, d, first_row, first_column, rows, columns)


@inlined
def depth_over(d, g):
    """The taps along the depth by which windows cover slice `d` of cells."""
    first_kd, last_kd, first_od = g.KD, -1, 0
    for kd in range(g.KD):
        od, between = divmod(d + g.pd - kd * g.dd, g.sd)
        if between == 0 and 0 <= od < g.OD:
            first_kd, last_kd, first_od = min(first_kd, kd), kd, od
    return Depth(first_kd, last_kd, first_od)


@inlined
def windows_over(dy, argmax, buffers, tile, depth, g, t):
    """The windows over a tile: in place if the plan allows it and all that vectors read is in dy."""
    plane, width = g.OH * g.OW * g.inner, width_of(buffers.sums)
    begin = (tile.plane * g.OD + depth.first_od) * plane + (tile.first_row * g.OW + tile.first_column) * g.inner
    slices = (depth.last_kd - depth.first_kd) * g.dd // g.sd
    end = begin + slices * plane + ((tile.rows - 1) * g.OW + tile.columns) * g.inner
    readable = begin >= (t.back_h * g.OW + t.back_w) * g.inner and end + 2 * width <= len(dy)
    in_place = t.in_place != 0 and readable
    grads, offsets, row_windows, slice_step = buffers.grads, buffers.argmax, t.packed_columns, t.slice_step
    origin = (t.back_h * t.packed_columns + t.back_w) * g.inner
    if in_place:
        grads, offsets, row_windows, slice_step = as_sums(dy, grads), tail_view(argmax, 0), g.OW, plane
        origin = begin
    return Windows(grads, offsets, row_windows, slice_step, origin, in_place)


@inlined
def pack_slices(buffers, dy, argmax, tile, depth, g, t, half_format):
    """Pack the windows that cover a tile, slice after slice."""
    top, left, packed = tile.first_row - t.back_h, tile.first_column - t.back_w, 0
    rectangle = Rectangle(top, left, tile.rows + t.back_h, tile.columns + t.back_w, t.packed_columns)
    for kd in range(depth.last_kd, depth.first_kd - 1, -1):
        further, between = divmod((depth.last_kd - kd) * g.dd, g.sd)
        if between == 0:
            source = (((tile.plane * g.OD + depth.first_od + further) * g.OH + top) * g.OW + left) * g.inner
            grads, offsets = tail_view(buffers.grads, packed), tail_view(buffers.argmax, packed)
            pack_windows(grads, offsets, tail_view(dy, source), tail_view(argmax, source), rectangle, g, half_format)
            packed += t.slice_step


@inlined
def pack_windows(grads, offsets, dy, argmax, windows, g, half_format):
    """Pack a rectangle of windows; those outside the output get gradient 0. dy and argmax begin at the first one."""
    width, zeros = width_of(grads), vector_like(grads, grads.dtype.type(0))
    first_column, end_column = inside_input(windows.w, windows.columns, g.OW)
    begin, end = first_column * g.inner, end_column * g.inner
    last_mask = mask_first(zeros, (end - begin) % width)
    for row in range(windows.rows):
        to, source, written = row * windows.packed_columns * g.inner, row * g.OW * g.inner, 0
        grads_row = tail_view(grads, to)
        if 0 <= windows.h + row < g.OH:
            copy_argmax(tail_view(offsets, to), tail_view(argmax, source), begin, end, zeros, width)
            fill_vectors(grads_row, 0, begin, zeros)
            written = read_grads(grads_row, tail_view(dy, source), begin, end, last_mask, zeros, half_format)
        fill_vectors(grads_row, written, windows.columns * g.inner, zeros)


@inlined
def copy_argmax(to, argmax, begin, end, like, width):
    """to[begin:end] = argmax[begin:end], in vectors as wide as `like`, which may spill past `end`."""
    i = begin
    while i < end and i + width <= len(argmax):
        store(to, i, load_like(like, argmax, i))
        i += width
    while i < end:
        to[np.uint64(i)] = argmax[np.uint64(i)]
        i += 1


@inlined
def list_taps(buffers, depth, windows, g, t):
    """For each phase of the stride, list the taps by which windows cover its cells, and where these windows lie."""
    found = 0
    for phase in range(t.phases):
        buffers.phase_begins[phase], slices = found, 0
        for kd in range(depth.last_kd, depth.first_kd - 1, -1):
            further, between = divmod((depth.last_kd - kd) * g.dd, g.sd)
            if between == 0:
                to_slice = (further if windows.in_place else slices) * windows.slice_step
                found = list_taps_of_slice(buffers, found, phase, kd, to_slice, windows.row_windows, g)
                slices += 1
    buffers.phase_begins[t.phases] = found


@inlined
def list_taps_of_slice(buffers, found, phase, kd, to_slice, row_windows, g):
    """The same for the slice of windows `to_slice` elements after the first; return the end of the list."""
    for kh in range(g.KH - 1, -1, -1):
        for kw in range(g.KW - 1, -1, -1):
            if kh * g.dh % g.sh * g.sw + kw * g.dw % g.sw == phase:
                buffers.sources[found] = (kh * g.dh // g.sh * row_windows + kw * g.dw // g.sw) * g.inner - to_slice
                offset = buffers.taps.dtype.type((kd * g.KH + kh) * g.KW + kw)
                store(buffers.taps, found, vector_like(buffers.sums, offset))
                found += width_of(buffers.sums)
    return found


@inlined
def sum_phase(sums, windows, count, buffers, phase, dx, to):
    """Add up the gradients of the cells of one phase, two vectors at a time. dx is prefetched from `to` on."""
    width = width_of(sums)
    begin, end = buffers.phase_begins[phase], buffers.phase_begins[phase + 1]
    for i in range(0, count, assume_positive(2 * width)):
        low = vector_like(sums, sums.dtype.type(0))
        high = low
        prefetch_to_write(dx, to + i)
        prefetch_to_write(dx, to + i + width)
        tap = begin
        while tap < end:
            source = windows.origin + i - buffers.sources[np.uint64(tap)]
            offset = load_like(low, buffers.taps, tap)
            low_wins = load_like(low, windows.argmax, source) == offset
            high_wins = load_like(low, windows.argmax, source + width) == offset
            low = where(low_wins, low + load(windows.grads, source), low)
            high = where(high_wins, high + load(windows.grads, source + width), high)
            tap += width
        store(sums, i, low)
        store(sums, i + width, high)


@inlined
def write_as_one_row(dx, sums, tile, limit, g, half_format):
    """Write the sums of a tile where their pitch is that of dx."""
    first, end = max(tile.first_row - g.ph, 0), min(tile.first_row + tile.rows - g.ph, g.H)
    at = ((first + g.ph - tile.first_row) * g.OW + g.pw) * g.inner
    to = ((tile.plane * g.D + tile.d) * g.H + first) * g.W * g.inner
    write_sums(dx, to, limit, tail_view(sums, at), (end - first) * g.W * g.inner, half_format)


@inlined
def write_rows(dx, sums, row_windows, tile, limit, g, t, half_format):
    """Write the sums of a tile, row by row. A row of stride blocks has `sh` rows of cells."""
    w0 = max(tile.first_column * g.sw - g.pw, 0)
    w1 = min((tile.first_column + tile.columns) * g.sw - g.pw, g.W)
    first, first_phase = divmod(w0 + g.pw - tile.first_column * g.sw, g.sw)
    for row in range(tile.rows):
        for row_phase in range(g.sh):
            h = (tile.first_row + row) * g.sh + row_phase - g.ph
            if 0 <= h < g.H:
                to = (((tile.plane * g.D + tile.d) * g.H + h) * g.W + w0) * g.inner
                row_limit = limit if t.column_tiles == 1 else to + (w1 - w0) * g.inner
                row_sums = tail_view(sums, row_phase * g.sw * t.phase_step + (row * row_windows + first) * g.inner)
                write_row(dx, to, row_limit, row_sums, first_phase, w1 - w0, g, t, half_format)


@inlined
def write_row(dx, to, limit, sums, first_phase, count, g, t, half_format):
    """Write `count` cells of a row. The first is of `first_phase`."""
    if g.sw == 1:
        write_sums(dx, to, limit, sums, count * g.inner, half_format)
    elif g.sw == 2 and g.inner == 1:
        even, odd = tail_view(sums, 0), tail_view(sums, t.phase_step)
        if first_phase == 1:
            even, odd = odd, tail_view(even, 1)
        write_interleaved_sums(dx, to, limit, even, odd, count, half_format)
    elif g.inner == 1:
        for w in range(min(g.sw, count)):
            column, phase = divmod(first_phase + w, g.sw)
            sums_of_phase = tail_view(sums, phase * t.phase_step + column)
            write_every(tail_view(dx, to + w), sums_of_phase, g.sw, count - w, half_format)
    else:
        for w in range(count):
            column, phase = divmod(w + first_phase, g.sw)
            cell = tail_view(sums, phase * t.phase_step + column * g.inner)
            write_sums(dx, to + w * g.inner, limit, cell, g.inner, half_format)


@inlined
def write_every(dx, sums, step, count, half_format):
    """Write sums to every step-th of `count` elements of dx."""
    for i in range((count - 1) // step + 1):
        dx[np.uint64(i * step)] = narrow(sums[np.uint64(i)], half_format)
