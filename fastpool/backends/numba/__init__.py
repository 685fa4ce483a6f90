"""Kernels on all CPU cores, built with the package or compiled by Numba on first use: the default backend.

Of the functions that a backend has, see `backends/interface.py`, those of single calls are here, which plan each call
anew: for who has no plan to keep, and for tests.
"""

from __future__ import annotations

from math import prod

from fastpool.backends._passes import run_passes
from fastpool.backends.numba import library, plan
from fastpool.backends.numba.binding import bound, kernel_name
from fastpool.backends.numba.prepared import (
    prepare_argmax_fits,
    prepare_avg_pool,
    prepare_avg_pool_backward,
    prepare_avg_pool_by_tables,
    prepare_col2im,
    prepare_hard_swish,
    prepare_hard_swish_backward,
    prepare_im2col,
    prepare_max_pool,
    prepare_max_pool_backward,
    prepare_max_pool_by_tables,
    prepare_max_unpool,
    prepare_min_pool,
    prepare_swish,
    prepare_swish_backward,
)

__all__ = [
    "argmax_fits",
    "avg_pool",
    "avg_pool_backward",
    "cache_directory",
    "check",
    "col2im",
    "compile_by_name",
    "hard_swish",
    "hard_swish_backward",
    "im2col",
    "kernel_names",
    "max_pool",
    "max_pool_backward",
    "max_unpool",
    "min_pool",
    "prepare_avg_pool",
    "prepare_avg_pool_backward",
    "prepare_avg_pool_by_tables",
    "prepare_col2im",
    "prepare_hard_swish",
    "prepare_hard_swish_backward",
    "prepare_im2col",
    "prepare_max_pool",
    "prepare_max_pool_backward",
    "prepare_max_pool_by_tables",
    "prepare_max_unpool",
    "prepare_min_pool",
    "prepare_swish",
    "prepare_swish_backward",
    "run_passes",
    "swish",
    "swish_backward",
]


def check():
    """Raise if there are no kernels that this processor can run, and no Numba to compile them."""
    try:
        built = library.level()
    except ValueError:
        return  # of FASTPOOL_KERNELS, which the first call raises
    if not built:
        library.compiler()


def max_pool(x, window, y, argmax):
    prepare_max_pool(window, x.shape[0], x.shape[4], x.dtype, argmax is not None)(x, y, argmax)


def min_pool(x, window, y, argmin):
    prepare_min_pool(window, x.shape[0], x.shape[4], x.dtype, argmin is not None)(x, y, argmin)


def max_pool_backward(dy, argmax, window, dx):
    bound(plan.max_pool_backward(window, dx.shape[0], dx.shape[4], dx.dtype))(dy, argmax, dx)


def argmax_fits(argmax, window):
    return prepare_argmax_fits(window, argmax.shape[0], argmax.shape[4], argmax.dtype)(argmax)


def max_unpool(y, indices, x):
    outer, *windows, inner = y.shape
    prepare_max_unpool(outer, prod(windows), prod(x.shape[1:4]), inner, x.dtype)(y, indices, x)


def avg_pool(x, window, divisors, y):
    prepare_avg_pool(window, divisors, x.shape[0], x.shape[4], x.dtype)(x, y)


def avg_pool_backward(dy, window, divisors, dx):
    prepare_avg_pool_backward(window, divisors, dx.shape[0], dx.shape[4], dx.dtype)(dy, dx)


def _in_memory(cols):
    """The columns as a flat array in memory order, and the steps from image to image, channel, tap and position."""
    axes = sorted(range(cols.ndim), key=lambda axis: -cols.strides[axis])
    return cols.transpose(axes).reshape(-1), tuple([stride // cols.itemsize for stride in cols.strides])


def im2col(x, window, fill_value, cols, *, fresh=True):
    flat, steps = _in_memory(cols)
    prepare_im2col(window, x.shape[4] > 1, steps, cols.dtype, fresh)(x, flat, fill_value)


def col2im(cols, window, dx):
    flat, steps = _in_memory(cols)
    prepare_col2im(window, dx.shape[4] > 1, steps, dx.dtype)(flat, dx)


def hard_swish(x, y):
    prepare_hard_swish(x.dtype, x.size)(x, y)


def hard_swish_backward(dy, x, dx):
    prepare_hard_swish_backward(x.dtype, x.size)(dy, x, dx)


def swish(x, beta, y):
    prepare_swish(x.dtype, x.size)(x, y, beta)


def swish_backward(dy, x, beta, dx):
    prepare_swish_backward(x.dtype, x.size)(dy, x, dx, beta)


def cache_directory() -> str:
    """Where kernels that Numba compiles are kept; '' where they are not."""
    return library.compiler().cache_directory()


def kernel_names(everything=True):
    """All kernels that are built with the package, or those of float32 and uint8 with an argmax of bytes."""
    calls = plan.built_calls() if everything else plan.built_calls(plan.WARMUP_DTYPES, plan.WARMUP_ARGMAX_DTYPES)
    return list(dict.fromkeys(map(kernel_name, calls)))


def compile_by_name(name):
    """Have a kernel compiled and kept that was not built with the package; return its name."""
    library.find(name)
    return name
