"""The kernels that are built with the package, or compiled by a warm-up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.geometry import VECTOR_BYTES
from fastpool.backends.numba.plan.activations import activation
from fastpool.backends.numba.plan.average import avg_pool, avg_pool_backward
from fastpool.backends.numba.plan.backward import max_pool_backward
from fastpool.backends.numba.plan.by_tables import avg_pool_by_tables, locate_by_tables, max_pool_by_tables
from fastpool.backends.numba.plan.call import KernelCall
from fastpool.backends.numba.plan.columns import col2im, im2col
from fastpool.backends.numba.plan.forward import max_pool
from fastpool.backends.numba.plan.unpool import max_unpool
from fastpool.backends.numba.plan.validation import validate_argmax
from fastpool.window import Window

# bool has the kernels of uint8, and bfloat16 those of float16.
BUILT_DTYPES = tuple(map(np.dtype, ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")))
BUILT_ARGMAX_DTYPES = tuple(map(np.dtype, ("u1", "u2", "u4")))

# A warm-up compiles only these, unless it is asked for all.
WARMUP_DTYPES = tuple(map(np.dtype, ("u1", "f4")))
WARMUP_ARGMAX_DTYPES = tuple(map(np.dtype, ("u1",)))


def built_calls(
    dtypes: tuple[np.dtype, ...] = BUILT_DTYPES, argmax_dtypes: tuple[np.dtype, ...] = BUILT_ARGMAX_DTYPES
) -> Iterator[KernelCall]:
    """A call of each kernel that is built, for these dtypes of arrays and of an argmax."""
    one, of_two_taps = Window.plan(1, (1,), 1), Window.plan(1, (2,), 2)
    column, row = (1, 1, 1, 1), (2, 2, 1, 2)  # steps of columns from image to image, channel, tap and position
    for argmax_dtype in argmax_dtypes:
        yield validate_argmax(one, 1, 1, argmax_dtype)
    for itemsize in sorted({dtype.itemsize for dtype in dtypes}):
        yield im2col(one, False, column, itemsize, True)
        yield im2col(of_two_taps, False, row, itemsize, True)
    for dtype in dtypes:
        yield from _forward_calls(dtype, argmax_dtypes)
        yield max_unpool(1, 1, 1, 1, dtype)
        for by_tables in (max_pool_by_tables, locate_by_tables):
            yield by_tables(1, (1, 1, 1), (1, 1, 1), 1, False, dtype)
        yield col2im(one, False, column, dtype)
        yield col2im(of_two_taps, False, row, dtype)
        if dtype.kind == "f":
            yield from _float_calls(dtype, argmax_dtypes)


def _forward_calls(dtype: np.dtype, argmax_dtypes: tuple[np.dtype, ...]) -> Iterator[KernelCall]:
    least_tall, least_wide = tuning.LEAST_TALL, tuning.LEAST_WIDE
    separable = Window.plan(1, (1,), 1)
    tall = Window.plan(2, (2 * least_tall, least_wide), least_tall, 1, least_tall // 2)
    direct = Window.plan(1, (VECTOR_BYTES,), VECTOR_BYTES)
    for window in (separable, tall, direct):
        for argmax_dtype in (None, *argmax_dtypes):
            yield max_pool(window, 1, 1, dtype, argmax_dtype, 1)


def _float_calls(dtype: np.dtype, argmax_dtypes: tuple[np.dtype, ...]) -> Iterator[KernelCall]:
    nonoverlapping = Window.plan(1, (1,), 1)
    overlapping, of_many_taps = (Window.plan(1, (1,), k, padding=k // 2) for k in (3, tuning.MOST_GATHERED + 1))
    for window in (nonoverlapping, overlapping, of_many_taps):
        for argmax_dtype in argmax_dtypes:
            yield max_pool_backward(window, 1, 1, dtype)._replace(dtypes=(dtype, argmax_dtype, dtype))
    for average in (avg_pool, avg_pool_backward):
        yield average(nonoverlapping, nonoverlapping.divisors(True, None), 1, 1, dtype)
    yield avg_pool_by_tables(1, (1, 1, 1), (1, 1, 1), 1, False, dtype)
    for kernel in ("hard_swish", "hard_swish_backward", "swish", "swish_backward"):
        yield activation(kernel, dtype, 1)
