"""Calls that go element by element: activations, and unpooling."""

from __future__ import annotations

import numpy as np

from fastpool.backends.numba.dtypes import seen_by_kernels
from fastpool.backends.numba.plan.call import Plan


def activation(kernel: str, dtype: np.dtype, size: int, beta: float | None = None) -> Plan:
    """Of arrays (x, y), or (dy, x, dx) for a gradient."""
    dtypes = (dtype,) * (3 if kernel.endswith("_backward") else 2)
    # An exponential takes as long as moving some bytes more.
    moved = dtype.itemsize * size * (len(dtypes) if beta is None else 8)
    half_format = seen_by_kernels(dtype).half_format
    constants = (half_format,) if beta is None else (beta, half_format)
    return Plan(kernel, dtypes, constants, size, moved, 0)


def max_unpool(outer: int, windows: int, cells: int, inner: int, dtype: np.dtype) -> Plan:
    """Of arrays (y, indices, x). Elements are only moved, and so seen as unsigned integers: fewer kernels."""
    bits = np.dtype(f"u{dtype.itemsize}")
    dtypes, moved = (bits, np.dtype(np.int64), bits), dtype.itemsize * outer * inner * (windows + cells)
    return Plan("max_unpool", dtypes, (windows, cells, inner), outer, moved, 0)
