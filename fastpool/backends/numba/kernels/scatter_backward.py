"""The gradient of a max pool, scattered: each window adds its gradient to the cell that its offset names.

Its time does not depend on the number of taps. The plan chooses this kernel for windows of many taps, for two-byte
floats where there are several channels or planes, and where gathering takes too much scratch. dy and the argmax are
read once for every tile that their windows reach; the sums of a tile stay in the caches unless windows are very large.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from fastpool.backends.numba.decorators import INLINED, inlined, kernel
from fastpool.backends.numba.kernels.rows import fill
from fastpool.backends.numba.kernels.windows import (
    after_last_tap,
    after_last_window,
    first_tap,
    first_window,
    has_cell,
)
from fastpool.backends.numba.simd.half import narrow, widen
from fastpool.backends.numba.simd.views import scratch_view, slice_view, tail_view


class Tile(NamedTuple):
    """Cells of a plane, or all cells of two planes."""

    plane: int
    planes: int
    first: int  # rows from the first up to the end, counted through all slices of a plane
    end: int
    left: int  # columns from the left up to the right
    right: int
    channel: int
    channels: int
    size: int  # elements of each plane


class Windows(NamedTuple):
    """The gradients of all windows, and the offsets of their winners."""

    grads: Any
    argmax: Any
    lookup: Any  # where offsets are bytes: the elements from a window's start to the tap of each offset


@kernel
def max_pool_backward_scatter(dy, argmax, dx, half_format, g, t, scratch, start, stop):
    """Work items are tiles of one plane of dx. Each is set to zero, and then every window that can reach it adds to it.

    Two whole planes of one channel that follow each other are taken together: see `add_two_planes`.
    """
    lookup = scratch_view(scratch, 0, t.lookup, np.int64)
    for offset in range(t.lookup):
        lookup[offset] = elements_between(offset, offset // g.KW, offset // (g.KH * g.KW), t)
    windows, item = Windows(dy, argmax, lookup), start
    while item < stop:
        tile = tile_at(item, stop, g, t)
        item += tile.planes
        begin = ((tile.plane * g.D * g.H + tile.first) * g.W + tile.left) * g.inner + tile.channel
        target = slice_view(dx, begin, tile.planes * tile.size)
        sums = sums_of(target, tail_view(scratch, t.sums_begin), half_format)
        fill(sums, 0)
        add_windows(sums, windows, tile, g, t, half_format)
        write_sums(target, sums, half_format)


@inlined
def tile_at(item, stop, g, t):
    rest, channel_block = divmod(item, t.channel_blocks)
    rest, column_block = divmod(rest, t.column_blocks)
    plane, row_block = divmod(rest, t.row_blocks)
    first, left, channel = row_block * t.block_rows, column_block * t.block_columns, channel_block * t.block_channels
    end, right = min(first + t.block_rows, g.D * g.H), min(left + t.block_columns, g.W)
    channels, planes = min(t.block_channels, g.inner - channel), min(stop - item, t.most_planes)
    size = (end - first) * (right - left) * channels
    return Tile(plane, planes, first, end, left, right, channel, channels, size)


def sums_of(target, scratch, half_format):
    """Where the sums of `target` are: in itself, or for two-byte floats in scratch, as float32."""


@overload(sums_of, jit_options=INLINED)
def _sums_of(target, scratch, half_format):
    if isinstance(half_format, types.NoneType):
        return lambda target, scratch, half_format: target
    return lambda target, scratch, half_format: scratch_view(scratch, 0, len(target), np.float32)


@inlined
def write_sums(target, sums, half_format):
    if half_format is not None:
        for i in range(len(target)):
            target[i] = narrow(sums[i], half_format)


@inlined
def add_windows(sums, windows, tile, g, t, half_format):
    """Let all windows that can reach a tile add to it, slice by slice and row by row."""
    first_od = first_window(tile.first // g.H, (g.KD - 1) * g.dd + 1, g.sd, g.pd)
    for od in range(first_od, after_last_window((tile.end - 1) // g.H, g.sd, g.pd, g.OD)):
        d = od * g.sd - g.pd
        first_kd, end_kd = first_tap(d, g.dd), after_last_tap(d, g.KD, g.dd, g.D)
        for oh in range(g.OH):
            h = oh * g.sh - g.ph
            first_kh, end_kh = first_tap(h, g.dh), after_last_tap(h, g.KH, g.dh, g.H)
            if first_kd < end_kd and first_kh < end_kh:
                top = (d + first_kd * g.dd) * g.H + h + first_kh * g.dh
                bottom = (d + (end_kd - 1) * g.dd) * g.H + h + (end_kh - 1) * g.dh
                if bottom >= tile.first and top < tile.end:
                    add_row(sums, windows, od * g.OH + oh, d * g.H + h - tile.first, tile, g, t, half_format)


@inlined
def add_row(sums, windows, row, first, tile, g, t, half_format):
    """Add a row of windows to a tile; their first row of cells is the tile's row `first`."""
    first_ow, end_ow = 0, g.OW
    if t.column_blocks > 1:
        first_ow = first_window(tile.left, (g.KW - 1) * g.dw + 1, g.sw, g.pw)
        end_ow = after_last_window(tile.right - 1, g.sw, g.pw, g.OW)
    source = ((tile.plane * g.OD * g.OH + row) * g.OW + first_ow) * g.inner + tile.channel
    grads = slice_view(windows.grads, source, (end_ow - first_ow) * g.inner)
    argmax = tail_view(windows.argmax, source)
    origin = (first * g.W + first_ow * g.sw - g.pw - tile.left) * g.inner
    if g.inner > 1:
        add_channels(sums, grads, argmax, windows.lookup, origin, first_ow, tile, g, t, half_format)
    elif tile.planes == 2:
        add_two_planes(sums, grads, argmax, windows.lookup, origin, first_ow, tile, g, t, half_format)
    else:
        add_plane(sums, grads, argmax, windows.lookup, origin, first_ow, tile, g, t, half_format)


@inlined
def add_channels(sums, grads, argmax, lookup, origin, first_ow, tile, g, t, half_format):
    """Add a row of windows with channels last. The first tap of the first window is the tile's element `origin`."""
    for ow in range(len(grads) // g.inner):
        if has_column(first_ow + ow, g, t):
            at, start = ow * g.inner, origin + ow * g.sw * g.inner
            for channel in range(tile.channels):
                add(sums, channel, grads, argmax, at + channel, lookup, start, tile, t, g, half_format)


@inlined
def add_plane(sums, grads, argmax, lookup, origin, first_ow, tile, g, t, half_format):
    for ow in range(len(grads)):
        if has_column(first_ow + ow, g, t):
            add(sums, 0, grads, argmax, ow, lookup, origin + ow * g.sw, tile, t, g, half_format)


@inlined
def add_two_planes(sums, grads, argmax, lookup, origin, first_ow, tile, g, t, half_format):
    """Additions to one plane often wait for each other; those to another do not."""
    other_grads, other_argmax = tail_view(grads, t.windows), tail_view(argmax, t.windows)
    for ow in range(len(grads)):
        if has_column(first_ow + ow, g, t):
            start = origin + ow * g.sw
            add(sums, 0, grads, argmax, ow, lookup, start, tile, t, g, half_format)
            add(sums, tile.size, other_grads, other_argmax, ow, lookup, start, tile, t, g, half_format)


@inlined
def has_column(ow, g, t):
    """Whether a window has a tap in a column of the input."""
    return not t.some_without_column or has_cell(ow * g.sw - g.pw, g.KW, g.dw, g.W)


@inlined
def add(sums, begin, grads, argmax, at, lookup, start, tile, t, g, half_format):
    """Add the gradient of a window to the cell that its offset names, if the tile has that cell.

    The window's first tap is element `start` of the tile, whose sums of this channel or plane begin at `begin`.
    """
    cell = start + elements_from_start(argmax[np.uint64(at)], lookup, g, t)
    if np.uint64(cell) < np.uint64(tile.size):
        sums[np.uint64(cell + begin)] += widen(grads[np.uint64(at)], half_format)


@inlined
def elements_between(offset, row, slice, t):
    """Elements of dx from the start of a window to the tap of an offset, which is in this row and slice of taps."""
    return offset * t.next_kw + row * t.wrap_kw + slice * t.wrap_kh


def elements_from_start(offset, lookup, g, t):
    """The same for an element of an argmax: a lookup for one byte, reciprocals for two, divisions for more."""


@overload(elements_from_start, jit_options=INLINED)
def _elements_from_start(offset, lookup, g, t):
    if offset.bitwidth == 8:
        return lambda offset, lookup, g, t: lookup[offset]
    if offset.bitwidth == 16:

        def elements_from_start(offset, lookup, g, t):
            tap = np.int64(offset)
            return elements_between(tap, tap * t.reciprocal_row >> 32, tap * t.reciprocal_slice >> 32, t)

        return elements_from_start

    def elements_from_start(offset, lookup, g, t):
        tap = np.uint64(offset)
        row, slice = tap // np.uint64(g.KW), tap // np.uint64(g.KH * g.KW)
        return elements_between(np.int64(tap), np.int64(row), np.int64(slice), t)

    return elements_from_start
