"""Kernels for NVIDIA GPUs, compiled by numba-cuda on first use, for arrays in the memory of a GPU.

If a call names this backend, it takes NumPy arrays too: they are copied to the GPU, and the results back.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import numpy as np

from fastpool.backends.cuda import columns, elementwise, pool
from fastpool.backends.cuda.compilation import types, why_not
from fastpool.backends.cuda.launch import (
    HALVES,
    NOTHING,
    VECTOR_BYTES,
    Memory,
    compute_dtype_of,
    divisors,
    is_wide,
    launch,
    memory,
    read_back,
    threads_per_block,
    with_transfers,
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
    "min_pool",
    "swish",
    "swish_backward",
]

LONGEST_ROW = 16  # taps along a row that are unrolled
MOST_TAPS = 128  # of a window whose geometry is a constant of the kernel; that of larger ones is an argument
TAPS_PER_THREAD = 8  # of a window that several threads share
ROWS = 2  # of a gradient that a thread takes at least, where windows overlap
MOST_ELEMENTS = 32  # of a gradient that a thread takes
SHARED_BYTES = 48 * 1024  # of a block, which needs no permission for these
FEWEST_PLANES = 4  # that fit these: with fewer, too few threads of a block have work
MANY_PLANES = 512  # with fewer, a thread for each element is faster than one for each plane
LARGE = 32  # the fewest taps of a window that is pooled axis by axis or shared by threads of a block


def check():
    """Raise an error if no kernel can run."""
    reason = why_not()
    if reason is not None:
        raise RuntimeError(reason)


def _geometry(window):
    """The geometry of a window: kernel, stride, padding, dilation; and the sizes of the input and output planes."""
    w = window
    return (*w.kernel, *w.stride, *w.before, *w.dilation), (*w.size, *w.out)


def _extents(window):
    return [d * k + p for k, d, p in zip(window.kernel, window.dilation, window.before, strict=True)]


def _as_constant(geometry):
    """A geometry as (constant, argument) of a kernel, one of which is used."""
    return (geometry, 0) if prod(geometry[:3]) <= MOST_TAPS else (None, geometry)


def _width(itemsize):
    """The elements of a vector."""
    return max(VECTOR_BYTES // itemsize, 1)


def _row_width(itemsize, row):
    """The elements of a vector along rows of `row` elements: fewer than fit if only so vectors end where rows do."""
    widest = _width(itemsize)
    return next((w for w in (widest, widest // 2, widest // 4) if w and row % w == 0), widest)


def _fold_columns(geometry, sizes, inner):
    """Fold the columns into `inner`, for windows of one column and a stride of 1 along the rows: one long row."""
    KD, KH, KW, sd, sh, sw, pd, ph, pw, dd, dh, dw = geometry
    D, H, W, OD, OH, OW = sizes
    if KW == sw == 1 and pw == 0 and W == OW:
        return (KD, KH, 1, sd, sh, 1, pd, ph, 0, dd, dh, 1), (D, H, 1, OD, OH, 1), inner * W
    return geometry, sizes, inner


@with_transfers(2)
def max_pool(x, window, y, argmax):
    _pool(x, window, y, argmax, reverses=False)


@with_transfers(2)
def min_pool(x, window, y, argmin):
    _pool(x, window, y, argmin, reverses=True)


def _pool(x, window, y, argmax, reverses):
    """Pool for the maximum of elements, or in reversed order: for the minimum."""
    geometry, sizes = _geometry(window)
    wide = is_wide(x.size, y.size, *geometry, *sizes, *_extents(window), window.volume)
    taps, positions = window.volume, window.positions
    if taps >= LARGE and taps * positions <= 4 * prod(window.size):
        _pool_by_blocks(x, geometry, sizes, y, argmax, wide, reverses)
    elif taps >= LARGE and sum(k > 1 for k in window.kernel) > 1 and _every_window_has_a_cell(window):
        _pool_axis_by_axis(x, window, y, argmax, wide, reverses)
    else:
        _pool_in_one_pass(x, geometry, sizes, y, argmax, wide, reverses)


def _pool_in_one_pass(x, geometry, sizes, y, argmax, wide, reverses, carried=None, weight=1):
    """Pool in one pass over all taps."""
    inner = x.shape[4]
    KW, sw, pw, dw = geometry[2], geometry[5], geometry[8], geometry[11]
    with_argmax = argmax is not None
    compared = "half" if x.dtype.name in HALVES and not with_argmax else None
    if (
        inner == 1
        and 1 < KW <= LONGEST_ROW
        and dw == 1
        and pw < KW
        and carried is None
        and prod(geometry[:3]) <= MOST_TAPS
    ):
        _, _, W, OD, OH, OW = sizes
        width = _row_width(x.itemsize, OW)
        vectors = -(-OW // width)
        items = y.size // OW * vectors
        arguments = (
            memory(x, width * sw, W, vectors, compared, reverses),
            memory(y, width, OW, vectors, compared, reverses),
        )
        if with_argmax:
            arguments = *arguments, memory(argmax, width, OW, vectors, "index")
        make = pool.argmax_by_rows if with_argmax else pool.maximum_by_rows
        by = divisors(1, OD, OH, vectors)
        launch(x, make, (width, geometry), *arguments, sizes, by, items, wide=wide)
        return
    geometry, sizes, inner = _fold_columns(geometry, sizes, inner)
    width = _width(x.itemsize) if inner > 1 else 1
    vectors = -(-inner // width)
    items = y.size // inner * vectors
    constant, geometry_argument = _as_constant(geometry)
    arguments = (
        memory(x, width, inner, vectors, compared, reverses),
        NOTHING if carried is None else memory(carried, width, inner, vectors, "index"),
        memory(y, width, inner, vectors, compared, reverses),
        memory(argmax, width, inner, vectors, "index") if with_argmax else NOTHING,
    )
    constants = width, constant, with_argmax, carried is not None
    by = divisors(*sizes[3:], vectors)
    launch(x, pool.by_cells, constants, *arguments, geometry_argument, sizes, weight, inner, by, items, wide=wide)


@lru_cache(maxsize=256)
def _every_window_has_a_cell(window):
    """Whether along each axis, each window has a tap that is not padding."""
    for axis in range(3):
        taps = window.taps(axis)
        if not ((taps >= 0) & (taps < window.size[axis])).any(axis=1).all():
            return False
    return True


def _pool_axis_by_axis(x, window, y, argmax, wide, reverses):
    """Pool along the rows, then take the maxima of these along the columns, then along the depth.

    In a tie the first along the last axis wins, and it carries the argmax of the first along the earlier axes: together
    the first in row-major order.
    """
    geometry, sizes = _geometry(window)
    size, carried, weight = list(window.size), None, 1
    axes = [axis for axis in (2, 1, 0) if window.kernel[axis] > 1 or window.stride[axis] > 1]
    for axis in axes:
        along_axis = [n if i % 3 == axis else (0 if 6 <= i < 9 else 1) for i, n in enumerate(geometry)]
        after = [*size[:axis], window.out[axis], *size[axis + 1 :]]
        last = axis == axes[-1]
        shape = (x.shape[0], *after, x.shape[4])
        out = y if last else x.empty(shape, x.dtype)
        argmax_out = argmax if last or argmax is None else x.empty(shape, argmax.dtype)
        sizes = *size, *after
        _pool_in_one_pass(x, tuple(along_axis), sizes, out, argmax_out, wide, reverses, carried, weight)
        x, size, carried, weight = out, after, argmax_out, weight * window.kernel[axis]


def _pool_by_blocks(x, geometry, sizes, y, argmax, wide, reverses):
    inner, threads = x.shape[4], threads_per_block()
    channels_last = inner > 1
    if channels_last:
        windows_per_block = min(1 << (inner - 1).bit_length(), 32, threads)
    else:
        taps_per_thread = -(-prod(geometry[:3]) // TAPS_PER_THREAD)
        windows_per_block = max(threads // (1 << (taps_per_thread - 1).bit_length()), 1)
    blocks = y.size // inner * -(-inner // windows_per_block) if channels_last else -(-y.size // windows_per_block)
    names = compute_dtype_of(x.dtype), "int64" if wide else "int32"
    dtypes = [getattr(types, name) for name in names]
    arguments = (
        memory(x, reverses=reverses),
        memory(y, reverses=reverses),
        NOTHING if argmax is None else memory(argmax, compute_dtype="index"),
    )
    constants = threads, *dtypes, argmax is not None, channels_last
    counts = inner, windows_per_block, y.size, blocks
    launch(x, pool.by_blocks, constants, *arguments, geometry, sizes, *counts, wide=wide, blocks=blocks)


@with_transfers(1)
def max_pool_backward(dy, argmax, window, dx):
    geometry, sizes = _geometry(window)
    wide = is_wide(dx.size, dy.size, *geometry, *sizes, *_extents(window), window.volume)
    inner, width = dx.shape[4], _row_width(dx.itemsize, sizes[2])
    KW = window.kernel[2]
    if _partitions(window) and (inner > 1 or KW == 1 or width % KW == 0):
        _backward_nonoverlapping(dy, argmax, dx, geometry, sizes, wide)
    elif inner == 1 and _fits_rows(geometry, width):
        _backward_by_rows(dy, argmax, dx, geometry, sizes, width, wide)
    elif window.volume >= LARGE and dx.shape[0] * inner >= MANY_PLANES and _planes_of_a_block(dx, window):
        _backward_by_planes(dy, argmax, dx, window, wide)
    else:
        _backward_by_cells(dy, argmax, dx, geometry, sizes, wide)


def _partitions(window):
    """Whether the windows partition their plane, so that no two share an element and none is left over between them."""
    return (
        window.kernel == window.stride
        and not any(window.before)
        and all(k == 1 or d == 1 for k, d in zip(window.kernel, window.dilation, strict=True))
        and window.volume <= MOST_TAPS
    )


def _backward_nonoverlapping(dy, argmax, dx, geometry, sizes, wide):
    geometry, sizes, inner = _fold_columns(geometry, sizes, dx.shape[4])
    kernel, along_rows = geometry[:3], inner == 1
    width = _row_width(dx.itemsize, sizes[2]) if along_rows else _width(dx.itemsize)
    row, dy_row, windows = (sizes[2], sizes[5], width // kernel[2]) if along_rows else (inner, inner, width)
    axes, vectors = 2 if along_rows else 3, -(-row // width)
    windows_per_axis = [-(-n // k) for n, k in zip(sizes[:3], kernel, strict=True)][:axes]
    loaded = vectors if windows_per_axis == list(sizes[3 : 3 + axes]) else None
    arguments = (
        memory(dy, windows, dy_row, loaded),
        memory(argmax, windows, dy_row, loaded, "index"),
        memory(dx, width, row, vectors),
    )
    items = dx.shape[0] * prod(windows_per_axis) * vectors
    constants, by = (width, kernel, along_rows), divisors(*windows_per_axis, *(1,) * (3 - axes), vectors)
    launch(dx, pool.backward_nonoverlapping, constants, *arguments, sizes, inner, by, items, wide=wide)


def _fits_rows(geometry, width):
    """Whether the gradient can be computed in vectors of several rows: the strides divide them, the kernel is small."""
    KH, KW, sh, sw, pw, dh, dw = (geometry[i] for i in (1, 2, 4, 5, 8, 10, 11))
    rows = _rows_of_a_vector(KH, sh)
    return (
        1 < KW <= LONGEST_ROW
        and KH * KW < LARGE
        and dh == dw == 1
        and pw < KW
        and width % sw == 0
        and rows * width <= MOST_ELEMENTS
    )


def _rows_of_a_vector(KH, sh):
    """The rows of dx that a thread takes: a multiple of the stride, several where windows overlap."""
    return sh * -(-ROWS // sh) if sh < KH else sh


def _backward_by_rows(dy, argmax, dx, geometry, sizes, width, wide):
    sw, W, OW = geometry[5], sizes[2], sizes[5]
    rows = _rows_of_a_vector(geometry[1], geometry[4])
    vectors = -(-W // width)
    arguments = (
        memory(dy, width // sw, OW, vectors),
        memory(argmax, width // sw, OW, vectors, "index"),
        memory(dx, width, W, vectors),
    )
    groups = -(-sizes[1] // rows)
    items, by = dx.shape[0] * sizes[0] * groups * vectors, divisors(1, sizes[0], groups, vectors)
    launch(dx, pool.backward_by_rows, (width, rows, geometry), *arguments, sizes, by, items, wide=wide)


def _backward_by_cells(dy, argmax, dx, geometry, sizes, wide):
    geometry, sizes, inner = _fold_columns(geometry, sizes, dx.shape[4])
    width = _width(dx.itemsize) if inner > 1 else 1
    vectors = -(-inner // width)
    items = dx.size // inner * vectors
    constant, geometry_argument = _as_constant(geometry)
    arguments = (
        memory(dy, width, inner, vectors),
        memory(argmax, width, inner, vectors, "index"),
        memory(dx, width, inner, vectors),
    )
    constants = width, constant, max(geometry[9:]) > 1
    by = divisors(*sizes[:3], vectors)
    launch(dx, pool.backward_by_cells, constants, *arguments, geometry_argument, sizes, inner, by, items, wide=wide)


def _pitch(window):
    """The elements from one plane to the next in shared memory: odd, so that each has an element in another bank."""
    return prod(window.size) | 1


def _planes_of_a_block(dx, window):
    """How many planes' sums fit the shared memory of a block; 0 if they are too few to be worth it."""
    itemsize = np.dtype(compute_dtype_of(dx.dtype)).itemsize
    planes = min(SHARED_BYTES // itemsize // _pitch(window), threads_per_block())
    return planes if planes >= FEWEST_PLANES else 0


def _backward_by_planes(dy, argmax, dx, window, wide):
    geometry, sizes = _geometry(window)
    inner, planes = dx.shape[4], _planes_of_a_block(dx, window)
    width = _width(dx.itemsize) if inner == 1 else 1
    dtype = np.dtype(compute_dtype_of(dx.dtype))
    constants = width, geometry, getattr(types, dtype.name), SHARED_BYTES // dtype.itemsize
    arguments = (
        memory(dy, width, sizes[5]),
        memory(argmax, width, sizes[5], compute_dtype="index"),
        memory(dx),
    )
    total = dx.shape[0] * inner
    counts = inner, _pitch(window), planes, total
    blocks = -(-total // planes)
    launch(dx, pool.backward_by_planes, constants, *arguments, sizes, *counts, blocks, wide=wide, blocks=blocks)


@with_transfers(0)
def argmax_fits(argmax, window):
    """Whether each offset points to an element of its window. Waits for the GPU, so only NumPy arrays use it."""
    geometry, sizes = _geometry(window)
    wide = is_wide(argmax.size, *geometry, *sizes, *_extents(window), window.volume)
    invalid = argmax.empty((1,), np.dtype(np.uint8))
    launch(argmax, pool.clear, None, memory(invalid), 1, wide=False)
    arguments = memory(argmax, compute_dtype="index"), memory(invalid), geometry, sizes, argmax.shape[4], argmax.size
    launch(argmax, pool.validate_argmax, None, *arguments, wide=wide)
    return not read_back(invalid)[0]


@with_transfers(1)
def max_unpool(y, indices, x):
    geometry, sizes = (0,) * 12, (*x.shape[1:4], *y.shape[1:4])
    _unpool(y, indices, "torch", geometry, sizes, x, channels=1)


@with_transfers(1)
def max_unpool_by_indices(y, indices, window, convention, x):
    """`max_unpool` by the indices of a framework. A value whose index is outside its plane is dropped."""
    _unpool(y, indices, convention, *_geometry(window), x, window.channels)


def _unpool(y, indices, convention, geometry, sizes, x, channels):
    inner, plane, positions = x.shape[4], prod(sizes[:3]), prod(sizes[3:])
    wide = is_wide(x.size, y.size, *geometry, *sizes)
    marks = x.empty(x.shape, np.dtype(np.int64 if wide else np.int32))
    launch(x, pool.clear, None, memory(marks), x.size, wide=wide)
    arguments = memory(indices), memory(marks), geometry, sizes, channels, inner, y.size
    launch(x, pool.mark, (convention,), *arguments, wide=wide)
    # Values are only copied, so kernels for unsigned integers work for all dtypes.
    arguments = _as_bits(y), memory(marks), _as_bits(x), plane, positions, inner, x.size
    launch(x, pool.unpool, None, *arguments, wide=wide)


def _as_bits(a):
    name = f"uint{8 * a.itemsize}"
    return memory(a)._replace(stored=name, compute_dtype=name)


def _flat_memory(a, size):
    """The whole memory of an array of any strides as integers of `size` bytes, its first element, and its steps."""
    low, high = a.extent()
    name = f"uint{8 * size}"
    steps = tuple(s // size for s in a.strides) + ((1,) if size < a.itemsize else ())
    return Memory(name, 1, name, size, False, False, low, high - low), (a.pointer - low) // size, steps


@with_transfers(1)
def copy(source, target):
    """Copy between arrays of one shape and dtype, of any strides, on the stream of the source."""
    aligned = source.flags.aligned and target.flags.aligned
    size = source.itemsize if aligned else 1
    shape = source.shape if aligned else (*source.shape, source.itemsize)
    source_memory, source_origin, source_steps = _flat_memory(source, size)
    target_memory, target_origin, target_steps = _flat_memory(target, size)
    items = prod(shape)
    wide = is_wide(items, source_memory.nbytes, target_memory.nbytes)
    axes = max(len(shape), 1)
    arguments = source_memory, target_memory, source_origin, target_origin
    padded = (shape or (1,), source_steps or (1,), target_steps or (1,))
    launch(source, columns.copy, (axes,), *arguments, *padded, items, wide=wide)


def _element_strides(cols):
    return tuple(s // cols.itemsize for s in cols.strides)


@with_transfers(1)
def im2col(x, window, fill_value, cols, *, fresh=True):
    geometry, sizes = _geometry(window)
    channels, plane = window.channels, prod(window.size)
    wide = is_wide(x.size, cols.size, *geometry, *sizes, *_extents(window))
    x_steps = (plane * channels, 1, channels) if x.shape[4] > 1 else (plane * channels, plane, 1)
    cols_steps = _element_strides(cols)
    value = np.array(fill_value, x.dtype).view(f"u{x.itemsize}")[()]
    images_last = cols_steps[0] < cols_steps[3]
    by = divisors(*sizes[3:], window.batch if images_last else 1)
    arguments = _as_bits(x), _as_bits(cols), value, sizes, channels, x_steps, cols_steps, by
    items = window.batch * channels * window.positions
    launch(x, columns.im2col, (geometry, images_last), *arguments, items, wide=wide)


@with_transfers(1)
def col2im(cols, window, dx):
    geometry, sizes = _geometry(window)
    wide = is_wide(dx.size, cols.size, *geometry, *sizes, *_extents(window))
    inner, by = dx.shape[4], divisors(*sizes[:3], dx.shape[4])
    arguments = memory(cols), memory(dx), sizes, window.channels, inner, _element_strides(cols), by
    launch(dx, columns.col2im, (geometry,), *arguments, dx.size, wide=wide)


def _elementwise(make, *arguments):
    """Run a kernel on flat arrays, a vector per thread; a scalar among the arguments is passed as it is."""
    x = arguments[0]
    width = _width(x.itemsize)
    passed = [a if isinstance(a, float) else memory(a, width) for a in arguments]
    blocks = -(-x.size // (width * threads_per_block()))
    launch(x, make, (width,), *passed, x.size, wide=is_wide(x.size), blocks=blocks)


@with_transfers(1)
def hard_swish(x, y):
    _elementwise(elementwise.hard_swish, x, y)


@with_transfers(1)
def hard_swish_backward(dy, x, dx):
    _elementwise(elementwise.hard_swish_backward, dy, x, dx)


@with_transfers(1)
def swish(x, beta, y):
    _elementwise(elementwise.swish, x, beta, y)


@with_transfers(1)
def swish_backward(dy, x, beta, dx):
    _elementwise(elementwise.swish_backward, dy, x, beta, dx)
