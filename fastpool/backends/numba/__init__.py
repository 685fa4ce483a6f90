"""Kernels on all CPU cores, compiled by Numba on first use: the default where Numba is installed."""

from __future__ import annotations

import ctypes

import numpy as np

from fastpool.arrays import is_bfloat16, is_half, lowest
from fastpool.backends.numba import columns, elementwise, pool
from fastpool.backends.numba.compilation import cache_directory
from fastpool.backends.numba.threads import launch, threading_layer

__all__ = [
    "cache_directory",
    "col2im",
    "hard_swish",
    "hard_swish_backward",
    "im2col",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "swish",
    "swish_backward",
    "threading_layer",
    "warmup_tasks",
]

FLOAT16_INFINITY, BFLOAT16_INFINITY = np.int16(0x7C00), np.int16(0x7F80)


def _infinity(dtype):
    """How the kernels tell the two-byte floats from numbers and from each other: by the bits of +inf."""
    if not is_half(dtype):
        return None
    return BFLOAT16_INFINITY if is_bfloat16(dtype) else FLOAT16_INFINITY


def _flat(a):
    """One flat view in a dtype that Numba knows: bool as uint8, two-byte floats as int16."""
    a = _typed_alike(a).reshape(-1)
    if a.dtype.kind == "b":
        return a.view(np.uint8)
    return a.view(np.int16) if is_half(a.dtype) else a


def _typed_alike(a):
    """The array, as a writeable one, since Numba would compile every kernel again for a read-only input."""
    if a.flags.writeable or a.size == 0:
        return a
    memory = (ctypes.c_ubyte * a.nbytes).from_address(a.ctypes.data)
    return np.frombuffer(memory, np.uint8).view(a.dtype).reshape(a.shape)


def _lowest(dtype):
    """The lowest value as the kernels compare it."""
    value = np.array([lowest(dtype)], dtype)
    key = _flat(value)[0]
    return np.int16(key ^ np.int16(0x7FFF)) if is_half(dtype) else key


def max_pool(x, window, y, argmax):
    inner = x.shape[4]
    rows, columns = block = _block(window, inner)
    units = x.shape[0] * window.out[0] * -(-window.out[1] // rows) * -(-window.out[2] // columns)
    offsets = None if argmax is None else _flat(argmax)
    numbers, infinity, least = window.numbers, _infinity(x.dtype), _lowest(x.dtype)
    arguments = (_flat(x), _flat(y), offsets, infinity, least, numbers, inner, block)
    launch(pool.max_pool, pool.max_pool_parallel, units, x.nbytes + y.nbytes, *arguments)


def _block(window, inner):
    """How many windows, rows by columns, to take at once: their cells fit into the cache and overlap little with the next."""
    _, high, wide = ((k - 1) * d // s for k, d, s in zip(window.kernel, window.dilation, window.stride, strict=True))
    _, sh, sw = window.stride
    columns = min(max(pool.BLOCK // (inner * sw), wide, 1), window.out[2])
    rows = min(max(pool.BLOCK // ((columns + wide) * inner * sw * sh), high, 1), window.out[1])
    return rows, columns


def max_pool_backward(dy, argmax, window, dx):
    rows = dx.shape[0] * window.size[0] * window.size[1]
    arguments = (_flat(dy), _flat(argmax), _flat(dx), _infinity(dx.dtype), window.numbers, dx.shape[4])
    one_wide = (window.kernel[2], window.stride[2], window.before[2], window.out[2]) == (1, 1, 0, window.size[2])
    run = pool.max_pool_backward, pool.max_pool_backward_parallel
    if one_wide:
        run = pool.max_pool_backward_by_rows, pool.max_pool_backward_by_rows_parallel
    launch(*run, rows, dx.nbytes + dy.nbytes, *arguments)


def max_unpool(y, indices, x):
    planes, inner = x.shape[0], x.shape[4]
    arguments = (
        _flat(y).reshape(planes, -1, inner),
        _typed_alike(indices).reshape(planes, -1, inner),
        _flat(x).reshape(planes, -1, inner),
    )
    launch(pool.max_unpool, pool.max_unpool_parallel, planes, x.nbytes + y.nbytes, *arguments)


def _movable(a):
    """Numbers as bits, for what only moves them: fewer kernels."""
    return a.view(f"u{a.dtype.itemsize}")


def _column_steps(cols):
    """The columns flat, and how far apart images, channels, taps and positions lie in them."""
    steps = tuple(s // cols.itemsize for s in cols.strides)
    if steps[3] == 1 or cols.flags.c_contiguous:
        return cols.reshape(-1), steps
    return cols.transpose(1, 2, 3, 0).reshape(-1), steps


def im2col(x, window, fill_value, cols):
    inside, plane = x.shape[4] > 1, window.size[0] * window.size[1] * window.size[2]
    channels = window.channels
    x_steps = (plane * channels, 1, channels) if inside else (plane * channels, plane, 1)
    flat, cols_steps = _column_steps(_movable(cols))
    units = channels * window.volume * (1 if cols_steps[3] > 1 else window.batch)
    value = _movable(np.array([fill_value], cols.dtype))[0]
    arguments = (_typed_alike(_movable(x)).reshape(-1), flat, value, window.numbers, x_steps, cols_steps, window.batch, channels)
    launch(columns.im2col, columns.im2col_parallel, units, x.nbytes + cols.nbytes, *arguments)


def col2im(cols, window, dx):
    flat, cols_steps = _column_steps(cols)
    rows = dx.shape[0] * window.size[0] * window.size[1]
    infinity, inner = _infinity(dx.dtype), dx.shape[4]
    arguments = (_flat(flat), _flat(dx), infinity, window.numbers, cols_steps, window.channels, inner)
    launch(columns.col2im, columns.col2im_parallel, rows, dx.nbytes + cols.nbytes, *arguments)


def hard_swish(x, y):
    arguments = (_flat(x), _flat(y), _infinity(x.dtype))
    launch(elementwise.hard_swish, elementwise.hard_swish_parallel, x.size, 2 * x.nbytes, *arguments)


def hard_swish_backward(dy, x, dx):
    run = elementwise.hard_swish_backward, elementwise.hard_swish_backward_parallel
    launch(*run, x.size, 3 * x.nbytes, _flat(dy), _flat(x), _flat(dx), _infinity(x.dtype))


def swish(x, beta, y):
    arguments = (_flat(x), beta, _flat(y), _infinity(x.dtype))
    launch(elementwise.swish, elementwise.swish_parallel, x.size, 2 * x.nbytes, *arguments)


def swish_backward(dy, x, beta, dx):
    run = elementwise.swish_backward, elementwise.swish_backward_parallel
    launch(*run, x.size, 3 * x.nbytes, _flat(dy), _flat(x), beta, _flat(dx), _infinity(x.dtype))


def warmup_tasks():
    """What to call to have every usual kernel compiled and kept: (name, function) pairs."""
    return []
