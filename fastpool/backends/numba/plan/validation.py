"""How the argmax that a gradient is given is validated."""

from __future__ import annotations

import numpy as np

from fastpool.backends.numba import tuning
from fastpool.backends.numba.plan.call import KernelCall
from fastpool.backends.numba.plan.geometry import geometry_of
from fastpool.backends.numba.tiling import validation as tiling
from fastpool.window import Window


def validate_argmax(window: Window, outer: int, inner: int, argmax_dtype: np.dtype) -> KernelCall:
    """Of arrays (argmax, invalid), the latter one byte."""
    g = geometry_of(window, inner)
    tiles = tiling.validate_argmax(g, argmax_dtype.itemsize)
    constants = tiles, *tiling.axes_to_validate(g, argmax_dtype.itemsize)
    dtypes = argmax_dtype, np.dtype(np.uint8)
    cost_bytes = tuning.VALIDATION_COST * argmax_dtype.itemsize * outer * inner * window.positions
    return KernelCall("validate_argmax", dtypes, constants, outer, cost_bytes, tiles.scratch_bytes)
