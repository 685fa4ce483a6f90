"""How activations run: element by element."""

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
