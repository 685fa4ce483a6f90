"""The constants of kernels that depend on a dtype. `encoding.dtype_code` decides how they see the dtype itself."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from fastpool._rules import half_key
from fastpool.backends.numba.encoding import DtypeOnly
from fastpool.dtypes import half_format, is_float, lowest, sum_dtype


class KernelDtype(NamedTuple):
    half_format: np.int16 | None  # of a two-byte float
    lowest: np.generic  # the lowest value, as kernels compare it
    flip: np.generic  # the bits of a value to flip to reverse the order of all values: see `simd/keys.py`
    sums: DtypeOnly  # the dtype of sums


@cache
def kernel_dtype_of(dtype: np.dtype) -> KernelDtype:
    value, sums = np.array([lowest(dtype)], dtype), DtypeOnly(np.dtype(sum_dtype(dtype)))
    unsigned = np.dtype(f"u{dtype.itemsize}").type
    if dtype.kind == "b":
        return KernelDtype(None, np.uint8(0), unsigned(1), sums)
    bits, all_bits = half_format(dtype), np.iinfo(unsigned).max
    flip = unsigned(all_bits // 2 + 1 if is_float(dtype) else all_bits)
    if bits is None:
        return KernelDtype(None, value[0], flip, sums)
    key = np.int16(half_key(value.view(np.int16)[0], np.int16(bits)))
    return KernelDtype(np.int16(bits), key, flip, sums)
