"""Kernels for NVIDIA GPUs, compiled by numba-cuda on first use: for arrays that lie there.

NumPy arrays are taken too, where the backend is asked for by name: they are copied to the GPU, and the results back.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from fastpool.backends.cuda import columns, elementwise, pool
from fastpool.backends.cuda.compilation import types, why_not
from fastpool.backends.cuda.launch import (
    LANE_BYTES,
    NOTHING,
    Memory,
    is_wide,
    launch,
    memory,
    number_of,
    read_back,
    threads_of_a_block,
    travelling,
)

__all__ = [
    "argmax_fits",
    "check",
    "col2im",
    "copy",
    "hard_swish",
    "hard_swish_backward",
    "im2col",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "max_unpool_by_indices",
    "swish",
    "swish_backward",
]

LONGEST_ROW = 8  # taps along a row that are unrolled
MOST_TAPS = 128  # of a window that a kernel is compiled for; those of larger ones are arguments
TAPS_OF_A_THREAD = 8  # of a window that several threads share
MOST_WINDOWS = 8192  # of a plane that a block keeps in shared memory
MOST_CELLS, FEW_CELLS = 2**16, 2**12  # of a plane that a block takes: where there are planes for all of a GPU, or not
MANY_PLANES = 128
LARGE = 32  # taps of a window from which on it is worth going axis by axis, or sharing it in a block


def check():
    """Raise an error where no kernel can run."""
    reason = why_not()
    if reason is not None:
        raise RuntimeError(reason)


def _numbers(window):
    """Kernel, stride, padding and dilation of a window, and the sizes of the planes before and after."""
    w = window
    return (*w.kernel, *w.stride, *w.before, *w.dilation), (*w.size, *w.out)


def _extents(window):
    return [d * k + p for k, d, p in zip(window.kernel, window.dilation, window.before, strict=True)]


def _constant(numbers):
    """A window as a constant of a kernel and as its argument: one of the two."""
    return (numbers, 0) if prod(numbers[:3]) <= MOST_TAPS else (None, numbers)


def _lanes(itemsize):
    return max(LANE_BYTES // itemsize, 1)


def _across(numbers, sizes, inner):
    """Windows of one column over the whole width, seen as if the columns lay in `inner`: one run of lanes."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = numbers
    D, H, W, OD, OH, OW = sizes
    if KW == sw == 1 and pw == 0 and W == OW:
        return (KD, KH, 1, sd, sh, 1, pd, ph, 0, dd, dh, 1), (D, H, 1, OD, OH, 1), inner * W
    return numbers, sizes, inner


@travelling(2)
def max_pool(x, window, y, argmax):
    numbers, sizes = _numbers(window)
    wide = is_wide(x.size, y.size, *numbers, *sizes, *_extents(window), window.volume)
    taps, positions = window.volume, window.positions
    if taps >= LARGE and taps * positions <= 4 * prod(window.size):
        _pool_by_blocks(x, numbers, sizes, y, argmax, wide)
    elif taps >= LARGE and sum(k > 1 for k in window.kernel) > 1 and _each_has_a_cell(window):
        _pool_axis_by_axis(x, window, y, argmax, wide)
    else:
        _pool(x, numbers, sizes, y, argmax, wide)


def _pool(x, numbers, sizes, y, argmax, wide, carried=None, weight=1):
    """One pass over whole windows."""
    inner, index = x.shape[4], "index"
    KW, sw, pw, dw = numbers[2], numbers[5], numbers[8], numbers[11]
    with_argmax = argmax is not None
    if (
        inner == 1
        and 1 < KW <= LONGEST_ROW
        and dw == 1
        and pw < KW
        and carried is None
        and prod(numbers[:3]) <= MOST_TAPS
    ):
        lanes = _lanes(x.itemsize)
        _, _, W, _, _, OW = sizes
        units = y.size // OW * -(-OW // lanes)
        arguments = memory(x, lanes * sw, W), memory(y, lanes, OW)
        if with_argmax:
            argmax = memory(argmax, lanes, OW, number=index)
            launch(x, pool.by_rows, (lanes, numbers), *arguments, argmax, sizes, units, wide=wide)
        else:
            launch(x, pool.largest_by_rows, (lanes, numbers), *arguments, sizes, units, wide=wide)
        return
    numbers, sizes, inner = _across(numbers, sizes, inner)
    lanes = _lanes(x.itemsize) if inner > 1 else 1
    units = y.size // inner * -(-inner // lanes)
    constant, given = _constant(numbers)
    arguments = (
        memory(x, lanes, inner),
        NOTHING if carried is None else memory(carried, lanes, inner, number=index),
        memory(y, lanes, inner),
        memory(argmax, lanes, inner, number=index) if with_argmax else NOTHING,
    )
    make = lanes, constant, with_argmax, carried is not None
    launch(x, pool.by_cells, make, *arguments, given, sizes, weight, inner, units, wide=wide)


@lru_cache(maxsize=256)
def _each_has_a_cell(window):
    """Whether no window is padding alone along any axis."""
    for axis in range(3):
        taps = window.taps(axis)
        if not ((taps >= 0) & (taps < window.size[axis])).any(axis=1).all():
            return False
    return True


def _pool_axis_by_axis(x, window, y, argmax, wide):
    """Along the rows first, then of their maxima along the columns, then along the depth.

    On equal values the first along a later axis wins, and it names the first along the earlier ones: row-major order.
    """
    numbers, sizes = _numbers(window)
    size, carried, weight = list(window.size), None, 1
    axes = [axis for axis in (2, 1, 0) if window.kernel[axis] > 1 or window.stride[axis] > 1]
    for axis in axes:
        of_axis = [n if place % 3 == axis else (0 if 6 <= place < 9 else 1) for place, n in enumerate(numbers)]
        after = [*size[:axis], window.out[axis], *size[axis + 1 :]]
        last = axis == axes[-1]
        shape = (x.shape[0], *after, x.shape[4])
        into = y if last else x.empty(shape, x.dtype)
        winners = argmax if last or argmax is None else x.empty(shape, argmax.dtype)
        _pool(x, tuple(of_axis), (*size, *after), into, winners, wide, carried, weight)
        x, size, carried, weight = into, after, winners, weight * window.kernel[axis]


def _pool_by_blocks(x, numbers, sizes, y, argmax, wide):
    inner, threads = x.shape[4], threads_of_a_block()
    channels_last = inner > 1
    if channels_last:
        across = min(1 << (inner - 1).bit_length(), 32, threads)
    else:
        taps_of_a_thread = -(-prod(numbers[:3]) // TAPS_OF_A_THREAD)
        across = max(threads // (1 << (taps_of_a_thread - 1).bit_length()), 1)
    blocks = y.size // inner * -(-inner // across) if channels_last else -(-y.size // across)
    names = number_of(x.dtype), "int64" if wide else "int32"
    kinds = [getattr(types, name) for name in names]
    arguments = (
        memory(x),
        memory(y),
        NOTHING if argmax is None else memory(argmax, number="index"),
    )
    make = threads, *kinds, argmax is not None, channels_last
    geometry = numbers, sizes, inner, across, y.size
    launch(x, pool.by_blocks, make, *arguments, *geometry, blocks, wide=wide, blocks=blocks)


@travelling(1)
def max_pool_backward(dy, argmax, window, dx):
    numbers, sizes = _numbers(window)
    wide = is_wide(dx.size, dy.size, *numbers, *sizes, *_extents(window), window.volume)
    inner, lanes = dx.shape[4], _lanes(dx.itemsize)
    KW, sw, pw, dw = numbers[2], numbers[5], numbers[8], numbers[11]
    W, OW = sizes[2], sizes[5]
    if inner == 1 and 1 < KW <= LONGEST_ROW and dw == 1 and pw < KW and lanes % sw == 0 and window.volume <= MOST_TAPS:
        units = dx.size // W * -(-W // lanes)
        arguments = (
            memory(dy, lanes // sw, OW),
            memory(argmax, lanes // sw, OW, number="index"),
            memory(dx, lanes, W),
        )
        launch(dx, pool.backward_by_rows, (lanes, numbers), *arguments, sizes, units, wide=wide)
        return
    if inner == 1 and window.volume >= LARGE and _fits_blocks(window, dx.shape[0]):
        _backward_by_planes(dy, argmax, dx, numbers, sizes, lanes, wide)
        return
    numbers, sizes, inner = _across(numbers, sizes, inner)
    lanes = lanes if inner > 1 else 1
    units = dx.size // inner * -(-inner // lanes)
    constant, given = _constant(numbers)
    arguments = memory(dy, lanes, inner), memory(argmax, lanes, inner, number="index"), memory(dx, lanes, inner)
    launch(
        dx,
        pool.backward_by_cells,
        (lanes, constant, max(numbers[9:]) > 1),
        *arguments,
        given,
        sizes,
        inner,
        units,
        wide=wide,
    )


def _fits_blocks(window, planes):
    """Whether each block can take whole planes: their windows fit its shared memory, and other blocks do not idle."""
    cells = prod(window.size)
    return window.positions <= MOST_WINDOWS and cells <= (MOST_CELLS if planes >= MANY_PLANES else FEW_CELLS)


def _backward_by_planes(dy, argmax, dx, numbers, sizes, lanes, wide):
    threads = threads_of_a_block()
    outer, W, positions = dx.shape[0], sizes[2], prod(sizes[3:])
    planes = max(threads // (sizes[0] * sizes[1] * -(-W // lanes)), 1)
    planes = min(planes, max(MOST_WINDOWS // positions, 1), outer)
    capacity = max(1 << (planes * positions - 1).bit_length(), 256)
    blocks = -(-outer // planes)
    arguments = memory(dy), memory(argmax, number="index"), memory(dx, lanes, W), numbers, sizes
    make = lanes, capacity, threads
    launch(dx, pool.backward_by_planes, make, *arguments, planes, outer, blocks, wide=wide, blocks=blocks)


@travelling(0)
def argmax_fits(argmax, window):
    """Waits for the GPU to know: for NumPy arrays alone."""
    numbers, sizes = _numbers(window)
    wide = is_wide(argmax.size, *numbers, *sizes, *_extents(window), window.volume)
    found = argmax.empty((1,), np.dtype(np.uint8))
    launch(argmax, pool.clear, None, memory(found), 1, wide=False)
    arguments = memory(argmax, number="index"), memory(found), numbers, sizes, argmax.shape[4], argmax.size
    launch(argmax, pool.misplaced, None, *arguments, wide=wide)
    return not read_back(found)[0]


@travelling(1)
def max_unpool(y, indices, x):
    numbers, sizes = (0,) * 12, (*x.shape[1:4], *y.shape[1:4])
    _unpool(y, indices, "torch", numbers, sizes, x, channels=1)


@travelling(1)
def max_unpool_by_indices(y, indices, window, convention, x):
    """The same by indices as a framework counts them; one that names no cell of its plane goes nowhere."""
    _unpool(y, indices, convention, *_numbers(window), x, window.channels)


def _unpool(y, indices, convention, numbers, sizes, x, channels):
    inner, plane, positions = x.shape[4], prod(sizes[:3]), prod(sizes[3:])
    wide = is_wide(x.size, y.size, *numbers, *sizes)
    marks = x.empty(x.shape, np.dtype(np.int64 if wide else np.int32))
    launch(x, pool.clear, None, memory(marks), x.size, wide=wide)
    arguments = memory(indices), memory(marks), numbers, sizes, channels, inner, y.size
    launch(x, pool.mark, (convention,), *arguments, wide=wide)
    # Values only move, so they go as bits.
    arguments = _bits(y), memory(marks), _bits(x), plane, positions, inner, x.size
    launch(x, pool.unpool, None, *arguments, wide=wide)


def _bits(a):
    name = f"uint{8 * a.itemsize}"
    return memory(a)._replace(stored=name, number=name)


def _elements(a, size):
    """An array of any strides as a kernel walks it: all its memory, in units of so many bytes; its origin and steps."""
    low, high = a.extent()
    name = f"uint{8 * size}"
    steps = tuple(s // size for s in a.strides) + ((1,) if size < a.itemsize else ())
    return Memory(name, 1, name, size, low, high - low), (a.pointer - low) // size, steps


@travelling(1)
def copy(source, target):
    """Copy between arrays of one shape and dtype, of any strides, on the stream of the source."""
    aligned = source.flags.aligned and target.flags.aligned
    size = source.itemsize if aligned else 1
    shape = source.shape if aligned else (*source.shape, source.itemsize)
    read, origin, steps = _elements(source, size)
    written, into, into_steps = _elements(target, size)
    units = prod(shape)
    wide = is_wide(units, read.nbytes, written.nbytes)
    axes = max(len(shape), 1)
    padded = (shape or (1,), steps or (1,), into_steps or (1,))
    launch(source, columns.copy, (axes,), read, written, origin, into, *padded, units, wide=wide)


def _steps(cols):
    return tuple(s // cols.itemsize for s in cols.strides)


@travelling(1)
def im2col(x, window, fill_value, cols, *, fresh=True):
    numbers, sizes = _numbers(window)
    channels, plane = window.channels, prod(window.size)
    wide = is_wide(x.size, cols.size, *numbers, *sizes, *_extents(window))
    x_steps = (plane * channels, 1, channels) if x.shape[4] > 1 else (plane * channels, plane, 1)
    steps = _steps(cols)
    value = np.array(fill_value, x.dtype).view(f"u{x.itemsize}")[()]
    arguments = _bits(x), _bits(cols), value, sizes, window.batch, channels, x_steps, steps
    units = window.batch * channels * window.positions
    launch(x, columns.im2col, (numbers, steps[3] > 1), *arguments, units, wide=wide)


@travelling(1)
def col2im(cols, window, dx):
    numbers, sizes = _numbers(window)
    wide = is_wide(dx.size, cols.size, *numbers, *sizes, *_extents(window))
    arguments = memory(cols), memory(dx), sizes, window.channels, dx.shape[4], _steps(cols), dx.size
    launch(dx, columns.col2im, (numbers,), *arguments, wide=wide)


def _elementwise(make, *arguments):
    """Lanes of flat arrays; a number among them is passed as it is."""
    x = arguments[0]
    lanes = _lanes(x.itemsize)
    passed = [a if isinstance(a, float) else memory(a, lanes) for a in arguments]
    launch(
        x, make, (lanes,), *passed, x.size, wide=is_wide(x.size), blocks=-(-x.size // (lanes * threads_of_a_block()))
    )


@travelling(1)
def hard_swish(x, y):
    _elementwise(elementwise.hard_swish, x, y)


@travelling(1)
def hard_swish_backward(dy, x, dx):
    _elementwise(elementwise.hard_swish_backward, dy, x, dx)


@travelling(1)
def swish(x, beta, y):
    _elementwise(elementwise.swish, x, beta, y)


@travelling(1)
def swish_backward(dy, x, beta, dx):
    _elementwise(elementwise.swish_backward, dy, x, beta, dx)
