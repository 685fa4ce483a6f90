"""Pools whose windows are given by tables."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of
from fastpool.backends.numba.plan.call import KernelCall
from fastpool.backends.numba.tiling import by_tables as tiling

Sizes = tuple[int, int, int]  # along depth, height and width
TABLES = np.dtype(np.int64)


def max_pool_by_tables(outer: int, size: Sizes, out: Sizes, inner: int, of_planes: bool, dtype: np.dtype) -> KernelCall:
    """Of arrays (x, y, tables). Each plane has tables of its own if they are `of_planes`."""
    kernel_dtype = kernel_dtype_of(dtype)
    constants = kernel_dtype.half_format, kernel_dtype.lowest
    return _call("max_pool_by_tables", (dtype, dtype, TABLES), constants, outer, size, out, inner, of_planes, dtype)


def locate_by_tables(outer: int, size: Sizes, out: Sizes, inner: int, of_planes: bool, dtype: np.dtype) -> KernelCall:
    """Of arrays (x, y, indices, tables)."""
    kernel_dtype, dtypes = kernel_dtype_of(dtype), (dtype, dtype, np.dtype(np.int64), TABLES)
    constants = kernel_dtype.half_format, kernel_dtype.lowest
    return _call("locate_by_tables", dtypes, constants, outer, size, out, inner, of_planes, None)


def avg_pool_by_tables(outer: int, size: Sizes, out: Sizes, inner: int, of_planes: bool, dtype: np.dtype) -> KernelCall:
    """Of arrays (x, y, tables)."""
    kernel_dtype = kernel_dtype_of(dtype)
    arguments = outer, size, out, inner, of_planes, kernel_dtype.sums.dtype
    return _call(
        "avg_pool_by_tables", (dtype, dtype, TABLES), (kernel_dtype.half_format, kernel_dtype.sums), *arguments
    )


def _call(
    kernel: str,
    dtypes: tuple[np.dtype, ...],
    constants: tuple[Any, ...],
    outer: int,
    size: Sizes,
    out: Sizes,
    inner: int,
    of_planes: bool,
    scratch_dtype: np.dtype | None,
) -> KernelCall:
    tiles = tiling.by_tables(size, out, inner, of_planes, 0 if scratch_dtype is None else scratch_dtype.itemsize)
    cost_bytes = dtypes[0].itemsize * outer * inner * (prod(size) + prod(out))
    items = outer * out[0] * out[1]
    return KernelCall(kernel, dtypes, (*constants, tiles), items, cost_bytes, tiles.scratch_bytes)
