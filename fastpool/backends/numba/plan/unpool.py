"""How values are put to the cells that indices name."""

from __future__ import annotations

import numpy as np

from fastpool.backends.numba.plan.call import KernelCall


def max_unpool(outer: int, windows: int, cells: int, inner: int, dtype: np.dtype) -> KernelCall:
    """Of arrays (y, indices, x). Elements are only moved, and so viewed as unsigned integers: fewer kernels."""
    bits = np.dtype(f"u{dtype.itemsize}")
    dtypes, cost_bytes = (bits, np.dtype(np.int64), bits), dtype.itemsize * outer * inner * (windows + cells)
    return KernelCall("max_unpool", dtypes, (windows, cells, inner), outer, cost_bytes, 0)
