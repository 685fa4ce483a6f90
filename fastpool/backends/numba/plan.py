"""How a call is cut into work items, and what its kernel is told: pure functions of the window, layout and dtypes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool._rules import half_key
from fastpool.arrays import is_bfloat16, is_half, lowest, sum_dtype
from fastpool.backends.numba import scratch
from fastpool.backends.numba.library import Empty
from fastpool.backends.numba.scratch import BLOCK, BYTES
from fastpool.window import Window

TAPS_SIDE_BY_SIDE = 1, 2, 3, 4, 5, 8  # in a row: those whose gradients one store puts side by side

# Windows of more cells add their gradients to dx one by one; of fewer, cells gather theirs, in vectors, tap after tap.
# The former is fast where neighbouring windows, which add to the same cells, need not wait for each other, since there
# are other planes or channels to go on with. Two-byte floats are slow to gather: their sums are kept in float32.
MOST_GATHERED = 32

# Bytes of scratch for each thread, at most. What would take more takes smaller blocks, or another kernel.
MOST_SCRATCH = 1 << 23

# Elements that a thread packs at once: windows that reach further are read in place, cell by cell. From the second
# number on, blocks are made smaller; from the third on, windows that share few cells are read in place.
MOST_PACKED, LESS_PACKED, MUCH_PACKED = 1 << 22, 1 << 20, 1 << 17

# How often cells are read at most by windows that share few of them. A two-byte float becomes a key each time.
MOST_READS, MOST_READS_OF_HALF = 4, 1

# Elements of scratch up to which cells gather their gradients: beyond, strides are far above the window, or rows long.
MOST_GATHER_SCRATCH = 1 << 18

# Windows of so many rows, in rows of so many numbers, are taken row by row instead of block by block.
LEAST_TALL, LEAST_WIDE = 9, 512

# Maxima of rows that a thread keeps at once.
MOST_KEPT = 1 << 19

# Sums that a thread adds up at once, where windows let it: what stays in its second cache.
MOST_SUMS, MOST_SUMS_IN_SCRATCH = 1 << 17, 1 << 20

# Numbers of columns that are laid out at once, or sums that these are added to: what stays in the second cache.
MOST_LAID = 1 << 15

# Strides of so many cells have the sums of each phase side by side.
MOST_PHASES = 8

# Columns of more bytes do not stay in the last cache: they are written past it, unless their pages have just been made
# and so lie in it.
LARGE = 1 << 25

FLOAT16_INFINITY, BFLOAT16_INFINITY = np.int16(0x7C00), np.int16(0x7F80)


class Plan(NamedTuple):
    """A call, but for its arrays."""

    kernel: str
    dtypes: tuple[np.dtype | None, ...]  # of the arrays; None for one that the kernel is not given
    constants: tuple[Any, ...]  # what it takes behind the arrays
    units: int  # work items
    nbytes: int  # that it moves
    scratch_bytes: int  # for each thread


class _Seen(NamedTuple):
    """How the kernels see a dtype: bool as uint8, two-byte floats as int16."""

    infinity: np.int16 | None  # tells the two-byte floats from numbers and from each other: the bits of +inf
    lowest: np.generic  # the lowest value as the kernels compare it
    sums: Empty  # of the dtype that gradients are added up in


@cache
def _seen(dtype):
    value, sums = np.array([lowest(dtype)], dtype), Empty(np.dtype(sum_dtype(dtype)))
    if dtype.kind == "b":
        return _Seen(None, np.uint8(0), sums)
    if not is_half(dtype):
        return _Seen(None, value[0], sums)
    infinity = BFLOAT16_INFINITY if is_bfloat16(dtype) else FLOAT16_INFINITY
    return _Seen(infinity, np.int16(half_key(value.view(np.int16)[0], infinity)), sums)


def _pooled_bytes(window, outer, inner, dtype):
    return dtype.itemsize * outer * inner * (prod(window.size) + window.positions)


def max_pool(window: Window, outer: int, inner: int, dtype: np.dtype, index: np.dtype | None, threads: int) -> Plan:
    """Of arrays (x, y, argmax); `index` is the dtype of the argmax, or None."""
    seen, widths = _seen(dtype), (dtype.itemsize, 0 if index is None else index.itemsize)
    tall = _tall_plan(window, outer, inner, widths, threads)
    numbers, block, units = tall or _forward_plan(window, outer, inner, widths, is_half(dtype))
    if isinstance(block, int):
        kernel, nbytes = "max_pool_direct", scratch.direct_scratch(*widths)[-1]
    elif tall is None:
        kernel, nbytes = "max_pool", scratch.max_pool_scratch(numbers, inner, block, *widths)[-1]
    else:
        kernel, nbytes = "max_pool_of_tall_windows", scratch.tall_scratch(numbers, inner, block, *widths)[-1]
    constants = seen.infinity, seen.lowest, numbers, inner, block
    moved = _pooled_bytes(window, outer, inner, dtype)
    return Plan(kernel, (dtype, dtype, index), constants, units, moved, nbytes)


def max_pool_backward(window: Window, outer: int, inner: int, dtype: np.dtype) -> Plan:
    """Of arrays (dy, argmax, dx)."""
    seen, half, index = _seen(dtype), is_half(dtype), window.argmax_dtype
    dtypes, moved = (dtype, index, dtype), _pooled_bytes(window, outer, inner, dtype)
    if window.side_by_side and (inner > 1 or window.kernel[2] in TAPS_SIDE_BY_SIDE):
        constants = _as_one_plane(window, outer), inner
        return Plan("max_pool_backward_of_tiles", dtypes, constants, outer * window.out[0] * window.out[1], moved, 0)
    numbers, block, gathered, units = _backward_plan(window, outer, inner, not half)
    tile, tiles = _backward_tiles(window, inner, half)
    beside_others = inner > 3 or (outer > 3 and tiles == 1)
    nbytes = scratch.by_taps_scratch(numbers, inner, block, seen.sums.dtype.itemsize, index.itemsize)[-1]
    scattered = window.volume > MOST_GATHERED or (half and beside_others) or gathered > MOST_GATHER_SCRATCH
    if scattered or nbytes > MOST_SCRATCH:
        _, nbytes = scratch.backward_scratch(tile, index.itemsize, 4 if half else 0)
        constants = seen.infinity, window.numbers, inner, tile
        return Plan("max_pool_backward", dtypes, constants, outer * tiles, moved, nbytes)
    constants = seen.infinity, seen.sums, numbers, inner, block
    return Plan("max_pool_backward_by_taps", dtypes, constants, units, moved, nbytes)


def misplaced(window: Window, outer: int, inner: int, index: np.dtype) -> Plan:
    """Of arrays (argmax, found), the latter one byte."""
    nbytes = scratch.check_scratch(window.numbers, inner, index.itemsize)[1]
    # It calculates on a byte about as long as others take to move eight.
    moved = 8 * index.itemsize * outer * inner * window.positions
    return Plan("misplaced", (index, np.dtype(np.uint8)), (window.numbers, inner), outer, moved, nbytes)


def max_unpool(outer: int, windows: int, cells: int, inner: int, dtype: np.dtype) -> Plan:
    """Of arrays (y, indices, x). Elements are only moved, and so seen as unsigned integers: fewer kernels."""
    bits = np.dtype(f"u{dtype.itemsize}")
    dtypes, moved = (bits, np.dtype(np.int64), bits), dtype.itemsize * outer * inner * (windows + cells)
    return Plan("max_unpool", dtypes, (windows, cells, inner), outer, moved, 0)


def im2col(
    window: Window, inside: bool, cols_steps: tuple[int, ...], itemsize: int, fill_bits: int, streams: bool
) -> Plan:
    """Of arrays (x, cols), seen as unsigned integers, since numbers are only moved: fewer kernels.

    Images may lie `inside` the columns; `fill_bits` are the value in the padding; `streams` tells whether columns are
    written past the caches.
    """
    dtype = np.dtype(f"u{itemsize}")
    x_steps, (block, units), _ = _column_plan(window, inside, cols_steps[3], itemsize)
    _, _, nbytes = scratch.im2col_scratch(window.numbers, block, itemsize)
    constants = dtype.type(fill_bits), window.numbers, x_steps, cols_steps, window.channels, block, streams
    return Plan("im2col", (dtype, dtype), constants, units, _column_bytes(window, dtype), nbytes)


def col2im(window: Window, inside: bool, cols_steps: tuple[int, ...], dtype: np.dtype) -> Plan:
    """Of arrays (cols, dx)."""
    seen = _seen(dtype)
    x_steps, _, (block, units) = _column_plan(window, inside, cols_steps[3], seen.sums.dtype.itemsize)
    _, _, nbytes = scratch.col2im_scratch(block, seen.sums.dtype.itemsize)
    constants = seen.infinity, seen.sums, window.numbers, x_steps, cols_steps, window.channels, block
    return Plan("col2im", (dtype, dtype), constants, units, _column_bytes(window, dtype), nbytes)


def _column_bytes(window, dtype):
    planes = window.batch * window.channels
    return dtype.itemsize * planes * (prod(window.size) + window.volume * window.positions)


def activation(kernel: str, dtype: np.dtype, size: int, beta: float | None = None) -> Plan:
    """Of arrays (x, y), or (dy, x, dx) for a gradient."""
    dtypes = (dtype,) * (3 if kernel.endswith("_backward") else 2)
    # An exponential takes as long as to move some bytes more.
    moved = dtype.itemsize * size * (len(dtypes) if beta is None else 8)
    constants = (_seen(dtype).infinity,) if beta is None else (beta, _seen(dtype).infinity)
    return Plan(kernel, dtypes, constants, size, moved, 0)


def _forward_plan(window, outer, inner, widths, half):
    """The geometry; the windows to take at once, rows by columns where they are packed, else so many of a row that are
    read in place; and how many units. `widths` are the bytes of a value and of an offset."""
    numbers = _as_one_plane(window, outer)
    D, H, W, KD, KH, KW, _, sh, sw, _, _, _, _, dh, dw, OD, OH, OW = numbers
    planes, reach_h, reach_w = outer * window.out[1] // OH * OD, (KH - 1) * dh, (KW - 1) * dw
    # Scratch stays in the caches closest to the core, but blocks overlap little: much of a block is not its halo.
    for halos_h, halos_w in ((3, 2), (1, 1)):
        columns = min(max(BLOCK // (inner * sw), halos_w * reach_w // sw, 1), OW)
        pitch = max(columns + reach_w // sw, -(-W // sw) if columns == OW else 0)
        block = BLOCK if reach_h < sh else 8 * BLOCK
        rows = min(max(block // (pitch * sw * sh * inner), halos_h * reach_h // sh, 1), OH)
        packed = min(KD, D) * ((rows - 1) * sh + reach_h + 1) * pitch * sw * inner
        if packed <= LESS_PACKED:
            break
    # Packing pays where windows share cells, or have no vectors of their own.
    lanes, most_reads = BYTES // widths[0], MOST_READS_OF_HALF if half else MOST_READS
    vectors = inner >= lanes or (inner == dw == 1 and lanes <= KW)
    shares_few = vectors and window.volume * window.positions <= most_reads * prod(window.size)
    in_place = packed > MOST_PACKED or (shares_few and (packed > MUCH_PACKED or inner > 1 or OW == 1))
    reads = prod(map(min, numbers[:3], numbers[3:6])) * inner  # of a window in place, at most
    while not in_place:
        along, *_, nbytes = scratch.max_pool_scratch(numbers, inner, (rows, columns), *widths)
        if nbytes <= MOST_SCRATCH:
            break
        in_place = rows * columns * reads <= along
        if columns == 1 or (rows > 1 and rows * sh * (reach_w + sw) > columns * sw * (reach_h + sh)):
            rows = -(-rows // 2)
        else:
            columns = -(-columns // 2)
    if in_place:
        columns = min(max(8 * BLOCK // (window.volume * inner), 1), OW)
        return numbers, columns, planes * OH * -(-OW // columns)
    return numbers, (rows, columns), planes * -(-OH // rows) * -(-OW // columns)


def depends_on_threads(window: Window, inner: int) -> bool:
    """Whether `max_pool` looks at the number of threads: where many tall windows lie one row apart."""
    KH, (_, OH, OW) = window.kernel[1], window.out
    row_by_row = window.size[0] == window.kernel[0] == window.out[0] == window.stride[1] == window.dilation[1] == 1
    return row_by_row and KH >= LEAST_TALL and OH >= 2 * KH and OW * inner >= LEAST_WIDE


def _tall_plan(window, outer, inner, widths, threads):
    """As `_forward_plan`, for tall windows that lie one row apart; else None."""
    if not depends_on_threads(window, inner):
        return None
    (_, KH, KW), (_, _, sw), (_, OH, OW) = window.kernel, window.stride, window.out
    reach = (KW - 1) * window.dilation[2]
    halo = min(2 * reach // sw, MOST_PACKED // ((KH + 1) * inner))
    columns = _with_whole_lanes(min(max(MOST_KEPT // (KH * inner), halo, LEAST_WIDE // inner + 1), OW), OW, inner)
    while scratch.tall_scratch(window.numbers, inner, (OH, columns), *widths)[-1] > MOST_SCRATCH:
        fewer = _with_whole_lanes(columns // 2, OW, inner) if columns // 2 * inner >= BYTES else columns
        if fewer >= columns or fewer * window.volume <= fewer * sw + 2 * reach:  # as few cells are read in place
            return None
        columns = fewer
    blocks = max(OH // (8 * KH), min(-(-threads // outer), OH // KH))
    rows = -(-OH // blocks)
    return window.numbers, (rows, columns), outer * -(-OH // rows) * -(-OW // columns)


def _with_whole_lanes(columns, OW, inner):
    """So many columns, or more, that the last block of a row has whole lanes too."""
    while 0 < OW % columns * inner < BYTES:
        columns += 1
    return columns


def _as_one_plane(window, outer):
    """The geometry; where no window reaches into the next plane nor stops before its end, all planes are a tall one."""
    numbers = window.numbers
    D, H, W, KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw, OD, OH, OW = numbers
    tile = ph == 0 and OH * sh == H and (KH - 1) * dh < sh
    if D == KD == OD == 1 and pd == 0 and tile:
        return (1, outer * H, W, 1, KH, KW, 1, sh, sw, 0, 0, pw, dd, dh, dw, 1, outer * OH, OW)
    return numbers


def _backward_plan(window, outer, inner, calculable):
    """The geometry; blocks of cells: rows by columns, in strides, and whether windows are alike; the elements of
    scratch; and the units."""
    numbers = _as_one_plane(window, outer)
    D, H, W, KD, KH, KW, sd, sh, sw, _, ph, pw, dd, dh, dw, _, _, _ = numbers
    planes, back_h, back_w = outer * window.size[1] // H * D, (KH - 1) * dh // sh, (KW - 1) * dw // sw
    all_rows, all_columns, slices = -(-(H + ph) // sh), -(-(W + pw) // sw), (KD - 1) * dd // sd + 1
    alike = calculable and all(map(_fills, *(numbers[axes : axes + 3] for axes in range(0, 18, 3))))
    if alike:  # a block costs no more than its cells
        columns = min(max(BLOCK // (inner * sw * sh), 1), all_columns)
        rows = BLOCK // (columns * inner * sw * sh) if columns == all_columns else 1
    else:
        columns = min(max(BLOCK // (inner * sw), back_w, 1), all_columns)
        rows = max(BLOCK // ((columns + back_w) * inner * sw * sh), back_h)
    rows = min(max(rows, 1), all_rows)
    gathered = max(slices * (rows + back_h), rows * sh * sw) * (columns + back_w) * inner
    units = planes * -(-all_rows // rows) * -(-all_columns // columns)
    return numbers, (rows, columns, int(alike)), gathered, units


def _fills(size, kernel, stride, padding, dilation, out):
    """Whether windows along an axis start up to its end, a stride from it at most, and each has a cell."""
    some_before = padding == 0 or (padding <= (kernel - 1) * dilation and dilation <= size)
    return size <= out * stride and (out - 1) * stride - padding < size and some_before


def _backward_tiles(window, inner, in_scratch):
    """What to add up at once, rows by columns of so many planes and channels, and how often that is in a plane.

    Few windows shall reach into two tiles. Tiles whose sums are `in_scratch` are bounded; one of a single cell may be
    of some of its channels.
    """
    (D, H, W), (KD, KH, _), (dd, dh, _) = window.size, window.kernel, window.dilation
    rows, columns, reach = D * H, W, (KD - 1) * dd * H + (KH - 1) * dh
    tile = max(MOST_SUMS // (W * inner), 4 * reach, 1)
    if in_scratch:
        tile, columns = max(min(tile, MOST_SUMS_IN_SCRATCH // (W * inner)), 1), max(MOST_SUMS_IN_SCRATCH // inner, 1)
    channels = min(inner, MOST_SUMS_IN_SCRATCH) if in_scratch else inner
    columns = min(columns, W)
    tiles = -(-rows // tile)
    planes = 8 if tiles == inner == 1 and columns == W else 1
    if in_scratch:
        planes = max(min(planes, MOST_SUMS_IN_SCRATCH // (rows * W)), 1)
    return (-(-rows // tiles), columns, planes, channels), tiles * -(-W // columns) * -(-inner // channels)


@lru_cache(maxsize=1024)
def _column_plan(window, inside, inner, itemsize):
    """The steps in x from image to image, channel to channel and cell to cell; blocks and units of im2col and col2im.

    A block is so many rows and columns: of windows, with as many taps down and along at once, all unless they reach
    too far; of cells, with as many phases of the stride to a column. And it is of so many images, where these lie
    inside the columns: all unless they are very many. `itemsize` is that of the elements of scratch.
    """
    D, H, W, _, KH, KW, _, sh, sw, _, _, pw, _, dh, dw, OD, OH, OW = window.numbers
    channels, plane = window.channels, D * H * W
    x_steps = (plane * channels, 1, channels) if inside else (plane * channels, plane, 1)
    planes = channels * (1 if inner > 1 else window.batch)

    along, beyond = KW, (KW - 1) * dw
    columns = min(max(MOST_LAID // (inner * max(KW, sw)), 2 * beyond // sw, 1), OW)
    too_many = scratch.im2col_scratch(window.numbers, (1, columns, 1, along, inner), itemsize)[-1] > MOST_SCRATCH
    if (columns * sw + beyond) * inner > 4 * MOST_LAID or too_many:
        along, beyond, columns = 1, 0, min(max(MOST_LAID // (inner * sw), 1), OW)
    laid = max(columns * along, columns * sw + beyond) * inner  # numbers for a row of windows
    down, below = KH if along == KW else 1, (KH - 1) * dh // sh
    rows = min(max(MOST_LAID // laid, 2 * below, 1), OH)
    if (rows + below) * laid > 4 * MOST_LAID:
        down, rows = 1, min(max(MOST_LAID // laid, 1), OH)
    images, of_taps = inner, (down, along)
    while (
        images > 1
        and scratch.im2col_scratch(window.numbers, (rows, columns, *of_taps, images), itemsize)[-1] > MOST_SCRATCH
    ):
        columns, images = 1, -(-images // 2)
    units = planes * -(-inner // images) * OD * -(-OH // rows) * -(-OW // columns)
    windows = (rows, columns, down, along, images), units

    phases, images = sw if sw <= MOST_PHASES else 1, inner
    while scratch.col2im_scratch((1, 1, phases, images), itemsize)[-1] > MOST_SCRATCH:
        phases, images = 1, images if phases > 1 else -(-images // 2)
    all_columns = (pw + W - 1) // phases + 1 - pw // phases
    columns = min(max(MOST_LAID // (inner * phases), 1), all_columns) if images == inner else 1
    rows = min(max(MOST_LAID // ((inner * columns + 16) * phases), 1), H)
    units = planes * -(-inner // images) * D * -(-H // rows) * -(-all_columns // columns)
    return x_steps, windows, ((rows, columns, phases, images), units)


USUAL = tuple(map(np.dtype, ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")))
FIRST = tuple(map(np.dtype, ("u1", "f4")))


def usual_calls(dtypes: tuple[np.dtype, ...] = USUAL, indices: tuple[str, ...] = ("u1", "u2", "u4")) -> Iterator[Plan]:
    """A call of each usual kernel: those that are built with the package, or compiled by a warm-up.

    bool goes with uint8, bfloat16 with float16.
    """
    one = Window.plan(1, (1,), 1)
    overlapping, of_many_taps = (Window.plan(1, (1,), k, padding=k // 2) for k in (3, MOST_GATHERED + 1))
    tall = Window.plan(2, (2 * LEAST_TALL, LEAST_WIDE), LEAST_TALL, 1, LEAST_TALL // 2)
    direct = Window.plan(1, (BYTES,), BYTES)
    for index in map(np.dtype, indices):
        yield misplaced(one, 1, 1, index)
    for itemsize in sorted({dtype.itemsize for dtype in dtypes}):
        yield im2col(one, False, (1, 1, 1, 1), itemsize, 0, False)
    for dtype in dtypes:
        for window in (one, tall, direct):
            yield max_pool(window, 1, 1, dtype, None, 1)
            for index in map(np.dtype, indices):
                yield max_pool(window, 1, 1, dtype, index, 1)
        yield max_unpool(1, 1, 1, 1, dtype)
        yield col2im(one, False, (1, 1, 1, 1), dtype)
        if dtype.kind == "f":
            for window in (one, overlapping, of_many_taps):
                for index in map(np.dtype, indices):
                    made = max_pool_backward(window, 1, 1, dtype)
                    yield made._replace(dtypes=(dtype, index, dtype))
            for kernel in ("hard_swish", "hard_swish_backward"):
                yield activation(kernel, dtype, 1)
            for kernel in ("swish", "swish_backward"):
                yield activation(kernel, dtype, 1, 1.0)
