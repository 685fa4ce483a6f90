"""Kernels on all CPU cores, compiled by Numba on first use: the default where Numba is installed."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache, partial, wraps
from math import prod
from typing import NamedTuple

import numpy as np

from fastpool._rules import half_key
from fastpool.arrays import is_bfloat16, is_half, lowest, sum_dtype
from fastpool.backends.numba import columns, elementwise, pool
from fastpool.backends.numba.columns import col2im_scratch, im2col_scratch
from fastpool.backends.numba.compilation import cache_directory
from fastpool.backends.numba.lanes import BYTES
from fastpool.backends.numba.threads import PARALLEL_BYTES, launch, new_scratch
from fastpool.threads import get_num_threads
from fastpool.window import Window

__all__ = [
    "argmax_fits",
    "cache_directory",
    "col2im",
    "compile_by_name",
    "hard_swish",
    "hard_swish_backward",
    "im2col",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "prepared_max_pool",
    "prepared_max_pool_backward",
    "swish",
    "swish_backward",
    "warmup_tasks",
]

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


class _Kind(NamedTuple):
    """How the kernels see a dtype."""

    seen_as: np.dtype  # bool as uint8, two-byte floats as int16: what Numba knows
    infinity: np.int16 | None  # tells the two-byte floats from numbers and from each other: the bits of +inf
    lowest: np.generic  # the lowest value as the kernels compare it
    sums: np.ndarray  # empty, of the dtype that gradients are added up in


@cache
def _kind(dtype):
    value, sums = np.array([lowest(dtype)], dtype), np.empty(0, sum_dtype(dtype))
    if dtype.kind == "b":
        return _Kind(np.dtype(np.uint8), None, np.uint8(0), sums)
    if not is_half(dtype):
        return _Kind(dtype, None, value[0], sums)
    infinity = BFLOAT16_INFINITY if is_bfloat16(dtype) else FLOAT16_INFINITY
    return _Kind(np.dtype(np.int16), infinity, np.int16(half_key(value.view(np.int16)[0], infinity)), sums)


def _flat(a):
    """One flat writeable view in a dtype that Numba knows."""
    if not a.flags.writeable and a.size:
        a = _as_writeable(a)
    a, seen_as = a.reshape(-1), _kind(a.dtype).seen_as
    return a if a.dtype is seen_as else a.view(seen_as)


def _as_writeable(a):
    """The same memory as a writeable array: Numba would compile every kernel again for a read-only input."""
    memory = (ctypes.c_ubyte * a.nbytes).from_address(a.ctypes.data)
    return np.frombuffer(memory, np.uint8).view(a.dtype).reshape(a.shape)


def _launched(plan):
    """Make a backend's function of one that says which kernel to run over how many units, the bytes that it moves, the
    bytes of scratch for a thread, and what it takes."""

    @wraps(plan)
    def run(*arguments, **options):
        launch(*plan(*arguments, **options))

    run.plan = plan
    return run


@_launched
def max_pool(x, window, y, argmax):
    index = None if argmax is None else argmax.dtype
    *call, constants = _forward_call(window, x.shape[0], x.shape[4], x.dtype, index, get_num_threads())
    return *call, _flat(x), _flat(y), None if argmax is None else argmax.reshape(-1), *constants


def prepared_max_pool(window, outer, inner, dtype):
    index = window.argmax_dtype if window.volume <= 1 << 32 else None
    kernel, units, nbytes, scratch_bytes, constants = _forward_call(window, outer, inner, dtype, None, 1)
    *call_with_argmax, constants_with_argmax = _forward_call(window, outer, inner, dtype, index, 1)
    kernel_with_argmax, units_with_argmax, _, bytes_with_argmax = call_with_argmax
    # Tall windows are planned for the threads of the moment.
    if _kind(dtype).seen_as != dtype or pool.max_pool_of_tall_windows in (kernel, kernel_with_argmax):
        return None

    def run(x, y, argmax):
        if argmax is None:
            launch(kernel, units, nbytes, scratch_bytes, x.ravel(), y.ravel(), None, *constants)
        else:
            launch(*call_with_argmax, x.ravel(), y.ravel(), argmax.ravel(), *constants_with_argmax)

    def run_alone(x, y, argmax):
        if argmax is None:
            kernel(x.ravel(), y.ravel(), None, *constants, new_scratch(scratch_bytes), 0, units)
        else:
            arrays = x.ravel(), y.ravel(), argmax.ravel()
            kernel_with_argmax(*arrays, *constants_with_argmax, new_scratch(bytes_with_argmax), 0, units_with_argmax)

    return run if nbytes >= PARALLEL_BYTES else run_alone


@lru_cache(maxsize=1024)
def _forward_call(window, outer, inner, dtype, index, threads):
    """How arrays of these dtypes are pooled, `index` that of the argmax or None: the kernel; how many units it has; the
    bytes that it moves, and those of scratch for a thread; and what it takes behind the arrays."""
    kind, widths = _kind(dtype), (dtype.itemsize, 0 if index is None else index.itemsize)
    nbytes = dtype.itemsize * outer * inner * (prod(window.size) + window.positions)
    tall = _tall_plan(window, outer, inner, widths, threads)
    numbers, block, units = tall or _forward_plan(window, outer, inner, widths, is_half(dtype))
    arguments = kind.infinity, kind.lowest, _as_array(numbers), inner, block
    if isinstance(block, int):
        return pool.max_pool_direct, units, nbytes, pool.direct_scratch(*widths)[-1], arguments
    kernel, scratch = pool.max_pool, pool.max_pool_scratch
    if tall is not None:
        kernel, scratch = pool.max_pool_of_tall_windows, pool.tall_scratch
    return kernel, units, nbytes, scratch(numbers, inner, block, *widths)[-1], arguments


def _forward_plan(window, outer, inner, widths, half):
    """The geometry; the windows to take at once, rows by columns where they are packed, else so many of a row that are
    read in place; and how many units. `widths` are the bytes of a value and of an offset."""
    numbers = _as_one_plane(window, outer)
    D, H, W, KD, KH, KW, _, sh, sw, _, _, _, _, dh, dw, OD, OH, OW = numbers
    planes, reach_h, reach_w = outer * window.out[1] // OH * OD, (KH - 1) * dh, (KW - 1) * dw
    # Scratch stays in the caches closest to the core, but blocks overlap little: much of a block is not its halo.
    for halos_h, halos_w in ((3, 2), (1, 1)):
        columns = min(max(pool.BLOCK // (inner * sw), halos_w * reach_w // sw, 1), OW)
        pitch = max(columns + reach_w // sw, -(-W // sw) if columns == OW else 0)
        block = pool.BLOCK if reach_h < sh else 8 * pool.BLOCK
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
        along, *_, nbytes = pool.max_pool_scratch(numbers, inner, (rows, columns), *widths)
        if nbytes <= MOST_SCRATCH:
            break
        in_place = rows * columns * reads <= along
        if columns == 1 or (rows > 1 and rows * sh * (reach_w + sw) > columns * sw * (reach_h + sh)):
            rows = -(-rows // 2)
        else:
            columns = -(-columns // 2)
    if in_place:
        columns = min(max(8 * pool.BLOCK // (window.volume * inner), 1), OW)
        return numbers, columns, planes * OH * -(-OW // columns)
    return numbers, (rows, columns), planes * -(-OH // rows) * -(-OW // columns)


@lru_cache(maxsize=1024)
def _as_array(numbers):
    """Numbers as kernels take many fastest."""
    return np.array(numbers, np.int64)


def _tall_plan(window, outer, inner, widths, threads):
    """As `_forward_plan`, where many tall windows lie one row apart; else None."""
    (D, _, _), (KD, KH, KW), (_, sh, sw), (_, OH, OW) = window.size, window.kernel, window.stride, window.out
    row_by_row = D == KD == window.out[0] == sh == window.dilation[1] == 1
    if not row_by_row or KH < LEAST_TALL or OH < 2 * KH or OW * inner < LEAST_WIDE:
        return None
    reach = (KW - 1) * window.dilation[2]
    halo = min(2 * reach // sw, MOST_PACKED // ((KH + 1) * inner))
    columns = _with_whole_lanes(min(max(MOST_KEPT // (KH * inner), halo, LEAST_WIDE // inner + 1), OW), OW, inner)
    while pool.tall_scratch(window.numbers, inner, (OH, columns), *widths)[-1] > MOST_SCRATCH:
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
    if D == KD == 1 and pd == 0 and tile:
        return (1, outer * H, W, 1, KH, KW, 1, sh, sw, 0, 0, pw, dd, dh, dw, 1, outer * OH, OW)
    return numbers


@_launched
def max_pool_backward(dy, argmax, window, dx):
    *call, constants = _backward_call(window, dx.shape[0], dx.shape[4], dx.dtype)
    return *call, _flat(dy), _flat(argmax), _flat(dx), *constants


def prepared_max_pool_backward(window, outer, inner, dtype):
    *call, constants = _backward_call(window, outer, inner, dtype)
    if _kind(dtype).seen_as != dtype:
        return None

    def run(dy, argmax, dx):
        winners = argmax.ravel()
        if not _fits(winners, window, outer, inner):
            return False
        launch(*call, dy.ravel(), winners, dx.ravel(), *constants)
        return True

    return run


@lru_cache(maxsize=1024)
def _backward_call(window, outer, inner, dtype):
    """As `_forward_call`."""
    kind, half, index = _kind(dtype), is_half(dtype), window.argmax_dtype.itemsize
    nbytes = dtype.itemsize * outer * inner * (prod(window.size) + window.positions)
    if window.side_by_side and (inner > 1 or window.kernel[2] in pool.TAPS_SIDE_BY_SIDE):
        arguments = _as_array(_as_one_plane(window, outer)), inner
        return pool.max_pool_backward_of_tiles, outer * window.out[0] * window.out[1], nbytes, 0, arguments
    numbers, block, gathered, units = _backward_plan(window, outer, inner, not half)
    tile, tiles = _backward_tiles(window, inner, half)
    beside_others = inner > 3 or (outer > 3 and tiles == 1)
    by_taps_bytes = pool.by_taps_scratch(numbers, inner, block, kind.sums.itemsize, index)[-1]
    scattered = window.volume > MOST_GATHERED or (half and beside_others) or gathered > MOST_GATHER_SCRATCH
    if scattered or by_taps_bytes > MOST_SCRATCH:
        _, scratch_bytes = pool.backward_scratch(tile, index, 4 if half else 0)
        arguments = kind.infinity, _as_array(window.numbers), inner, tile
        return pool.max_pool_backward, outer * tiles, nbytes, scratch_bytes, arguments
    arguments = kind.infinity, kind.sums, _as_array(numbers), inner, block
    return pool.max_pool_backward_by_taps, units, nbytes, by_taps_bytes, arguments


def _backward_plan(window, outer, inner, calculable):
    """The geometry; blocks of cells: rows by columns, in strides, and whether windows are alike; the elements of
    scratch; and the units."""
    numbers = _as_one_plane(window, outer)
    D, H, W, KD, KH, KW, sd, sh, sw, _, ph, pw, dd, dh, dw, _, _, _ = numbers
    planes, back_h, back_w = outer * window.size[1] // H * D, (KH - 1) * dh // sh, (KW - 1) * dw // sw
    all_rows, all_columns, slices = -(-(H + ph) // sh), -(-(W + pw) // sw), (KD - 1) * dd // sd + 1
    alike = calculable and all(map(_fills, *(numbers[axes : axes + 3] for axes in range(0, 18, 3))))
    if alike:  # a block costs no more than its cells
        columns = min(max(pool.BLOCK // (inner * sw * sh), 1), all_columns)
        rows = pool.BLOCK // (columns * inner * sw * sh) if columns == all_columns else 1
    else:
        columns = min(max(pool.BLOCK // (inner * sw), back_w, 1), all_columns)
        rows = max(pool.BLOCK // ((columns + back_w) * inner * sw * sh), back_h)
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


def argmax_fits(argmax, window):
    return _fits(_flat(argmax), window, argmax.shape[0], argmax.shape[4])


def _fits(argmax, window, outer, inner):
    found = np.zeros(1, np.uint8)
    launch(*_check_call(argmax, window, outer, inner, found))
    return not found[0]


def _check_call(argmax, window, outer, inner, found):
    scratch_bytes, numbers = _check_plan(window, inner, argmax.itemsize)
    # It calculates on a byte about as long as others take to move eight.
    return pool.misplaced, outer, 8 * argmax.nbytes, scratch_bytes, argmax, found, numbers, inner


@lru_cache(maxsize=1024)
def _check_plan(window, inner, itemsize):
    return pool.check_scratch(window.numbers, inner, itemsize)[1], _as_array(window.numbers)


@_launched
def max_unpool(y, indices, x):
    planes, inner = x.shape[0], x.shape[4]
    arguments = (
        _flat(y).reshape(planes, -1, inner),
        _flat(indices).reshape(planes, -1, inner),
        _flat(x).reshape(planes, -1, inner),
    )
    return pool.max_unpool, planes, x.nbytes + y.nbytes, 0, *arguments


def _movable(a):
    """Numbers as bits, for what only moves them: fewer kernels."""
    return a.view(f"u{a.dtype.itemsize}")


def _column_steps(cols):
    """The columns flat as they lie in memory, and how far apart images, channels, taps and positions are there."""
    in_memory, steps = _axes_in_memory(cols.strides, cols.itemsize)
    return cols.transpose(in_memory).reshape(-1), steps


@lru_cache(maxsize=1024)
def _axes_in_memory(strides, itemsize):
    return sorted(range(len(strides)), key=lambda axis: -strides[axis]), tuple(s // itemsize for s in strides)


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
    too_many = im2col_scratch(window.numbers, (1, columns, 1, along, inner), itemsize)[-1] > MOST_SCRATCH
    if (columns * sw + beyond) * inner > 4 * MOST_LAID or too_many:
        along, beyond, columns = 1, 0, min(max(MOST_LAID // (inner * sw), 1), OW)
    laid = max(columns * along, columns * sw + beyond) * inner  # numbers for a row of windows
    down, below = KH if along == KW else 1, (KH - 1) * dh // sh
    rows = min(max(MOST_LAID // laid, 2 * below, 1), OH)
    if (rows + below) * laid > 4 * MOST_LAID:
        down, rows = 1, min(max(MOST_LAID // laid, 1), OH)
    images, of_taps = inner, (down, along)
    while images > 1 and im2col_scratch(window.numbers, (rows, columns, *of_taps, images), itemsize)[-1] > MOST_SCRATCH:
        columns, images = 1, -(-images // 2)
    units = planes * -(-inner // images) * OD * -(-OH // rows) * -(-OW // columns)
    windows = (rows, columns, down, along, images), units

    phases, images = sw if sw <= MOST_PHASES else 1, inner
    while col2im_scratch((1, 1, phases, images), itemsize)[-1] > MOST_SCRATCH:
        phases, images = 1, images if phases > 1 else -(-images // 2)
    all_columns = (pw + W - 1) // phases + 1 - pw // phases
    columns = min(max(MOST_LAID // (inner * phases), 1), all_columns) if images == inner else 1
    rows = min(max(MOST_LAID // ((inner * columns + 16) * phases), 1), H)
    units = planes * -(-inner // images) * D * -(-H // rows) * -(-all_columns // columns)
    return x_steps, windows, ((rows, columns, phases, images), units)


@_launched
def im2col(x, window, fill_value, cols, *, fresh=True):
    flat, cols_steps = _column_steps(_movable(cols))
    x_steps, (block, units), _ = _column_plan(window, x.shape[4] > 1, cols_steps[3], x.itemsize)
    value, streams = _movable(np.array([fill_value], cols.dtype))[0], cols.nbytes > LARGE and not fresh
    arguments = (_flat(_movable(x)), flat, value, window.numbers, x_steps, cols_steps, window.channels, block)
    _, _, scratch_bytes = im2col_scratch(window.numbers, block, x.itemsize)
    return columns.im2col, units, x.nbytes + cols.nbytes, scratch_bytes, *arguments, streams


@_launched
def col2im(cols, window, dx):
    flat, cols_steps = _column_steps(cols)
    kind = _kind(dx.dtype)
    x_steps, _, (block, units) = _column_plan(window, dx.shape[4] > 1, cols_steps[3], kind.sums.itemsize)
    arguments = (_flat(flat), _flat(dx), kind.infinity, kind.sums, window.numbers, x_steps, cols_steps)
    _, _, scratch_bytes = col2im_scratch(block, kind.sums.itemsize)
    return columns.col2im, units, dx.nbytes + cols.nbytes, scratch_bytes, *arguments, window.channels, block


@_launched
def hard_swish(x, y):
    arguments = (_flat(x), _flat(y), _kind(x.dtype).infinity)
    return elementwise.hard_swish, x.size, 2 * x.nbytes, 0, *arguments


@_launched
def hard_swish_backward(dy, x, dx):
    return (
        elementwise.hard_swish_backward,
        x.size,
        3 * x.nbytes,
        0,
        _flat(dy),
        _flat(x),
        _flat(dx),
        _kind(x.dtype).infinity,
    )


@_launched
def swish(x, beta, y):
    arguments = (_flat(x), beta, _flat(y), _kind(x.dtype).infinity)
    return elementwise.swish, x.size, 8 * x.nbytes, 0, *arguments


@_launched
def swish_backward(dy, x, beta, dx):
    return (
        elementwise.swish_backward,
        x.size,
        8 * x.nbytes,
        0,
        _flat(dy),
        _flat(x),
        beta,
        _flat(dx),
        _kind(x.dtype).infinity,
    )


_WARM = tuple(map(np.dtype, ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")))
_USUAL = tuple(map(np.dtype, ("u1", "f4")))


def _warm_calls(dtypes, indices):
    """The usual kernels by name, planned for one cell. bool runs as uint8, bfloat16 as float16."""
    window = Window.plan(1, (1,), 1)
    overlapping, of_many_taps = (Window.plan(1, (1,), k, padding=k // 2) for k in (3, MOST_GATHERED + 1))
    tall = Window.plan(2, (2 * LEAST_TALL, LEAST_WIDE), LEAST_TALL, 1, LEAST_TALL // 2)
    forward = {"tall": tall, "in place": Window.plan(1, (BYTES,), BYTES)}
    backward = {"tiles": window, "overlapping": overlapping, "many taps": of_many_taps}
    for index in indices:
        argmax = np.zeros((1, 1, 1, 1, 1), index)
        yield f"argmax_fits {index}", _check_call(argmax.reshape(-1), window, 1, 1, np.zeros(1, np.uint8))
    for dtype in (np.dtype(f"u{nbytes}") for nbytes in sorted({dtype.itemsize for dtype in dtypes})):
        a, b = (np.zeros((1, 1, 1, 1, 1), dtype) for _ in range(2))
        yield f"im2col of {dtype.itemsize} bytes", im2col.plan(a, window, dtype.type(0), b[0])
    for dtype in dtypes:
        a, b, c = (np.zeros((1, 1, 1, 1, 1), dtype) for _ in range(3))
        usual = dtype.kind == "f" or dtype == np.uint8
        for index in indices if usual else ("uint8",):
            argmax = np.zeros(a.shape, index)
            yield f"max_pool {dtype}, argmax {index}", max_pool.plan(a, window, b, argmax)
            for name, covering in forward.items():
                yield f"max_pool {dtype}, argmax {index}, {name}", max_pool.plan(a, covering, b, argmax)
            for name, covering in backward.items() if dtype.kind == "f" else ():
                yield f"max_pool_backward {dtype}, {index}, {name}", max_pool_backward.plan(a, argmax, covering, b)
        yield f"max_pool {dtype}", max_pool.plan(a, window, b, None)
        for name, covering in forward.items() if usual else ():
            yield f"max_pool {dtype}, {name}", max_pool.plan(a, covering, b, None)
        yield f"max_unpool {dtype}", max_unpool.plan(a, np.zeros(a.shape, np.int64), b)
        yield f"col2im {dtype}", col2im.plan(a[0], window, b)
        if dtype.kind == "f":
            a, b, c = a.reshape(-1), b.reshape(-1), c.reshape(-1)
            yield f"hard_swish {dtype}", hard_swish.plan(a, b)
            yield f"hard_swish_backward {dtype}", hard_swish_backward.plan(a, b, c)
            yield f"swish {dtype}", swish.plan(a, 1.0, b)
            yield f"swish_backward {dtype}", swish_backward.plan(a, b, 1.0, c)


def warmup_tasks(everything=True):
    """What to call to have kernels compiled, and kept: (name, function) pairs.

    All, or else those of float32 and uint8 with an argmax of bytes.
    """

    def task(kernel, units, nbytes, scratch_bytes, *arguments):
        return partial(kernel, *arguments, new_scratch(scratch_bytes), 0, 0)

    dtypes, indices = (_WARM, ("uint8", "uint16", "uint32")) if everything else (_USUAL, ("uint8",))
    return [(name, task(*call)) for name, call in _warm_calls(dtypes, indices)]


def compile_by_name(name, everything):
    """Do one task of the warm-up, and give its name."""
    dict(warmup_tasks(everything))[name]()
    return name
