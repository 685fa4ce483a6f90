"""Calls that go element by element: activations, and unpooling."""

from __future__ import annotations

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.kernel_dtypes import kernel_dtype_of
from fastpool.backends.numba.plan.call import KernelCall


def activation(kernel: str, dtype: np.dtype, size: int) -> KernelCall:
    """Of arrays (x, y), or (dy, x, dx) for a gradient; and for swish, whose beta may change with each call, (beta,)."""
    dtypes = (dtype,) * (3 if kernel.endswith("_backward") else 2)
    cost = len(dtypes)
    if kernel.startswith("swish"):
        dtypes, cost = (*dtypes, np.dtype(np.float64)), tuning.SWISH_COST
    return KernelCall(kernel, dtypes, (kernel_dtype_of(dtype).half_format,), size, dtype.itemsize * size * cost, 0)


def max_unpool(outer: int, windows: int, cells: int, inner: int, dtype: np.dtype) -> KernelCall:
    """Of arrays (y, indices, x). Elements are only moved, and so viewed as unsigned integers: fewer kernels."""
    bits = np.dtype(f"u{dtype.itemsize}")
    dtypes, cost_bytes = (bits, np.dtype(np.int64), bits), dtype.itemsize * outer * inner * (windows + cells)
    return KernelCall("max_unpool", dtypes, (windows, cells, inner), outer, cost_bytes, 0)
